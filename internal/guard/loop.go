package guard

import (
	"fmt"
	"time"
	"unsafe"

	"github.com/umlvde/umlvde/internal/epoll"
	"golang.org/x/sys/unix"
)

// loop calls a function for each descriptor that has events. All of a guardian
// runs on it, in one goroutine, so nothing in this package needs a lock.
//
// It waits in the runtime's poller, which watches its epoll, and for the time on
// a timerfd in that: a thread that blocked in epoll_wait(2) would keep Go's own
// watchdog thread busy for a while after each of a guardian's ticks, and a timer
// of Go's wakes up that thread, too.
type loop struct {
	ep    *epoll.Epoll
	look  func(uintptr) bool // l.ready; kept, because making it anew would allocate
	on    map[int]func(events uint32)
	timer int       // timerfd, readable from due on
	due   time.Time // zero: never

	events [32]unix.EpollEvent
	n      int // how many of them ready has found
}

func newLoop() (*loop, error) {
	ep, err := epoll.New()
	if err != nil {
		return nil, err
	}
	l := &loop{ep: ep, on: make(map[int]func(uint32))}
	l.look = l.ready
	if l.timer, err = unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_CLOEXEC|unix.TFD_NONBLOCK); err != nil {
		return nil, fmt.Errorf("timerfd: %w", err)
	}
	return l, l.add(l.timer, unix.EPOLLIN, func(uint32) {}) // that it wakes up the loop is all
}

// add watches fd until del.
func (l *loop) add(fd int, events uint32, f func(events uint32)) error {
	ev := unix.EpollEvent{Events: events, Fd: int32(fd)}
	if err := unix.EpollCtl(l.ep.Fd, unix.EPOLL_CTL_ADD, fd, &ev); err != nil {
		return fmt.Errorf("epoll: %w", err)
	}
	l.on[fd] = f
	return nil
}

// mod changes the events of fd, and re-arms a one-shot.
func (l *loop) mod(fd int, events uint32) {
	ev := unix.EpollEvent{Events: events, Fd: int32(fd)}
	_ = unix.EpollCtl(l.ep.Fd, unix.EPOLL_CTL_MOD, fd, &ev) // cannot fail for what add took
}

// del forgets fd, which the caller closes afterwards, and its events at hand: the
// next file to be opened gets the same number.
func (l *loop) del(fd int) {
	if l.on[fd] == nil {
		return
	}
	delete(l.on, fd)
	_ = unix.EpollCtl(l.ep.Fd, unix.EPOLL_CTL_DEL, fd, nil) // as above
	for i := range l.events[:l.n] {
		if l.events[i].Fd == int32(fd) {
			l.events[i].Fd = -1
		}
	}
}

// once waits until due (for ever if it is zero) and calls what has events.
func (l *loop) once(due time.Time) error {
	l.n = 0
	if due != l.due { // or the timer is on its way, or says so still
		l.alarm(due)
	}
	if !l.ready(uintptr(l.ep.Fd)) {
		if err := l.ep.Wait(l.look); err != nil {
			return fmt.Errorf("epoll: %w", err)
		}
	}
	for _, ev := range l.events[:l.n] {
		if f := l.on[int(ev.Fd)]; f != nil { // else an earlier one of these forgot it
			f(ev.Events)
		}
	}
	return nil
}

// alarm sets the timer.
func (l *loop) alarm(due time.Time) {
	l.due = due
	var spec unix.ItimerSpec // of 0, which stops it
	if !due.IsZero() {
		spec.Value = unix.NsecToTimespec(int64(max(1, time.Until(due))))
	}
	_ = unix.TimerfdSettime(l.timer, 0, &spec, nil) // good values cannot fail
}

// ready takes the events that are there, without waiting, and reports whether
// there are any.
func (l *loop) ready(ep uintptr) bool {
	n, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, ep, uintptr(unsafe.Pointer(&l.events)), uintptr(len(l.events)), 0, 0, 0)
	if errno == 0 {
		l.n = int(n)
	}
	return l.n > 0
}
