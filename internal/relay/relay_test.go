package relay_test

import (
	"errors"
	"io"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/umlvde/umlvde/internal/mmsg"
	"github.com/umlvde/umlvde/internal/relay"
	"github.com/umlvde/umlvde/internal/rig"
	"golang.org/x/sys/unix"
)

func TestBothWays(t *testing.T) {
	guest, uml := port(t)
	network, net := port(t)
	r := start(t, guest, network)
	for i := range uint32(300) {
		size := 18 + int(i)*4
		uml.send(rig.Frame(size, i))
		net.send(rig.Frame(size, i+1000))
		if f := net.recv(); len(f) != size || rig.Number(f) != i {
			t.Fatalf("frame %d of %d bytes went up as %d of %d", i, size, rig.Number(f), len(f))
		}
		if f := uml.recv(); len(f) != size || rig.Number(f) != i+1000 {
			t.Fatalf("frame %d of %d bytes came down as %d of %d", i+1000, size, rig.Number(f), len(f))
		}
	}
	r.asleep(t)
	for way, c := range map[string]*relay.Counters{"up": &r.up, "down": &r.down} {
		if n := c.Totals(); n.In != 300 || n.Out != 300 || n.Dropped() != 0 || n.Bytes != 300*18+4*299*300/2 {
			t.Errorf("%s: counted %v", way, n.String())
		}
	}
}

// TestSizes sends frames that must not pass.
func TestSizes(t *testing.T) {
	guest, uml := port(t)
	network, net := port(t)
	r := start(t, guest, network)
	for _, n := range []int{1, 8, 13, 14, upLimit, upLimit + 1, 65000, 66000, 60} {
		uml.send(make([]byte, n))
	}
	for _, want := range []int{14, upLimit, 60} {
		if f := net.recv(); len(f) != want {
			t.Errorf("up came %d bytes, want %d", len(f), want)
		}
	}
	for _, n := range []int{13, 14, downLimit, downLimit + 1, 9000, 60} {
		net.send(make([]byte, n))
	}
	for _, want := range []int{14, downLimit, 60} {
		if f := uml.recv(); len(f) != want {
			t.Errorf("down came %d bytes, want %d", len(f), want)
		}
	}
	r.asleep(t)
	drops(t, "up", &r.up, map[relay.Reason]uint64{relay.Runt: 3, relay.Giant: 3})
	drops(t, "down", &r.down, map[relay.Reason]uint64{relay.Runt: 1, relay.Giant: 2})
}

// TestFullNetwork has a network that takes nothing. The guest must not notice.
func TestFullNetwork(t *testing.T) {
	guest, uml := port(t)
	network, net := port(t)
	r := start(t, guest, network)
	const n = 5000
	for i := range uint32(n) {
		uml.send(rig.Frame(1514, i)) // blocks if the relay does not read
	}
	rig.Eventually(t, soon, "the relay has read all", func() bool { return r.up.In.Load() == n })
	r.asleep(t)
	if r.up.Drops[relay.Full].Load() == 0 {
		t.Error("nothing was dropped")
	}
	net.send(rig.Frame(60, 1)) // the other way is open
	uml.recv()
	last := uint32(0)
	for got := uint64(0); last != n-1; got++ {
		f := net.recv()
		if got > 0 && rig.Number(f) <= last {
			t.Fatalf("frame %d after %d", rig.Number(f), last)
		}
		last = rig.Number(f) // and the newest is among those that were kept
	}
	r.asleep(t)
	balanced(t, "up", &r.up)
}

// fillDown sends numbered frames until the relay takes no more, and returns how many.
func (r *running) fillDown(t testing.TB, net far) (sent uint32) {
	t.Helper()
	for {
		err := unix.Sendto(net.fd, rig.Frame(1514, sent), unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT, nil)
		switch {
		case err == nil:
			sent++
		case !errors.Is(err, unix.EAGAIN):
			t.Fatal(err)
		case r.busy.Load() == 0:
			return sent
		}
	}
}

// TestFullGuest has a guest that does not read: the network is held back, and
// nothing is lost.
func TestFullGuest(t *testing.T) {
	guest, uml := port(t)
	network, net := port(t)
	r := start(t, guest, network)
	sent := r.fillDown(t, net)
	uml.send(rig.Frame(60, 7)) // the other way is open
	if rig.Number(net.recv()) != 7 {
		t.Error("not the frame that was sent")
	}
	for i := range sent {
		if n := rig.Number(uml.recv()); n != i {
			t.Fatalf("frame %d came as %d", n, i)
		}
	}
	r.asleep(t)
	if n := r.down.Totals(); n.Out != uint64(sent) || n.Dropped() != 0 {
		t.Errorf("counted %v", n.String())
	}
}

