package guard

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// loop calls a function for each descriptor that has events. All of a guardian
// runs on it, in one goroutine, so nothing in this package needs a lock.
type loop struct {
	ep int
	on map[int]func(events uint32)
}

func newLoop() (*loop, error) {
	ep, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("epoll: %w", err)
	}
	return &loop{ep: ep, on: make(map[int]func(uint32))}, nil
}

// add watches fd until del.
func (l *loop) add(fd int, events uint32, f func(events uint32)) error {
	ev := unix.EpollEvent{Events: events, Fd: int32(fd)}
	if err := unix.EpollCtl(l.ep, unix.EPOLL_CTL_ADD, fd, &ev); err != nil {
		return fmt.Errorf("epoll: %w", err)
	}
	l.on[fd] = f
	return nil
}

// mod changes the events of fd, and re-arms a one-shot.
func (l *loop) mod(fd int, events uint32) {
	ev := unix.EpollEvent{Events: events, Fd: int32(fd)}
	_ = unix.EpollCtl(l.ep, unix.EPOLL_CTL_MOD, fd, &ev) // cannot fail for what add took
}

// del forgets fd, which the caller closes afterwards.
func (l *loop) del(fd int) {
	if l.on[fd] != nil {
		delete(l.on, fd)
		_ = unix.EpollCtl(l.ep, unix.EPOLL_CTL_DEL, fd, nil) // as above
	}
}

// once waits until due (for ever if it is zero) and calls what has events.
func (l *loop) once(due time.Time) error {
	timeout := -1
	if !due.IsZero() {
		timeout = int(max(0, (time.Until(due)+time.Millisecond-1)/time.Millisecond))
	}
	var events [32]unix.EpollEvent
	n, err := unix.EpollWait(l.ep, events[:], timeout)
	if err != nil && err != unix.EINTR {
		return fmt.Errorf("epoll: %w", err)
	}
	for _, ev := range events[:max(0, n)] {
		if f := l.on[int(ev.Fd)]; f != nil { // else an earlier one of these forgot it
			f(ev.Events)
		}
	}
	return nil
}
