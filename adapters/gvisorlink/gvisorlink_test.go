package gvisorlink_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/umlvde/umlvde/adapters/gvisorlink"
	"github.com/umlvde/umlvde/internal/leak"
	"github.com/umlvde/umlvde/internal/rig"
	"github.com/umlvde/umlvde/libvdeplug"
	"github.com/umlvde/umlvde/libvdeplug/vdetest"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
)

// TestMain fails if the tests leave descriptors or goroutines behind.
func TestMain(m *testing.M) { os.Exit(leak.Main(m)) }

const soon = 30 * time.Second

// A host has the address 10.0.0.n on a network.
type host struct {
	*stack.Stack
	link *gvisorlink.Endpoint
	addr tcpip.FullAddress
}

func newHost(t testing.TB, conn gvisorlink.Conn, n byte, o *gvisorlink.Options) *host {
	t.Helper()
	link := gvisorlink.New(conn, o)
	s, err := gvisorlink.NewStack(link, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, 0, n}), 24))
	must(t, err)
	h := &host{s, link, tcpip.FullAddress{NIC: gvisorlink.NIC, Addr: tcpip.AddrFrom4([4]byte{10, 0, 0, n}), Port: 7}}
	t.Cleanup(h.Destroy)
	return h
}

func check(t testing.TB, err tcpip.Error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// within fails the test if f takes too long.
func within(t testing.TB, what string, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	select {
	case <-done:
	case <-time.After(soon):
		t.Fatalf("%s does not end", what)
	}
}

// networks are what two hosts may be joined by.
var networks = map[string]func(t testing.TB) (a, b gvisorlink.Conn){
	"vde_switch": func(t testing.TB) (a, b gvisorlink.Conn) {
		dir := filepath.Join(rig.TempDir(t), "s")
		rig.Switch(t, dir)
		return open(t, "vde://"+dir), open(t, "vde://"+dir)
	},
	"ptp": func(t testing.TB) (a, b gvisorlink.Conn) {
		vnl := "ptp://" + filepath.Join(rig.TempDir(t), "p")
		return open(t, vnl), open(t, vnl)
	},
	"vdetest.Pair": func(testing.TB) (a, b gvisorlink.Conn) { return vdetest.Pair() },
	"vdetest.Switch": func(testing.TB) (a, b gvisorlink.Conn) {
		var s vdetest.Switch
		return s.Plug(), s.Plug()
	},
}

func open(t testing.TB, vnl string) *libvdeplug.Conn {
	t.Helper()
	c, err := libvdeplug.Open(vnl, nil)
	must(t, err)
	return c
}

// A megabyte to an echo server and back comes whole.
func TestTCP(t *testing.T) {
	for name, join := range networks {
		t.Run(name, func(t *testing.T) {
			ca, cb := join(t)
			a, b := newHost(t, ca, 1, nil), newHost(t, cb, 2, nil)
			l, err := gonet.ListenTCP(b.Stack, b.addr, ipv4.ProtocolNumber)
			must(t, err)
			served := make(chan error, 1)
			go func() {
				defer l.Close()
				c, err := l.Accept()
				if err == nil {
					defer c.Close()
					_, err = io.Copy(c, c)
				}
				served <- err
			}()
			ctx, cancel := context.WithTimeout(context.Background(), soon)
			defer cancel()
			c, err := gonet.DialContextTCP(ctx, a.Stack, b.addr, ipv4.ProtocolNumber)
			must(t, err)
			defer c.Close()
			must(t, c.SetDeadline(time.Now().Add(soon)))
			sent := bytes.Repeat([]byte("All work and no play. "), 1<<20/22)
			go func() {
				_, err := c.Write(sent)
				if err == nil {
					err = c.CloseWrite()
				}
				if err != nil {
					t.Error(err)
				}
			}()
			got, err := io.ReadAll(c)
			must(t, err)
			if !bytes.Equal(got, sent) {
				t.Errorf("of %d bytes came %d", len(sent), len(got))
			}
			must(t, <-served)
		})
	}
}

var (
	farAddr = tcpip.FullAddress{NIC: 1, Addr: tcpip.AddrFrom4([4]byte{10, 0, 0, 9}), Port: 9}
	farMAC  = tcpip.LinkAddress("\x02\x00\x00\x00\x00\x09")
)

// echoRequest is a frame that asks a host for an echo to farAddr.
func echoRequest(t testing.TB, h *host, size int) []byte {
	t.Helper()
	check(t, h.AddStaticNeighbor(1, ipv4.ProtocolNumber, farAddr.Addr, farMAC))
	frame := make([]byte, size)
	header.Ethernet(frame).Encode(&header.EthernetFields{SrcAddr: farMAC, DstAddr: h.link.LinkAddress(), Type: ipv4.ProtocolNumber})
	ip := header.IPv4(frame[header.EthernetMinimumSize:])
	ip.Encode(&header.IPv4Fields{TotalLength: uint16(len(ip)), TTL: 64, Protocol: uint8(icmp.ProtocolNumber4), SrcAddr: farAddr.Addr, DstAddr: h.addr.Addr})
	ip.SetChecksum(^ip.CalculateChecksum())
	echo := header.ICMPv4(ip[header.IPv4MinimumSize:])
	echo.SetType(header.ICMPv4Echo)
	echo.SetChecksum(header.ICMPv4Checksum(echo, 0))
	return frame
}

// ping asks a host at the other end of a cable for an echo and returns the frame
// that comes back, past any others.
func ping(t testing.TB, cable *vdetest.Conn, h *host, size int) []byte {
	t.Helper()
	_, err := cable.Write(echoRequest(t, h, size))
	must(t, err)
	must(t, cable.SetReadDeadline(time.Now().Add(soon)))
	for buf := make([]byte, libvdeplug.MaxFrameSize); ; {
		n, err := cable.Read(buf)
		must(t, err)
		ip := header.IPv4(buf[header.EthernetMinimumSize:])
		if n == size && header.Ethernet(buf).DestinationAddress() == farMAC && ip.Protocol() == uint8(icmp.ProtocolNumber4) {
			return buf[:n]
		}
	}
}

func TestOptions(t *testing.T) {
	for name, o := range map[string]*gvisorlink.Options{
		"nil": nil, "zero": {},
		"set": {Address: "\x02\x00\x00\x00\x00\x55", MTU: 9000},
	} {
		t.Run(name, func(t *testing.T) {
			far, near := vdetest.Pair()
			h := newHost(t, near, 1, o)
			mtu := uint32(1500)
			if o != nil && o.MTU != 0 {
				mtu = o.MTU
			}
			mac := h.link.LinkAddress()
			if len(mac) != 6 || mac[0]&1 != 0 || (o != nil && o.Address != "" && o.Address != mac) {
				t.Errorf("address %v", mac)
			}
			if h.link.MTU() != mtu {
				t.Errorf("MTU %d", h.link.MTU())
			}
			reply := ping(t, far, h, int(mtu)+header.EthernetMinimumSize)
			if src := header.Ethernet(reply).SourceAddress(); src != mac {
				t.Errorf("the answer is from %v", src)
			}
		})
	}
}

// Frames for other addresses do not reach the stack, those for groups do.
func TestOnlyItsOwnFrames(t *testing.T) {
	far, near := vdetest.Pair()
	h := newHost(t, near, 1, nil)
	ping(t, far, h, 100)
	before := h.Stats().NICs.Rx.Packets.Value()
	for _, dst := range []tcpip.LinkAddress{"\x02\x00\x00\x00\x00\x77", "\x01\x00\x5e\x00\x00\x01", header.EthernetBroadcastAddress, "\x02\x00\x00\x00\x00\x78"} {
		frame := rig.Frame(60, 0)
		copy(frame, dst)
		_, err := far.Write(frame)
		must(t, err)
	}
	ping(t, far, h, 100) // comes behind them
	if n := h.Stats().NICs.Rx.Packets.Value() - before; n != 3 {
		t.Errorf("of 4 frames and a ping the stack got %d", n)
	}
}

// discard reads frames until there are no more.
func discard(r io.Reader) {
	for buf := make([]byte, libvdeplug.MaxFrameSize); ; {
		if _, err := r.Read(buf); err != nil {
			return
		}
	}
}

func TestNewStack(t *testing.T) {
	for _, bad := range []netip.Prefix{{}, netip.PrefixFrom(netip.Addr{}, 8), netip.PrefixFrom(netip.MustParseAddr("10.0.0.1"), 99)} {
		_, near := vdetest.Pair()
		if _, err := gvisorlink.NewStack(gvisorlink.New(near, nil), bad); err == nil {
			t.Errorf("a stack with the address %v", bad)
		}
		if _, err := near.Write(rig.Frame(60, 0)); !errors.Is(err, net.ErrClosed) {
			t.Errorf("the Conn is open: %v", err)
		}
	}
	// Two addresses, of which the other side can choose.
	ca, cb := vdetest.Pair()
	addresses := func(n byte) []netip.Prefix {
		return []netip.Prefix{
			netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, 0, n}), 24),
			netip.PrefixFrom(netip.AddrFrom16([16]byte{0: 0xfd, 15: n}), 64),
		}
	}
	a, err := gvisorlink.NewStack(gvisorlink.New(ca, nil), addresses(1)...)
	must(t, err)
	defer a.Destroy()
	b, err := gvisorlink.NewStack(gvisorlink.New(cb, nil), addresses(2)...)
	must(t, err)
	defer b.Destroy()
	ctx, cancel := context.WithTimeout(context.Background(), soon)
	defer cancel()
	for protocol, addr := range map[tcpip.NetworkProtocolNumber]netip.Prefix{ipv4.ProtocolNumber: addresses(2)[0], ipv6.ProtocolNumber: addresses(2)[1]} {
		to := tcpip.FullAddress{Addr: tcpip.AddrFromSlice(addr.Addr().AsSlice()), Port: 80}
		l, err := gonet.ListenTCP(b, to, protocol)
		must(t, err)
		c, err := gonet.DialContextTCP(ctx, a, to, protocol)
		must(t, err)
		must(t, c.Close())
		must(t, l.Close())
	}
}