func TestEnds(t *testing.T) {
	t.Run("guest", func(t *testing.T) {
		guest, uml := port(t)
		network, net := port(t)
		r := start(t, guest, network)
		uml.send(rig.Frame(60, 1))
		uml.hangUp()
		if err := r.end(t); !errors.Is(err, relay.ErrGuestGone) {
			t.Error(err)
		}
		if rig.Number(net.recv()) != 1 {
			t.Error("its last frame was lost")
		}
	})
	t.Run("network", func(t *testing.T) {
		guest, uml := port(t)
		network, net := port(t)
		r := start(t, guest, network)
		net.send(rig.Frame(60, 1))
		net.hangUp()
		if err := r.end(t); !errors.Is(err, io.EOF) {
			t.Error(err)
		}
		if rig.Number(uml.recv()) != 1 {
			t.Error("its last frame was lost")
		}
	})
	t.Run("stop", func(t *testing.T) {
		guest, _ := port(t)
		network, _ := port(t)
		r := start(t, guest, network)
		r.asleep(t)
		r.Stop()
		if err := r.end(t); !errors.Is(err, relay.ErrStopped) {
			t.Error(err)
		}
	})
}

func TestRefused(t *testing.T) {
	guest, uml := port(t)
	network := newFake(t)
	network.send = func(b *mmsg.Batch, c *relay.Counters) error {
		c.Dropped(relay.Refused, b.Len())
		b.Clear()
		return nil
	}
	r := start(t, guest, network)
	uml.send(rig.Frame(60, 1))
	rig.Eventually(t, soon, "the frame is dropped", func() bool { return r.up.Drops[relay.Refused].Load() == 1 })
	drops(t, "up", &r.up, map[relay.Reason]uint64{relay.Refused: 1})
}

func TestErrors(t *testing.T) {
	broken := errors.New("broken")
	guest, _ := port(t)
	network := newFake(t)
	network.recv = broken
	if err := start(t, guest, network).end(t); !errors.Is(err, broken) {
		t.Errorf("Recv: %v", err)
	}
	guest, uml := port(t)
	network = newFake(t)
	network.send = func(*mmsg.Batch, *relay.Counters) error { return broken }
	r := start(t, guest, network)
	uml.send(rig.Frame(60, 1))
	if err := r.end(t); !errors.Is(err, broken) {
		t.Errorf("Send: %v", err)
	}
	drops(t, "what was in hand", &r.up, map[relay.Reason]uint64{relay.Closing: 1})

	guest, _ = port(t)
	network = newFake(t)
	ctl := newFake(t)
	network.ctl, network.check = ctl.event, io.EOF
	r = start(t, guest, network)
	r.asleep(t)
	signal(t, ctl.event)
	if err := r.end(t); !errors.Is(err, io.EOF) {
		t.Errorf("Check: %v", err)
	}
}

// TestPump has a network that works for others in Recv, which must be called
// although the guest does not read.
func TestPump(t *testing.T) {
	guest, uml := port(t)
	network := newFake(t)
	network.pumps = true
	const n = 2000
	for i := range uint32(n) {
		network.inbox = append(network.inbox, rig.Frame(1514, i))
	}
	signal(t, network.event) // readable for ever
	r := start(t, guest, network)
	rig.Eventually(t, soon, "all is pumped", func() bool { return r.down.In.Load() == n })
	for range r.down.Out.Load() {
		uml.recv()
	}
	if r.down.Drops[relay.Full].Load() == 0 {
		t.Error("nothing was dropped")
	}
}

// TestGuestsTrouble has a guest that is no UML kernel: its errors are the
// relay's, it may be readable without frames, and frames may wait in it.
func TestGuestsTrouble(t *testing.T) {
	broken := errors.New("broken")
	network, net := port(t)
	guest := newFake(t)
	guest.send = func(*mmsg.Batch, *relay.Counters) error { return broken }
	r := start(t, guest, network)
	net.send(rig.Frame(60, 1))
	if err := r.end(t); !errors.Is(err, broken) || !errors.Is(err, relay.ErrGuestGone) {
		t.Errorf("Send: %v", err)
	}

	network, net = port(t)
	guest = newFake(t)
	signal(t, guest.event)
	r = start(t, guest, network)
	rig.Eventually(t, soon, "the relay has lost its patience", func() bool { return guest.recvs.Load() > 70 })
	before, began := guest.recvs.Load(), time.Now()
	<-time.After(200 * time.Millisecond)
	rate := float64(guest.recvs.Load()-before) / time.Since(began).Seconds()
	if t.Logf("%.0f calls a second", rate); rate > 10000 {
		t.Error("it spins")
	}
	net.send(rig.Frame(60, 1))
	rig.Eventually(t, soon, "the network is served", func() bool { return r.down.Out.Load() == 1 })
}

