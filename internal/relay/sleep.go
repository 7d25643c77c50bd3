package relay

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"time"

	"github.com/umlvde/umlvde/internal/epoll"
	"github.com/umlvde/umlvde/internal/mmsg"
	"golang.org/x/sys/unix"
)

// A loner is what a relay needs that is alone in its process: ways to wait for
// frames, each for another time. It spins for microseconds, it blocks its thread
// for milliseconds, and for longer it parks.
type loner struct {
	spinner
	clock *clock
	bed   *bed
}

func newLoner() (*loner, error) {
	l := &loner{spinner: spinner{skips: maxSkips}} // a few frames are not worth it
	l.load.open()
	var err error
	if l.clock, err = newClock(); err != nil {
		l.load.close()
		return nil, err
	}
	if l.bed, err = newBed(); err != nil {
		l.load.close()
		l.clock.close()
		return nil, err
	}
	return l, nil
}

func (l *loner) close() {
	l.load.close()
	l.clock.close()
	l.bed.close()
}

// sleep waits until a descriptor of set has events, for ns nanoseconds, or
// without an end if ns < 0; or for no reason. There must be room in the array
// behind set for one more.
//
// While frames come, Go's scheduler is not told that the thread sleeps: to give
// back the turn, and to get it again, costs more than many a frame.
func (l *loner) sleep(set []unix.PollFd, ns int64) error {
	l.clock.run()
	timed := l.skips == 0 // or the next one goes without a try
	if timed {
		l.slept = time.Now()
	}
	all := append(set, pollFd(l.clock.fd, unix.POLLIN))
	n, errno := mmsg.Poll(all, ns)
	if timed {
		l.brief = time.Since(l.slept) < worthwhile
	}
	switch {
	case errno != 0:
		return errno
	case all[len(set)].Revents == 0:
		return nil
	}
	if l.clock.tick() && n == 1 {
		l.clock.stop()
		return l.bed.park(set, ns)
	}
	// Who keeps a turn for 10 ms is watched: sysmon would take it away from the next
	// call of C, and then come to look each 20 us for a while.
	runtime.Gosched()
	return nil
}

// A bed is where a relay sleeps without keeping one of Go's threads: the
// descriptors are put into an epoll, and that is what the runtime's poller
// watches. A goroutine that is woken up by it does not set off the scheduler's
// own watchdog thread (sysmon of package runtime), which after any call that
// blocks a thread comes to look some sixty times within a few milliseconds.
type bed struct {
	*epoll.Epoll
	look func(epfd uintptr) bool // ready; kept, because making it anew would allocate
}

func newBed() (*bed, error) {
	e, err := epoll.New()
	return &bed{e, ready}, err
}

func (b *bed) close() { _ = b.File.Close() }

// ready reports whether a descriptor in the epoll has events.
func ready(epfd uintptr) bool { return mmsg.Readable(int(epfd)) }

// park waits until a descriptor of set has events, for ns nanoseconds, or without
// an end if ns < 0. It says which as poll(2) does. The descriptors are in the
// epoll only meanwhile: each frame that passes through them would cost more.
func (b *bed) park(set []unix.PollFd, ns int64) error {
	if ns >= 0 {
		if err := b.File.SetReadDeadline(time.Now().Add(time.Duration(ns))); err != nil {
			return err
		}
		defer func() { _ = b.File.SetReadDeadline(time.Time{}) }() // as it was
	}
	err := b.fill(set)
	if err == nil {
		err = b.Wait(b.look)
	}
	for _, p := range set {
		if p.Fd >= 0 {
			_ = unix.EpollCtl(b.Fd, unix.EPOLL_CTL_DEL, int(p.Fd), nil) // or it was never there
		}
	}
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		return err
	}
	_, errno := mmsg.Poll(set, 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// fill puts the descriptors of set, some of which may be there twice, into the
// epoll.
func (b *bed) fill(set []unix.PollFd) error {
	for i, p := range set {
		if p.Fd < 0 {
			continue
		}
		ev := unix.EpollEvent{Events: uint32(p.Events), Fd: p.Fd} // the bits of poll(2) are those of epoll(7)
		op := unix.EPOLL_CTL_ADD
		for _, q := range set[:i] {
			if q.Fd == p.Fd {
				op = unix.EPOLL_CTL_MOD
				ev.Events |= uint32(q.Events)
			}
		}
		if err := unix.EpollCtl(b.Fd, op, int(p.Fd), &ev); err != nil {
			return fmt.Errorf("epoll: %w", err)
		}
	}
	return nil
}

// quietTick is how often a relay that is alone looks whether frames still come.
// After a tick without any it parks, and lets others have its turn.
const quietTick = 5 * time.Millisecond

// A clock ticks each quietTick, on a descriptor. A timeout of each poll would do
// as well, but setting a timer costs more than the rest of a poll.
type clock struct {
	fd      int // timerfd
	running bool
	quiet   bool // nothing has moved since the last tick
}

func newClock() (*clock, error) {
	fd, err := unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_CLOEXEC|unix.TFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("timerfd: %w", err)
	}
	return &clock{fd: fd}, nil
}

func (c *clock) close() { _ = unix.Close(c.fd) }

// run starts the clock: what has moved before does not count.
func (c *clock) run() {
	if !c.running {
		t := unix.NsecToTimespec(int64(quietTick))
		c.set(t)
		c.running, c.quiet = true, true
	}
}

// stop stops it.
func (c *clock) stop() {
	c.set(unix.Timespec{})
	c.running, c.quiet = false, false
}

func (c *clock) set(t unix.Timespec) {
	_ = unix.TimerfdSettime(c.fd, 0, &unix.ItimerSpec{Interval: t, Value: t}, nil) // good values cannot fail
}

// tick takes a tick and reports whether it was a quiet one.
func (c *clock) tick() bool {
	var b [8]byte
	_, _ = mmsg.Read(c.fd, b[:])
	quiet := c.quiet
	c.quiet = true
	return quiet
}