// A network that takes nothing does not stop the stack.
func TestStackNeverWaits(t *testing.T) {
	far, near := vdetest.Pair() // which nobody reads
	h := newHost(t, near, 1, nil)
	check(t, h.AddStaticNeighbor(1, ipv4.ProtocolNumber, farAddr.Addr, farMAC))
	c, err := gonet.DialUDP(h.Stack, nil, &farAddr, ipv4.ProtocolNumber)
	must(t, err)
	defer c.Close()
	const packets = 5000
	within(t, "sending", func() {
		for range packets {
			_, _ = c.Write([]byte("into the void")) // full is as good
		}
	})
	nics := h.Stats().NICs
	sent, dropped := nics.Tx.Packets.Value(), nics.TxPacketsDroppedNoBufferSpace.Value()
	if sent < 1024 || dropped == 0 || sent+dropped < packets {
		t.Errorf("sent %d, dropped %d", sent, dropped)
	}
	go discard(far) // somebody reads after all
	rig.Eventually(t, soon, "frames are taken again", func() bool {
		_, err := c.Write([]byte("hello"))
		return err == nil
	})
	within(t, "Destroy", h.Destroy)
	must(t, far.Close())
}

// However it ends, Wait returns and Err tells why.
func TestEnd(t *testing.T) {
	t.Run("Close", func(t *testing.T) {
		_, near := vdetest.Pair()
		h := newHost(t, near, 1, nil)
		if !h.link.IsAttached() {
			t.Error("it is not attached")
		}
		h.link.Close()
		h.link.Close()
		within(t, "Wait", h.link.Wait)
		if err := h.link.Err(); err != nil {
			t.Error(err)
		}
		if h.HasNIC(1) || h.link.IsAttached() {
			t.Error("the NIC is still there")
		}
		var pkts stack.PacketBufferList
		pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{})
		defer pkt.DecRef()
		pkts.PushBack(pkt)
		if n, err := h.link.WritePackets(pkts); n != 0 || err == nil {
			t.Errorf("WritePackets after Close: %d, %v", n, err)
		}
	})
	t.Run("switch dies", func(t *testing.T) {
		dir := filepath.Join(rig.TempDir(t), "s")
		p := rig.Switch(t, dir)
		h := newHost(t, open(t, "vde://"+dir), 1, nil)
		p.Signal(syscall.SIGKILL)
		within(t, "Wait", h.link.Wait)
		if err := h.link.Err(); !errors.Is(err, io.EOF) {
			t.Error(err)
		}
	})
	for name, end := range map[string]func(h *host){
		"Destroy": func(h *host) { h.Destroy() },
		"Close":   func(h *host) { h.link.Close() },
		"both at once": func(h *host) {
			closed := make(chan struct{})
			go func() {
				defer close(closed)
				h.link.Close()
			}()
			h.Destroy()
			<-closed
		},
	} {
		t.Run(name+" under load", func(t *testing.T) {
			for range 50 {
				endUnderLoad(t, end)
			}
		})
	}
}

