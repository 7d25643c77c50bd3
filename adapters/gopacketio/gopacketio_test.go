package gopacketio_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/umlvde/umlvde/adapters/gopacketio"
	"github.com/umlvde/umlvde/internal/leak"
	"github.com/umlvde/umlvde/internal/rig"
	"github.com/umlvde/umlvde/libvdeplug"
	"github.com/umlvde/umlvde/libvdeplug/faultplug"
	"github.com/umlvde/umlvde/libvdeplug/vdetest"
)

// TestMain fails if the tests leave descriptors or goroutines behind.
func TestMain(m *testing.M) { os.Exit(leak.Main(m)) }

const soon = 10 * time.Second

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// arpRequest is a frame in which somebody asks for 10.0.0.n.
func arpRequest(n byte) []byte {
	mac := net.HardwareAddr{2, 0, 0, 0, 0, n}
	buf := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{},
		&layers.Ethernet{SrcMAC: mac, DstMAC: layers.EthernetBroadcast, EthernetType: layers.EthernetTypeARP},
		&layers.ARP{
			AddrType: layers.LinkTypeEthernet, Protocol: layers.EthernetTypeIPv4, HwAddressSize: 6, ProtAddressSize: 4,
			Operation: layers.ARPRequest, SourceHwAddress: mac, SourceProtAddress: []byte{10, 0, 0, 99},
			DstHwAddress: make([]byte, 6), DstProtAddress: []byte{10, 0, 0, n},
		}); err != nil {
		panic(err)
	}
	return buf.Bytes()
}

// Packets written to one port of a switch are read and decoded at another, until
// the switch dies.
func TestSwitch(t *testing.T) {
	dir := filepath.Join(rig.TempDir(t), "s")
	p := rig.Switch(t, dir)
	var handles []*gopacketio.Handle
	for range 2 {
		c, err := libvdeplug.Open("vde://"+dir, nil)
		must(t, err)
		defer c.Close()
		handles = append(handles, gopacketio.New(c))
	}
	packets := gopacket.NewPacketSource(handles[1], layers.LayerTypeEthernet).Packets()
	start := time.Now()
	for i := range byte(100) {
		must(t, handles[0].WritePacketData(arpRequest(i)))
		packet := <-packets
		arp, ok := packet.Layer(layers.LayerTypeARP).(*layers.ARP)
		if !ok || !bytes.Equal(arp.DstProtAddress, []byte{10, 0, 0, i}) {
			t.Fatalf("packet %d is %v", i, packet)
		}
		if m := packet.Metadata(); m.Length != 60 || m.CaptureLength != 60 || m.Timestamp.Before(start) || time.Now().Before(m.Timestamp) {
			t.Errorf("packet %d: %+v", i, m)
		}
	}
	p.Signal(syscall.SIGKILL)
	if packet, ok := <-packets; ok {
		t.Errorf("after the end came %v", packet)
	}
}

// Each read has memory of its own, unless that is not asked for.
func TestMemory(t *testing.T) {
	far, near := vdetest.Pair()
	defer far.Close()
	defer near.Close()
	h := gopacketio.New(near)
	for i := range byte(4) {
		_, err := far.Write(arpRequest(i))
		must(t, err)
	}
	first, _, err := h.ReadPacketData()
	must(t, err)
	second, _, err := h.ReadPacketData()
	must(t, err)
	if !bytes.Equal(first, arpRequest(0)) || !bytes.Equal(second, arpRequest(1)) {
		t.Errorf("read % x and % x", first, second)
	}
	third, _, err := h.ZeroCopyReadPacketData()
	must(t, err)
	fourth, _, err := h.ZeroCopyReadPacketData()
	must(t, err)
	if &third[0] != &fourth[0] || !bytes.Equal(fourth, arpRequest(3)) {
		t.Errorf("read % x into other memory than % x", fourth, third)
	}
}

