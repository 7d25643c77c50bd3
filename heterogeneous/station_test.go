package heterogeneous

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/umlvde/umlvde/libvdeplug"
)

// A station is a machine on a VDE network that is nothing but a Go program: it
// answers ARP and ICMP echo requests for its address, and sends its own. A
// packet that it sends fits into a frame.
type station struct {
	conn *libvdeplug.Conn
	mac  [6]byte
	ip   [4]byte
	arps chan []byte // ARP replies to it
	pong chan []byte // what came back in ICMP echo replies
}

// stationMain is the program: it is told its VNL, address and network mask, and
// does what it reads, "ID ping ADDRESS PAYLOAD COUNT".
func stationMain(vnl, address string) error {
	conn, err := libvdeplug.Open(vnl, &libvdeplug.Options{Descr: "station"})
	if err != nil {
		return err
	}
	ip, err := netip.ParseAddr(address)
	if err != nil {
		return err
	}
	s := &station{conn: conn, ip: ip.As4(), arps: make(chan []byte, 16), pong: make(chan []byte, 16)}
	s.mac = [6]byte{2, 0, s.ip[0], s.ip[1], s.ip[2], s.ip[3]}
	read := make(chan error, 1)
	go func() { read <- s.serve() }()
	fmt.Println("guest is up")
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		id, command, _ := strings.Cut(in.Text(), " ")
		status := 0
		if err := s.do(command); err != nil {
			fmt.Println(err)
			status = 1
		}
		fmt.Printf("guest did %s: %d\n", id, status)
	}
	return errors.Join(conn.Close(), <-read)
}

func (s *station) do(command string) error {
	var (
		to       string
		n, count int
	)
	if _, err := fmt.Sscanf(command, "ping %s %d %d", &to, &n, &count); err != nil {
		return fmt.Errorf("%s: %w", command, err)
	}
	ip, err := netip.ParseAddr(to)
	if err != nil {
		return err
	}
	return s.ping(ip.As4(), n, count)
}

// serve answers, and hands on what is an answer, until the plug is closed.
func (s *station) serve() error {
	frame := make([]byte, libvdeplug.MaxFrameSize)
	for {
		n, err := s.conn.Read(frame)
		if err != nil {
			return nil
		}
		if err := s.take(frame[:n]); err != nil {
			return err
		}
	}
}

const (
	typeIPv4 = 0x0800
	typeARP  = 0x0806
)

func (s *station) take(f []byte) error {
	switch kind := binary.BigEndian.Uint16(f[12:]); {
	case kind == typeARP && len(f) >= 42 && [4]byte(f[38:]) == s.ip:
		if f[21] == 2 {
			offer(s.arps, f[:42])
			return nil
		}
		_, err := s.conn.Write(s.arp(2, [6]byte(f[22:]), [4]byte(f[28:])))
		return err
	case kind == typeIPv4 && len(f) >= 42 && f[14] == 0x45 && f[23] == 1 && [4]byte(f[30:]) == s.ip:
		length := int(binary.BigEndian.Uint16(f[16:]))
		if len(f) < 14+length || length < 28 || checksum(f[34:14+length]) != 0 {
			return nil // a host drops what is damaged
		}
		echo := f[34 : 14+length]
		if echo[0] == 0 {
			offer(s.pong, echo[8:])
			return nil
		}
		_, err := s.conn.Write(s.icmp(0, [6]byte(f[6:]), [4]byte(f[26:]), echo[4:8], echo[8:]))
		return err
	}
	return nil
}

// offer hands on a copy, unless nobody has taken the last ones.
func offer(c chan []byte, b []byte) {
	select {
	case c <- bytes.Clone(b):
	default:
	}
}

// ping sends echo requests of n random bytes, and wants each of them back.
func (s *station) ping(to [4]byte, n, count int) error {
	mac, err := s.resolve(to)
	if err != nil {
		return err
	}
	payload := make([]byte, n)
	for i := range count {
		if _, err := rand.Read(payload); err != nil {
			return err
		}
		if _, err := s.conn.Write(s.icmp(8, mac, to, []byte{0, 1, 0, byte(i)}, payload)); err != nil {
			return err
		}
		select {
		case got := <-s.pong:
			if !bytes.Equal(got, payload) {
				return fmt.Errorf("packet %d came back as other %d bytes", i, len(got))
			}
		case <-time.After(2 * time.Second):
			return fmt.Errorf("packet %d of %d bytes did not come back", i, n)
		}
	}
	return nil
}

// resolve asks who has an address, up to five times.
func (s *station) resolve(ip [4]byte) (mac [6]byte, err error) {
	for range 5 {
		if _, err := s.conn.Write(s.arp(1, [6]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, ip)); err != nil {
			return mac, err
		}
		select {
		case f := <-s.arps:
			if [4]byte(f[28:]) == ip {
				return [6]byte(f[22:]), nil
			}
		case <-time.After(time.Second):
		}
	}
	return mac, fmt.Errorf("no answer to ARP requests for %v", ip)
}

// header makes the header of a frame to mac.
func (s *station) header(mac [6]byte, kind uint16) []byte {
	f := append(append(make([]byte, 0, 60), mac[:]...), s.mac[:]...)
	return binary.BigEndian.AppendUint16(f, kind)
}

func (s *station) arp(operation byte, mac [6]byte, ip [4]byte) []byte {
	f := append(s.header(mac, typeARP), 0, 1, 8, 0, 6, 4, 0, operation)
	f = append(append(f, s.mac[:]...), s.ip[:]...)
	return append(append(f, mac[:]...), ip[:]...)
}

func (s *station) icmp(kind byte, mac [6]byte, ip [4]byte, id, payload []byte) []byte {
	f := append(s.header(mac, typeIPv4), 0x45, 0)
	f = binary.BigEndian.AppendUint16(f, uint16(28+len(payload)))
	f = append(f, 0, 0, 0x40, 0, 64, 1, 0, 0)
	f = append(append(f, s.ip[:]...), ip[:]...)
	binary.BigEndian.PutUint16(f[24:], checksum(f[14:34]))
	f = append(append(f, kind, 0, 0, 0), id...)
	f = append(f, payload...)
	binary.BigEndian.PutUint16(f[36:], checksum(f[34:]))
	return f
}

// checksum is that of IP (RFC 1071).
func checksum(b []byte) uint16 {
	var sum uint32
	for ; len(b) > 1; b = b[2:] {
		sum += uint32(binary.BigEndian.Uint16(b))
	}
	if len(b) == 1 {
		sum += uint32(b[0]) << 8
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