func endUnderLoad(t *testing.T, end func(h *host)) {
	t.Helper()
	far, near := vdetest.Pair()
	h := newHost(t, near, 1, nil)
	request := echoRequest(t, h, 60)
	flooded := make(chan struct{})
	go func() {
		defer close(flooded)
		for {
			if _, err := far.Write(request); err != nil {
				return
			}
		}
	}()
	go discard(far)
	rig.Eventually(t, soon, "the stack is busy", func() bool { return h.Stats().ICMP.V4.PacketsReceived.EchoRequest.Value() > 100 })
	within(t, "the stack", func() { end(h) })
	within(t, "Wait", h.link.Wait)
	must(t, far.Close())
	<-flooded
}

// FuzzFrames lets frames of any size and contents come from the network, after
// which the stack must still answer.
func FuzzFrames(f *testing.F) {
	f.Add([]byte{}, uint16(60))
	f.Add(rig.Frame(14, 0), uint16(1514))
	f.Add([]byte("\xff\xff\xff\xff\xff\xff\x02\x00\x00\x00\x00\x09\x08\x06"), uint16(28))
	f.Add([]byte("\xff\xff\xff\xff\xff\xff\x02\x00\x00\x00\x00\x09\x08\x00\x45"), uint16(9220))
	far, near := vdetest.Pair()
	defer far.Close()
	h := newHost(f, near, 1, nil)
	f.Fuzz(func(t *testing.T, start []byte, size uint16) {
		frame := append(start, make([]byte, int(size)%libvdeplug.MaxFrameSize)...)
		if len(frame) >= header.EthernetMinimumSize && frame[0]&1 == 0 {
			copy(frame, h.link.LinkAddress())
		}
		if _, err := far.Write(frame); err != nil && !errors.Is(err, libvdeplug.ErrFrameSize) {
			t.Fatal(err)
		}
		ping(t, far, h, 60)
	})
}