// A PacketSource ends with its network, with Close and with the deadline.
func TestEnd(t *testing.T) {
	for name, end := range map[string]func(far, near *vdetest.Conn) error{
		"far end closed": func(far, _ *vdetest.Conn) error { return far.Close() },
		"closed":         func(_, near *vdetest.Conn) error { return near.Close() },
		"deadline":       func(_, near *vdetest.Conn) error { return near.SetReadDeadline(time.Unix(1, 0)) },
	} {
		t.Run(name, func(t *testing.T) {
			far, near := vdetest.Pair()
			defer far.Close()
			defer near.Close()
			h := gopacketio.New(near)
			packets := gopacket.NewPacketSource(h, layers.LayerTypeEthernet).Packets()
			must(t, h.WritePacketData(arpRequest(1)))
			must(t, end(far, near))
			select {
			case packet, ok := <-packets:
				if ok {
					t.Errorf("a packet: %v", packet)
				}
			case <-time.After(soon):
				t.Fatal("it goes on")
			}
			if _, _, err := h.ReadPacketData(); !errors.Is(err, io.EOF) {
				t.Errorf("then: %v", err)
			}
		})
	}
}

// A PacketSource ends when the plugin fails, and the Handle says why.
func TestFailure(t *testing.T) {
	network := faultplug.New(t)
	name, value, _ := strings.Cut(network.Env(), "=")
	t.Setenv(name, value)
	conn, err := libvdeplug.Open(network.VNL(), nil)
	must(t, err)
	defer conn.Close()
	h := gopacketio.New(conn)
	packets := gopacket.NewPacketSource(h, layers.LayerTypeEthernet).Packets()
	network.Set(t, faultplug.RecvFail)
	must(t, h.WritePacketData(arpRequest(1))) // would come back
	select {
	case packet, ok := <-packets:
		if ok {
			t.Errorf("a packet: %v", packet)
		}
	case <-time.After(soon):
		t.Fatal("it goes on")
	}
	var op *libvdeplug.OpError
	if err := h.Err(); !errors.Is(err, io.EOF) || !errors.As(err, &op) || op.Op != "read" {
		t.Errorf("it ended with %v", err)
	}
}

// FuzzFrames reads, decodes and writes back frames of any size and contents.
func FuzzFrames(f *testing.F) {
	f.Add(arpRequest(1), uint16(0))
	f.Add([]byte{}, uint16(14))
	f.Add([]byte("\xff\xff\xff\xff\xff\xff\x02\x00\x00\x00\x00\x01\x81\x00\x00\x07\x08\x00\x45"), uint16(9234))
	f.Fuzz(func(t *testing.T, start []byte, more uint16) {
		frame := append(start, make([]byte, more)...)
		far, near := vdetest.Pair()
		defer near.Close()
		defer far.Close()
		_, err := far.Write(frame)
		h := gopacketio.New(near)
		if err != nil {
			if err = h.WritePacketData(frame); !errors.Is(err, libvdeplug.ErrFrameSize) {
				t.Fatal(err)
			}
			return
		}
		packet, err := gopacket.NewPacketSource(h, layers.LayerTypeEthernet).NextPacket()
		must(t, err)
		if !bytes.Equal(packet.Data(), frame) {
			t.Fatalf("% x came as % x", frame, packet.Data())
		}
		must(t, h.WritePacketData(packet.Data()))
		back := make([]byte, len(frame))
		if n, err := far.Read(back); n != len(frame) || err != nil || !bytes.Equal(back, frame) {
			t.Fatalf("% x came back as % x, %v", frame, back[:n], err)
		}
	})
}

// Who asks for whom.
func Example() {
	conn, others := vdetest.Pair() // or libvdeplug.Open("vde:///run/vde.ctl", nil)
	if _, err := others.Write(arpRequest(7)); err != nil {
		panic(err)
	}
	others.Close()

	source := gopacket.NewPacketSource(gopacketio.New(conn), layers.LayerTypeEthernet)
	for packet := range source.Packets() {
		if arp, ok := packet.Layer(layers.LayerTypeARP).(*layers.ARP); ok {
			fmt.Println("who has", net.IP(arp.DstProtAddress), "asks", net.HardwareAddr(arp.SourceHwAddress))
		}
	}
	conn.Close()
	// Output: who has 10.0.0.7 asks 02:00:00:00:00:07
}
