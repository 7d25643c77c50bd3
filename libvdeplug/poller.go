//go:build linux

package libvdeplug

import (
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// poller parks a goroutine, and no thread, until a plug's descriptor is ready.
//
// The plug's descriptors are the C library's own: an os.File around one would
// close it, a duplicate would keep slirp from ending. So they are put into
// a private epoll descriptor, which is readable when one of them is ready, and
// only that is given to the runtime's poller.
//
// The runtime listens for edges, the private epoll for levels. Nobody sleeps on
// a level that is there already: ready asks for it after the runtime has begun
// to listen, so a later one is an edge that wakes it.
type poller struct {
	file    *os.File
	raw     syscall.RawConn
	look    func(epfd uintptr) bool // p.ready; kept, because making it anew would allocate
	watched []unix.EpollEvent       // descriptors and their events
	ctl     int                     // the one of them that is not for frames, or -1
	keep    bool                    // they stay in the epoll between two waits
	added   bool

	// What the last wait has found, for its caller.
	slept  bool  // nothing was ready at first
	hungUp bool  // the descriptor for frames is
	news   bool  // ctl was readable
	err    error // of the kernel
}

// newPoller makes a poller; keep is for one that is waited for often, or by
// others through its epoll. A descriptor of -1 is none.
func newPoller(fd int, events uint32, ctl int, keep bool) (*poller, error) {
	epfd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	_ = unix.SetNonblock(epfd, true) // cannot fail, and asks os.NewFile for the runtime's poller
	p := &poller{file: os.NewFile(uintptr(epfd), "epoll"), ctl: ctl, keep: keep}
	if fd >= 0 {
		p.watched = append(p.watched, unix.EpollEvent{Events: events, Fd: int32(fd)})
	}
	if ctl >= 0 {
		p.watched = append(p.watched, unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(ctl)})
	}
	p.look = p.ready
	p.raw, err = p.file.SyscallConn()
	if err == nil {
		err = p.file.SetReadDeadline(time.Time{}) // fails unless the runtime polls it
	}
	if err == nil && keep {
		err = p.control(uintptr(epfd), unix.EPOLL_CTL_ADD)
		p.added = true
	}
	if err != nil {
		_ = p.file.Close()
		return nil, err
	}
	return p, nil
}

// wait parks the caller until a descriptor is ready, the deadline of p.file has
// passed or p.file is closed. One caller at a time.
func (p *poller) wait() error {
	p.slept, p.hungUp, p.news, p.err = false, false, false, nil
	if err := p.raw.Read(p.look); err != nil {
		return err
	}
	return p.err
}

// ready reports whether a descriptor is ready, without waiting.
func (p *poller) ready(epfd uintptr) bool {
	if !p.added {
		if p.err = p.control(epfd, unix.EPOLL_CTL_ADD); p.err != nil {
			return true
		}
		p.added = true
	}
	var events [2]unix.EpollEvent
	n, err := unix.EpollWait(int(epfd), events[:], 0)
	switch {
	case err != nil && err != unix.EINTR:
		p.err = os.NewSyscallError("epoll_wait", err)
		return true
	case n <= 0:
		p.slept = true
		return false
	}
	for _, e := range events[:n] {
		if int(e.Fd) == p.ctl {
			p.news = true
		} else if e.Events&unix.EPOLLHUP != 0 {
			p.hungUp = true
		}
	}
	if !p.keep {
		p.err = p.control(epfd, unix.EPOLL_CTL_DEL)
		p.added = false
	}
	return true
}

// control adds or removes the descriptors.
func (p *poller) control(epfd uintptr, op int) error {
	for i := range p.watched {
		e := &p.watched[i]
		if err := unix.EpollCtl(int(epfd), op, int(e.Fd), e); err != nil {
			return os.NewSyscallError("epoll_ctl", err)
		}
	}
	return nil
}
