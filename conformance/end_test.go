package conformance

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/umlvde/umlvde/internal/rig"
	"golang.org/x/sys/unix"
)

const (
	soon = 10 * time.Second
	// recovery is how soon frames must flow again once the other end is back.
	recovery = 3 * time.Second
)

// An end is where frames go in and come out: a played guest, or an interface.
type end interface {
	Send(frame []byte, within time.Duration) bool
	Recv(within time.Duration) []byte // nil if none comes in time
}

// The stations at the two ends of a network. They are distinct, as switches
// learn addresses.
var (
	nearMAC   = [6]byte{2, 0, 0, 0, 0, 0xa}
	farMAC    = [6]byte{2, 0, 0, 0, 0, 0xb}
	broadcast = [6]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
)

// frame makes a frame of n bytes (18 at least), each of which depends on the
// number.
func frame(to, from [6]byte, n int, number uint32) []byte {
	f := make([]byte, n)
	copy(f, to[:])
	copy(f[6:], from[:])
	f[12], f[13] = 0x88, 0xb5 // IEEE's for local experiments
	binary.BigEndian.PutUint32(f[14:], number)
	for i := 18; i < n; i++ {
		f[i] = byte(i*7) + byte(number)
	}
	return f
}

// ours returns the next frame that frame has made, nil if none comes in time.
func ours(e end, within time.Duration) []byte {
	for deadline := time.Now().Add(within); ; {
		f := e.Recv(max(0, time.Until(deadline)))
		if f == nil || len(f) >= 18 && f[12] == 0x88 && f[13] == 0xb5 {
			return f
		}
	}
}

// A way is one direction of a network.
type way struct {
	from, to       end
	fromMAC, toMAC [6]byte
	number         uint32
	lossy          bool // frames may get lost
}

// ways returns both directions between two ends.
func ways(near, far end) [2]*way {
	return [2]*way{
		{from: near, to: far, fromMAC: nearMAC, toMAC: farMAC, number: uint32(time.Now().UnixNano())},
		{from: far, to: near, fromMAC: farMAC, toMAC: nearMAC, number: uint32(time.Now().UnixNano())},
	}
}

// settle sends frames both ways until some have arrived both ways, and the last
// of those under way.
func settle(t testing.TB, ways [2]*way, within time.Duration) time.Duration {
	t.Helper()
	start, limit := time.Now(), rig.NewLimit(within)
	for _, w := range ways {
		for arrived := false; !arrived; {
			if limit.Left() <= 0 {
				t.Fatalf("no frame arrived within %v", within)
			}
			w.number++
			w.from.Send(frame(broadcast, w.fromMAC, 60, w.number), time.Second)
			for f := ours(w.to, 20*time.Millisecond); f != nil && !arrived; f = ours(w.to, 20*time.Millisecond) {
				arrived = binary.BigEndian.Uint32(f[14:]) == w.number
			}
		}
	}
	took := time.Since(start)
	for _, w := range ways { // what came by two ways, or late
		for f := w.to.Recv(5 * time.Millisecond); f != nil; {
			f = w.to.Recv(5 * time.Millisecond)
		}
	}
	return took
}

// respite is how long a try may be followed by another. One that has waited for
// [soon] in vain is the last, unless CPUs were short in more than a second of that:
// umlvde drops more than 8 kB that wait for a plug that does not move, be it one large
// frame, even if the plug only waits for a CPU.
func respite() rig.Limit { return rig.NewLimit(soon - time.Second) }

// carry sends one frame of each size and expects each to arrive as it was.
func carry(t testing.TB, w *way, sizes ...int) {
	t.Helper()
	for _, size := range sizes {
		var sent, got []byte
		for limit := respite(); got == nil && limit.Left() > 0; got = ours(w.to, soon) {
			w.number++
			sent = frame(w.toMAC, w.fromMAC, size, w.number)
			if !w.from.Send(sent, time.Second) {
				t.Fatalf("there is no room for a frame of %d bytes", size)
			}
		}
		if !bytes.Equal(got, sent) {
			t.Fatalf("a frame of %d bytes came as %d: %.40x, not %.40x", size, len(got), got, sent)
		}
	}
}

// burst is how many frames rate sends before it expects them: few enough for
// the queue of any plugin.
const burst = 32

