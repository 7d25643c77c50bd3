package relay_test

import (
	"errors"
	"runtime"
	"testing"
	"time"

	"github.com/umlvde/umlvde/internal/relay"
	"github.com/umlvde/umlvde/internal/rig"
	"golang.org/x/sys/unix"
)

// TestFutile has a network that is always readable and has nothing: the relay
// must not spin.
func TestFutile(t *testing.T) {
	guest, uml := port(t)
	network := newFake(t)
	signal(t, network.event)
	r := start(t, guest, network)
	rig.Eventually(t, soon, "the relay has lost its patience", func() bool { return network.recvs.Load() > 70 })
	before, began := network.recvs.Load(), time.Now()
	<-time.After(200 * time.Millisecond)
	rate := float64(network.recvs.Load()-before) / time.Since(began).Seconds()
	if t.Logf("%.0f calls a second", rate); rate > 10000 {
		t.Error("it spins")
	}
	for range 100 { // the guest is served as before
		uml.send(rig.Frame(60, 1))
	}
	rig.Eventually(t, soon, "the frames go up", func() bool { return r.up.Out.Load() == 100 })
}

// TestIdle sees that a relay without work does not wake up.
func TestIdle(t *testing.T) {
	guest, uml := port(t)
	network, net := port(t)
	r := start(t, guest, network)
	uml.send(rig.Frame(60, 1))
	net.recv()
	r.idle(t)
}

// idle sees that the relay does not wake up.
func (r *running) idle(t testing.TB) {
	t.Helper()
	r.asleep(t)
	n := uint64(1)
	for try := 0; n != 0 && try < 5; try++ { // if it is alone, it looks twice before it parks
		before := r.progress.Load()
		<-time.After(100 * time.Millisecond)
		n = r.progress.Load() - before
	}
	if n != 0 {
		t.Errorf("%d rounds while there was nothing to do", n)
	}
}

// TestIdleFull sees that a relay does not wake up while it waits for room, either,
// in both directions.
func TestIdleFull(t *testing.T) {
	guest, uml := port(t)
	network, net := port(t)
	r := start(t, guest, network)
	for r.up.Drops[relay.Full].Load() == 0 {
		uml.send(rig.Frame(1514, 1))
	}
	r.fillDown(t, net)
	r.idle(t)
	frames := r.up.In.Load() - r.up.Drops[relay.Full].Load()
	for range frames {
		net.recv()
	}
	uml.recv()
	rig.Eventually(t, soon, "what waited has left", func() bool { return r.up.Out.Load() == frames })
}

// TestParked sees that a relay that is alone, and has parked, comes back for
// frames of either side, and for its end.
func TestParked(t *testing.T) {
	alone = true
	defer func() { alone = false }()
	guest, uml := port(t)
	network, net := port(t)
	r := start(t, guest, network)
	for i := range uint32(5) {
		<-time.After(30 * time.Millisecond) // several ticks of its clock
		r.asleep(t)
		uml.send(rig.Frame(60, i))
		if rig.Number(net.recv()) != i {
			t.Error("not the frame that was sent up")
		}
		<-time.After(30 * time.Millisecond)
		net.send(rig.Frame(60, i))
		if rig.Number(uml.recv()) != i {
			t.Error("not the frame that was sent down")
		}
	}
	<-time.After(30 * time.Millisecond)
	uml.hangUp()
	if err := r.end(t); !errors.Is(err, relay.ErrGuestGone) {
		t.Error(err)
	}
}

// TestAlone makes the same demands of a relay that is alone.
func TestAlone(t *testing.T) {
	alone = true
	defer func() { alone = false }()
	for name, test := range map[string]func(*testing.T){
		"both ways": TestBothWays, "sizes": TestSizes, "full network": TestFullNetwork, "full guest": TestFullGuest,
		"ends": TestEnds, "refused": TestRefused, "errors": TestErrors, "pump": TestPump, "futile": TestFutile,
		"unsent": TestUnsent, "singles": TestSingles, "idle": TestIdle, "idle, full": TestIdleFull, "allocations": TestAllocations,
		"last words": TestLastWords, "gone while full": TestGoneWhileFull, "works for others": TestWorksForOthers, "no outlet": TestNoOutlet,
	} {
		t.Run(name, test)
	}
}

func TestAllocations(t *testing.T) {
	guest, uml := port(t)
	network, net := port(t)
	start(t, guest, network)
	frame, buf := rig.Frame(1514, 1), make([]byte, 2000)
	runs := 1000
	if alone {
		runs = 50 // AllocsPerRun leaves but one turn for both of us
	}
	if n := testing.AllocsPerRun(runs, func() {
		_, _ = unix.Write(uml.fd, frame)
		_, _ = unix.Write(net.fd, frame)
		_, _ = unix.Read(net.fd, buf)
		_, _ = unix.Read(uml.fd, buf)
	}); n != 0 {
		t.Errorf("%v allocations a frame", n)
	}
}

// TestNoLoad has a relay be alone where it cannot find out whether CPUs are scarce.
func TestNoLoad(t *testing.T) {
	turns := runtime.GOMAXPROCS(0)
	defer runtime.GOMAXPROCS(turns)
	guest, _ := port(t)
	network, _ := port(t)
	r := prepare(t, guest, network)
	defer r.Close()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // to the end of the thread, which gets another /proc;
		runtime.LockOSThread() // this one is for Alone to undo
		err := unix.Unshare(unix.CLONE_NEWNS)
		if err == nil {
			err = unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
		}
		if err == nil {
			err = unix.Mount("none", "/proc", "tmpfs", 0, "")
		}
		if err == nil {
			err = r.Alone()
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
