package guard

import (
	"errors"
	"os"
	"os/signal"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/umlvde/umlvde/internal/mmsg"
	"github.com/umlvde/umlvde/internal/rig"
	"golang.org/x/sys/unix"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newGuardian(t *testing.T) *Guardian {
	t.Helper()
	_, w := pipe(t)
	g, err := New(&Log{Name: "test", Fd: w})
	must(t, err)
	t.Cleanup(func() {
		_, _, _ = g.loop.ep.File.Close(), g.null.Close(), errors.Join(unix.Close(g.ino.walked), unix.Close(g.loop.timer))
	})
	return g
}

// guestSocket makes a guest's end and the guardian's of one socket; the latter is
// closed by who gets it.
func guestSocket(t *testing.T) (guest, ours int) {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	must(t, err)
	t.Cleanup(func() { _ = unix.Close(pair[0]) })
	return pair[0], pair[1]
}

func isOpen(fd int) bool {
	_, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
	return err == nil
}

// A worker that still moves when its link ends gets no frames any more: they are
// the guardian's to drain until it is gone.
func TestGuardianDrainsUntilTheLinkHasEnded(t *testing.T) {
	_, ours := guestSocket(t)
	g := newGuardian(t)
	l := &Link{g: g, guest: ours, pidfd: -1, mode: watching}
	must(t, g.loop.add(ours, l.mode.events(), l.onGuest))
	defer unix.Close(ours)
	page, fd, err := NewPage()
	must(t, err)
	defer page.Unmap()
	defer unix.Close(fd)
	now := time.Now()
	w := &worker{l: l, page: page, looked: now}
	l.serving = w
	l.setMode(draining)
	l.ending = true // what end does besides needs a process
	page.Progress.Add(1)
	for range 2 * restAfter {
		now = now.Add(tick)
		if l.look(w, now); l.mode != draining {
			t.Fatalf("mode %v after the worker has moved", l.mode)
		}
	}
}

// A guest that comes when the guardian is about to end is refused, and what it came
// with is closed.
func TestStoppingGuardianTakesNoGuest(t *testing.T) {
	guest, ours := guestSocket(t)
	pidfd, err := unix.PidfdOpen(unix.Getpid(), 0)
	must(t, err)
	g := newGuardian(t)
	g.Stop()
	if err := g.Tend(ours, pidfd, Job{Wrong: "a test"}); err == nil {
		t.Fatal("the guest was taken")
	}
	if isOpen(ours) || isOpen(pidfd) || !mmsg.HungUp(guest) {
		t.Errorf("the guest's socket is open: %v; its pidfd: %v", isOpen(ours), isOpen(pidfd))
	}
	must(t, g.Run())
}

// What cannot be watched over is closed.
func TestTendClosesWhatItDoesNotTake(t *testing.T) {
	_, ours := guestSocket(t)
	file, err := unix.MemfdCreate("no pidfd", unix.MFD_CLOEXEC) // which epoll does not take
	must(t, err)
	g := newGuardian(t)
	if err := g.Tend(ours, file, Job{Wrong: "a test"}); !errors.Is(err, unix.EPERM) {
		t.Error(err)
	}
	if isOpen(ours) || isOpen(file) {
		t.Errorf("the guest's socket is open: %v; its pidfd: %v", isOpen(ours), isOpen(file))
	}
	must(t, g.Run())
}

// A page that cannot be made leaves no descriptor.
func TestNoPage(t *testing.T) {
	signal.Ignore(unix.SIGXFSZ)
	defer signal.Reset(unix.SIGXFSZ)
	var before unix.Rlimit
	must(t, unix.Getrlimit(unix.RLIMIT_FSIZE, &before))
	must(t, unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: 0, Max: before.Max}))
	page, fd, err := NewPage()
	must(t, unix.Setrlimit(unix.RLIMIT_FSIZE, &before))
	if !errors.Is(err, unix.EFBIG) || page != nil || fd != -1 {
		t.Errorf("%v %d %v", page, fd, err)
	}
	for fd, what := range rig.OpenFiles(t, os.Getpid()) {
		if strings.Contains(what, "memfd:umlvde") {
			t.Errorf("descriptor %d is %s", fd, what)
		}
	}
}

// Links are looked at in the same moments, whenever each was looked at last, and less
// often if they move.
func TestLinksAreLookedAtTogether(t *testing.T) {
	g := newGuardian(t)
	for ns, ticks := range map[time.Duration]int{0: 1, 1: 1, tick - 1: 1, tick: 2, tick + 1: 2, 1000*tick + tick/2: 1001} {
		w := &worker{looked: g.began.Add(ns)}
		if got, want := g.lookAgain(w), g.began.Add(time.Duration(ticks)*tick); !got.Equal(want) {
			t.Errorf("%v after the start: the next look is at %v, not %v", ns, got.Sub(g.began), want.Sub(g.began))
		}
		w.moved = true
		if got, want := g.lookAgain(w), g.began.Add(time.Duration((ticks+1)/2)*2*tick); !got.Equal(want) {
			t.Errorf("%v after the start, as it moved: the next look is at %v, not %v", ns, got.Sub(g.began), want.Sub(g.began))
		}
	}
}

// What a worker printed last is told, though its line has no end.
func TestLastWordsOfAWorker(t *testing.T) {
	turns := runtime.GOMAXPROCS(0)
	defer runtime.GOMAXPROCS(turns) // Run leaves one
	_, ours := guestSocket(t)
	g := newGuardian(t)
	r, w := pipe(t)
	g.log = &Log{Name: "test", Fd: w}
	g.exe = t.TempDir() + "/worker"
	must(t, os.WriteFile(g.exe, []byte("#!/bin/sh\necho hello >&2; printf 'no such host' >&2; exit 3"), 0o700))
	must(t, g.Tend(ours, -1, Job{Descr: "UML", VNL: "null://", Once: true}))
	if err := g.Run(); err == nil || !strings.Contains(err.Error(), "exit status 3") {
		t.Error(err)
	}
	if got, want := read(t, r), "test: UML: null://: hello\ntest: UML: null://: no such host\n"; got != want {
		t.Errorf("%q, not %q", got, want)
	}
}

// Workers that hang in their opens and cannot be killed (here it is not noticed that
// they have ended) do not become ever more; once they have ended, others are tried.
func TestWorkersThatCannotBeKilledAreFew(t *testing.T) {
	turns := runtime.GOMAXPROCS(0)
	defer runtime.GOMAXPROCS(turns) // Run leaves one
	_, ours := guestSocket(t)
	g := newGuardian(t)
	g.exe = t.TempDir() + "/worker"
	must(t, os.WriteFile(g.exe, []byte("#!/bin/sh\nexec sleep 60"), 0o700))
	must(t, g.Tend(ours, -1, Job{VNL: "null://"}))
	for l := range g.links {
		now := time.Now()
		for range 3 * maxWorkers {
			now = now.Add(patience)
			l.onTime(now)
		}
		if n := len(l.workers); n != maxWorkers {
			t.Errorf("there are %d workers", n)
		}
		for len(l.workers) > 2 { // the first one and the last
			must(t, g.loop.once(time.Time{}))
		}
		if !l.opensHang() {
			t.Error("no other one is tried")
		}
	}
	g.Stop()
	must(t, g.Run())
}