// TestPatient sees that without a guest no frame is lost.
func TestPatient(t *testing.T) {
	guest := newFake(t)
	const n = 2000
	for i := range uint32(n) {
		guest.inbox = append(guest.inbox, rig.Frame(1514, i))
	}
	signal(t, guest.event)
	network, net := port(t)
	r := prepare(t, guest, network)
	r.Patient()
	r.start(t)
	for i := range uint32(n) {
		if got := rig.Number(net.recv()); got != i {
			t.Fatalf("frame %d is %d", i, got)
		}
	}
	drops(t, "up", &r.up, nil)
}

// TestUnsent has a network that keeps the end of a frame to itself until it is
// asked again.
func TestUnsent(t *testing.T) {
	guest, uml := port(t)
	network := newFake(t)
	var calls atomic.Int32
	network.send = func(b *mmsg.Batch, c *relay.Counters) error {
		if calls.Add(1) == 1 {
			_ = take(b, c) // always nil
			network.unsent.Store(true)
			return unix.EAGAIN
		}
		if b.Len() != 0 {
			t.Errorf("asked for the rest of a frame with %d others", b.Len())
		}
		network.unsent.Store(false)
		return nil
	}
	r := start(t, guest, network)
	uml.send(rig.Frame(60, 1))
	rig.Eventually(t, soon, "the rest is sent", func() bool { return calls.Load() >= 2 && !network.unsent.Load() })
	r.asleep(t)
}

// FuzzRelay lets a network send frames of any sizes, in batches of any size, and
// lets the guest's end be as slow as it may be.
func FuzzRelay(f *testing.F) {
	f.Add([]byte{0, 0, 13, 0, 14, 0, 60, 5, 234, 5, 235, 35, 40, 255, 255}, uint8(3))
	f.Add([]byte{}, uint8(0))
	f.Add(slices.Repeat([]byte{5, 0}, 500), uint8(255))
	zeros := make([]byte, mmsg.FrameCap+500)
	f.Fuzz(func(t *testing.T, sizes []byte, perCall uint8) {
		guest, uml := port(t)
		network := newFake(t)
		network.perCall = 1 + int(perCall)%mmsg.Max
		var want []int
		for ; len(sizes) >= 2; sizes = sizes[2:] {
			n := int(sizes[0])<<8 | int(sizes[1])
			if n%16 == 0 {
				n += 500 // beyond what fits, now and then
			}
			network.inbox = append(network.inbox, zeros[:n])
			if n >= relay.MinFrame && n <= downLimit {
				want = append(want, n)
			}
		}
		in := uint64(len(network.inbox))
		network.recv = io.EOF
		signal(t, network.event) // readable to the end
		r := start(t, guest, network)
		var got []int
		for range want {
			got = append(got, len(uml.recv()))
		}
		if err := r.end(t); !errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
		if !slices.Equal(got, want) {
			t.Errorf("sizes %v came as %v", want, got)
		}
		if n := r.down.Totals(); n.In != in || n.Out != uint64(len(want)) {
			t.Errorf("%d frames, of which %d are good: counted %d in, %v", in, len(want), n.In, n.String())
		}
	})
}

// TestBusyFromTheStart has a network that keeps the very first call.
func TestBusyFromTheStart(t *testing.T) {
	guest, uml := port(t)
	network := newFake(t)
	kept := make(chan struct{})
	network.send = func(b *mmsg.Batch, c *relay.Counters) error {
		<-kept
		return take(b, c)
	}
	uml.send(rig.Frame(60, 1))
	var up, down relay.Counters
	var progress atomic.Uint64
	var busy atomic.Uint32
	r, err := relay.New(guest, network, mmsg.FrameCap, mmsg.FrameCap, &up, &down, relay.Monitor{Progress: &progress, Busy: &busy})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error)
	go func() { ended <- r.Run() }()
	rig.Eventually(t, soon, "the frame is in the network's hands", func() bool { return up.In.Load() == 1 })
	if busy.Load() != 1 {
		t.Error("it is said to sleep")
	}
	close(kept)
	r.Stop()
	if err := <-ended; !errors.Is(err, relay.ErrStopped) {
		t.Error(err)
	}
	r.Close()
}
