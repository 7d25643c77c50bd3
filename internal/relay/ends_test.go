package relay_test

import (
	"errors"
	"testing"
	"time"

	"github.com/umlvde/umlvde/internal/mmsg"
	"github.com/umlvde/umlvde/internal/relay"
	"github.com/umlvde/umlvde/internal/rig"
	"golang.org/x/sys/unix"
)

// hooked is a network in which something happens when it is asked for frames.
type hooked struct {
	*fake
	hook func()
}

func (h *hooked) Recv(b *mmsg.Batch) error {
	h.hook()
	return h.fake.Recv(b)
}

// blind is a network that cannot tell when it has room.
type blind struct{ *fake }

func (b blind) Fds() (r, w, ctl int) { return b.event, -1, -1 }

// quench makes an eventfd unreadable.
func quench(fd int) {
	var b [8]byte
	_, _ = unix.Read(fd, b[:]) // or it is already
}

// TestLastWords has a guest that sends and ends after it was last asked, which the
// relay learns when it writes to it: the guest's last frames go up all the same.
func TestLastWords(t *testing.T) {
	guest, uml := port(t)
	network := &hooked{fake: newFake(t)}
	network.hook = func() {
		if network.recvs.Load() == 1 { // both were asked before
			for i := range uint32(3) {
				uml.send(rig.Frame(60, i))
			}
			uml.hangUp()
			network.inbox = append(network.inbox, rig.Frame(60, 9))
		}
	}
	r := start(t, guest, network)
	r.asleep(t)
	signal(t, network.event)
	if err := r.end(t); !errors.Is(err, relay.ErrGuestGone) {
		t.Error(err)
	}
	if n := r.up.Out.Load(); n != 3 {
		t.Errorf("%d of its last 3 frames went up", n)
	}
}

// TestGoneWhileFull has a first port that cannot be written to any more while its
// own frames wait for a network that is full: that is its end. It is the guest's
// port, or that of a cable.
func TestGoneWhileFull(t *testing.T) {
	for _, patient := range []bool{false, true} {
		gone := errors.New("gone")
		guest := newFake(t)
		guest.send = func(*mmsg.Batch, *relay.Counters) error { return gone }
		for i := range uint32(2000) {
			guest.inbox = append(guest.inbox, rig.Frame(1514, i))
		}
		network, net := port(t)
		r := prepare(t, guest, network)
		if patient {
			r.Patient()
		}
		r.start(t)
		signal(t, guest.event)
		if patient {
			rig.Eventually(t, soon, "the network is full", func() bool { return r.up.In.Load() > r.up.Out.Load() })
		} else {
			rig.Eventually(t, soon, "the guest has sent all", func() bool { return r.up.In.Load() == 2000 })
			quench(guest.event)
		}
		r.asleep(t)
		net.send(rig.Frame(60, 1))
		if err := r.end(t); !errors.Is(err, gone) || !errors.Is(err, relay.ErrGuestGone) {
			t.Errorf("patient: %v: %v", patient, err)
		}
	}
}

// prompter is a guest that does something each time before the relay waits.
type prompter struct {
	relay.Port
	prompt func()
}

func (p *prompter) Fds() (r, w, ctl int) {
	p.prompt()
	return p.Port.Fds()
}

// TestWorksForOthers has a network that has no frame when it is readable, but is
// not readable any more after that, as it has served somebody else: it is served
// as fast as one that has frames.
func TestWorksForOthers(t *testing.T) {
	const n = 1000
	network := &hooked{fake: newFake(t)}
	var began time.Time
	took := make(chan time.Duration, 1)
	network.hook = func() {
		quench(network.event)
		switch network.recvs.Load() {
		case 1:
			began = time.Now()
		case n:
			took <- time.Since(began)
		}
	}
	guest, _ := port(t)
	start(t, &prompter{guest, func() { // not by another thread, whose turn may be long in coming
		if network.recvs.Load() < n+1 {
			signal(t, network.event)
		}
	}}, network)
	select {
	case took := <-took:
		if took > n*time.Millisecond/2 {
			t.Errorf("to be asked %d times took it %v", n, took)
		}
	case <-time.After(soon):
		t.Error("it is not asked")
	}
}

// TestNoOutlet has a network that was full and cannot tell that it has room again:
// what waits is sent all the same, and the relay does not spin meanwhile.
func TestNoOutlet(t *testing.T) {
	guest, uml := port(t)
	network := blind{newFake(t)}
	const tries = 100
	calls, full := 0, make(chan struct{})
	var took time.Duration
	began := time.Now()
	network.send = func(b *mmsg.Batch, c *relay.Counters) error {
		if calls++; calls < tries {
			return unix.EAGAIN
		}
		took = time.Since(began)
		defer close(full)
		return take(b, c)
	}
	r := prepare(t, guest, network)
	r.Patient()
	r.start(t)
	uml.send(rig.Frame(60, 1))
	select {
	case <-full:
	case <-time.After(soon):
		t.Fatal("the frame waits for ever")
	}
	if took < tries*time.Millisecond/2 {
		t.Errorf("%d tries took only %v", tries, took)
	}
	r.asleep(t)
}
