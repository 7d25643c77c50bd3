package guard

import (
	"testing"
	"time"

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
	t.Cleanup(func() { _, _ = g.loop.ep.File.Close(), g.null.Close() })
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