// rate sends bursts of frames for a while, expects all of them to arrive in
// order, and returns how much that was in Mbit/s, and an error if some were lost.
// Of a network that may lose frames it expects nine of ten, and does not count the
// time that it waits for those which are lost.
func rate(t testing.TB, w *way, size int, length time.Duration) (mbit float64, err error) {
	t.Helper()
	frames, lost := 0, 0
	patience := soon
	if w.lossy {
		patience = time.Second
	}
	var took time.Duration
	for took < length {
		start := time.Now()
		last := start
		first := w.number + 1
		for range burst {
			w.number++
			w.from.Send(frame(w.toMAC, w.fromMAC, size, w.number), time.Second)
		}
		frames += burst
		for next := first; next <= w.number; {
			f := ours(w.to, patience)
			if f == nil {
				lost += int(w.number - next + 1)
				break
			}
			last = time.Now()
			n := binary.BigEndian.Uint32(f[14:])
			if n < next || n > w.number || !bytes.Equal(f, frame(w.toMAC, w.fromMAC, size, n)) {
				t.Fatalf("instead of frame %d of %d bytes came %d of %d", next, size, n, len(f))
			}
			lost += int(n - next)
			next = n + 1
		}
		if last.Equal(start) { // nothing came at all
			last = time.Now()
		}
		took += last.Sub(start)
	}
	if lost > 0 && !w.lossy || lost*10 > frames {
		err = fmt.Errorf("%d of %d frames were lost", lost, frames)
	}
	return float64((frames-lost)*size*8) / took.Seconds() / 1e6, err
}

// guest starts a helper with a played guest in the namespace.
func guest(n *rig.Namespace, c rig.HelperConfig) (g *rig.Guest) {
	n.T.Helper()
	n.Do(func() { g = rig.StartHelper(n.T, c) })
	return g
}

// cPlug starts the C vde_plug in the same place.
func cPlug(n *rig.Namespace, vnl string) *rig.Guest {
	n.T.Helper()
	return guest(n, rig.HelperConfig{Program: cVdePlug, Args: []string{}, VNL: vnl})
}

// cVdePlug is Debian's.
const cVdePlug = "/usr/bin/vde_plug"

// kill ends a helper and its workers as kill -9 of all of them does.
func kill(g *rig.Guest) {
	g.KillAll()
	g.Wait(soon)
	g.Close()
}

// A raw is an end without a helper: a network interface as tcpdump sees it, or
// a socket.
type raw struct {
	t  testing.TB
	fd int
}

// openInterfaceIn opens an interface of the namespace.
func openInterfaceIn(n *rig.Namespace, name string) *raw {
	n.T.Helper()
	i := &raw{t: n.T, fd: -1}
	n.Do(func() {
		n.T.Helper()
		const all = unix.ETH_P_ALL<<8 | unix.ETH_P_ALL>>8 // in network byte order
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		must(n.T, err)
		i.fd = fd
		n.T.Cleanup(func() { unix.Close(fd) })
		link, err := net.InterfaceByName(name)
		must(n.T, err)
		must(n.T, unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: link.Index}))
	})
	return i
}

// Send is end's.
func (i *raw) Send(frame []byte, within time.Duration) bool {
	i.t.Helper()
	for deadline := time.Now().Add(within); ; {
		_, err := unix.Write(i.fd, frame)
		switch {
		case err == nil:
			return true
		case !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.ENOBUFS):
			i.t.Fatalf("the other end: %v", err)
		case !rig.Poll(i.fd, unix.POLLOUT, time.Until(deadline)):
			return false
		}
	}
}

// Recv is end's: frames that others have sent.
func (i *raw) Recv(within time.Duration) []byte {
	i.t.Helper()
	for deadline := time.Now().Add(within); rig.Poll(i.fd, unix.POLLIN, time.Until(deadline)); {
		var buf [70000]byte
		n, from, err := unix.Recvfrom(i.fd, buf[:], unix.MSG_DONTWAIT)
		switch {
		case errors.Is(err, unix.ENETDOWN), errors.Is(err, unix.EAGAIN): // it was down, once
			continue
		case err != nil:
			i.t.Fatalf("the other end: %v", err)
		}
		if a, ok := from.(*unix.SockaddrLinklayer); !ok || a.Pkttype != unix.PACKET_OUTGOING {
			return buf[:n:n]
		}
	}
	return nil
}
