// Package epoll makes epoll descriptors that wait in Go's runtime poller, which
// costs a goroutine and no thread.
package epoll

import (
	"fmt"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// An Epoll is an epoll(7) descriptor that the runtime's poller watches.
type Epoll struct {
	Fd   int      // File's
	File *os.File // for its deadlines, and Close
	raw  syscall.RawConn
}

// New makes an epoll without descriptors in it.
func New() (*Epoll, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("epoll: %w", err)
	}
	_ = unix.SetNonblock(fd, true) // cannot fail, and asks os.NewFile for the runtime's poller
	e := &Epoll{Fd: fd, File: os.NewFile(uintptr(fd), "epoll")}
	e.raw, err = e.File.SyscallConn()
	if err == nil {
		err = e.File.SetReadDeadline(time.Time{}) // fails unless the runtime polls it
	}
	if err != nil {
		_ = e.File.Close()
		return nil, fmt.Errorf("epoll: %w", err)
	}
	return e, nil
}

// Wait parks the goroutine until ready, which is given Fd and must not wait,
// returns true. It is called at first and each time that Fd has become readable.
// Errors are os.ErrDeadlineExceeded, if File's read deadline has passed, and
// os.ErrClosed. A ready that is made anew for each call would be an allocation.
func (e *Epoll) Wait(ready func(fd uintptr) bool) error { return e.raw.Read(ready) }
