package main

import (
	"encoding/binary"
	"fmt"
	"net"
	"time"

	"github.com/umlvde/umlvde/internal/mmsg"
	"golang.org/x/sys/unix"
)

// All of this happens in the benchmark's own network namespace.

func tapName(id string) string  { return "t" + id }
func tapVNL(id string) string   { return "tap://" + tapName(id) }
func vxvdeVNL(id string) string { return "vxvde://239.7." + idNumber(id) }
func htons(n uint16) uint16     { return n<<8 | n>>8 }
func idNumber(id string) string { return fmt.Sprintf("%d.%d", id[0]-'a', id[1]-'a') }
func setBuffers(fd, n int) (e error) {
	for _, opt := range []int{unix.SO_RCVBUFFORCE, unix.SO_SNDBUFFORCE} {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, opt, n); err != nil {
			e = fmt.Errorf("socket buffers: %w", err)
		}
	}
	return e
}

// tapBefore makes a tap device.
func tapBefore(l *link, id string) error {
	name := tapName(id)
	if err := run("ip", "tuntap", "add", "dev", name, "mode", "tap"); err != nil {
		return err
	}
	l.ends = append(l.ends, closer(func() error { return run("ip", "link", "del", name) }))
	return run("ip", "link", "set", name, "mtu", "9000", "up")
}

// tapAfter opens a packet socket on the host's side of the tap.
func tapAfter(l *link, id string) error {
	dev, err := net.InterfaceByName(tapName(id))
	if err != nil {
		return err
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("packet socket: %w", err)
	}
	l.far = &socketPort{sock: fd}
	if err := setBuffers(fd, 16<<20); err != nil {
		return err
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1); err != nil {
		return fmt.Errorf("PACKET_IGNORE_OUTGOING: %w", err)
	}
	return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: htons(etherType), Ifindex: dev.Index})
}

// What slirp's own network looks like.
var (
	slirpGuest = [4]byte{10, 0, 2, 15}
	slirpHost  = [4]byte{10, 0, 2, 2} // stands for 127.0.0.1
)

const ipUDPLen = 20 + 8

// slirpAfter opens the UDP socket that the guest's datagrams go to, and makes
// slirp know the guest.
func slirpAfter(l *link, _ string) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("udp socket: %w", err)
	}
	l.far = &socketPort{sock: fd}
	if err := setBuffers(fd, 16<<20); err != nil {
		return err
	}
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		return fmt.Errorf("bind: %w", err)
	}
	port := boundPort(fd)
	b, err := mmsg.NewBatch()
	if err != nil {
		return err
	}
	defer b.Free()
	first := slirpFrame(l.slirpMAC, port, noiseAt)
	return eventually(5*time.Second, "slirp passes a datagram", func() bool {
		b.Clear()
		b.Append(arpRequest())
		b.Append(append(first, make([]byte, noiseAt)...))
		_ = l.guest.send(b) // it is tried again
		if l.guest.recv(b) == nil {
			for i := range b.Len() {
				if f := b.Frame(i); len(f) >= 42 && f[12] == 8 && f[13] == 6 {
					copy(l.slirpMAC[:], f[6:12])
					first = slirpFrame(l.slirpMAC, port, noiseAt)
				}
			}
		}
		var buf [2048]byte
		_, from, err := unix.Recvfrom(fd, buf[:], 0)
		return err == nil && unix.Connect(fd, from) == nil
	})
}

// boundPort is the port that an IPv4 socket is bound to, 0 if it is not.
func boundPort(fd int) uint16 {
	sa, _ := unix.Getsockname(fd) // nil is no address
	if in, ok := sa.(*unix.SockaddrInet4); ok {
		return uint16(in.Port)
	}
	return 0
}

// slirpHeaders are those of a UDP datagram to the host; what comes back is
// told apart by its payload.
func slirpHeaders(l *link) headers {
	port := boundPort(l.far.fd())
	return headers{
		guest:   slirpFrame(l.slirpMAC, port, 0),
		atGuest: etherLen + ipUDPLen, farMore: -(etherLen + ipUDPLen),
	}
}

// slirpFrame is the header of a frame with a UDP datagram of n bytes. With n 0
// the lengths are left for later.
func slirpFrame(mac [6]byte, port uint16, n int) []byte {
	f := ether(mac, guestMAC, 0x0800)
	ip := make([]byte, ipUDPLen)
	ip[0], ip[8], ip[9] = 0x45, 64, unix.IPPROTO_UDP
	copy(ip[12:], slirpGuest[:])
	copy(ip[16:], slirpHost[:])
	binary.BigEndian.PutUint16(ip[20:], 4000)
	binary.BigEndian.PutUint16(ip[22:], port)
	f = append(f, ip...)
	if n > 0 {
		setLengths(f, len(f)+n)
	}
	return f
}

// setLengths completes the header of a slirpFrame for a frame of n bytes; the
// datagram has no checksum of its own.
func setLengths(f []byte, n int) {
	ip := f[etherLen:]
	binary.BigEndian.PutUint16(ip[2:], uint16(n-etherLen))
	binary.BigEndian.PutUint16(ip[24:], uint16(n-etherLen-20))
	ip[10], ip[11] = 0, 0
	sum := uint32(0)
	for i := 0; i < 20; i += 2 {
		sum += uint32(binary.BigEndian.Uint16(ip[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	binary.BigEndian.PutUint16(ip[10:], ^uint16(sum))
}

func arpRequest() []byte {
	f := ether([6]byte{255, 255, 255, 255, 255, 255}, guestMAC, 0x0806)
	f = append(f, 0, 1, 8, 0, 6, 4, 0, 1)
	f = append(append(f, guestMAC[:]...), slirpGuest[:]...)
	return append(append(f, 0, 0, 0, 0, 0, 0), slirpHost[:]...)
}
