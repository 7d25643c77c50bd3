//go:build linux

package libvdeplug

import (
	"os"

	"github.com/umlvde/umlvde/internal/epoll"
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
//
// The descriptor for frames is one-shot: else each frame, and each frame that is
// read at the other end of a socket, would wake one of the runtime's threads,
// whether somebody waits or not, and cost three times as much.
type poller struct {
	*epoll.Epoll
	look func(epfd uintptr) bool // p.ready; kept, because making it anew would allocate
	data unix.EpollEvent         // the descriptor for frames and its events; Fd is -1 if there is none
	ctl  int                     // the other one, or -1
	op   int                     // what arms data; 0 if it is armed

	// What the last wait has found, for its caller.
	slept  bool  // nothing was ready at first
	hungUp bool  // the descriptor for frames is
	news   bool  // ctl was readable
	err    error // of the kernel
}

// newPoller makes a poller for events of fd. A descriptor of -1 is none.
func newPoller(fd int, events uint32, ctl int) (*poller, error) {
	e, err := epoll.New()
	if err != nil {
		return nil, err
	}
	p := &poller{
		Epoll: e,

		data: unix.EpollEvent{Events: events | unix.EPOLLONESHOT, Fd: int32(fd)},
		ctl:  ctl,
		op:   unix.EPOLL_CTL_ADD,
	}
	p.look = p.ready
	if ctl >= 0 {
		if err := watch(e.Fd, ctl); err != nil {
			_ = e.File.Close()
			return nil, err
		}
	}
	return p, nil
}

// watch adds a descriptor to an epoll until one of them is closed.
func watch(epfd, fd int) error {
	e := unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)}
	return os.NewSyscallError("epoll_ctl", unix.EpollCtl(epfd, unix.EPOLL_CTL_ADD, fd, &e))
}

// wait parks the caller until a descriptor is ready, the deadline of p.File has
// passed or p.File is closed. One caller at a time.
func (p *poller) wait() error {
	p.slept, p.hungUp, p.news, p.err = false, false, false, nil
	if err := p.Wait(p.look); err != nil {
		return err
	}
	return p.err
}

// ready reports whether a descriptor is ready, without waiting.
func (p *poller) ready(epfd uintptr) bool {
	if p.op != 0 && p.data.Fd >= 0 {
		if err := unix.EpollCtl(int(epfd), p.op, int(p.data.Fd), &p.data); err != nil {
			p.err = os.NewSyscallError("epoll_ctl", err)
			return true
		}
		p.op = 0
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
			continue
		}
		p.op = unix.EPOLL_CTL_MOD
		if e.Events&unix.EPOLLHUP != 0 {
			p.hungUp = true
		}
	}
	return true
}

// disarm asks for no event of the descriptor for frames until the next wait. The
// caller must be sure that p.File is open and that nobody waits.
func (p *poller) disarm() {
	if p.op != 0 || p.data.Fd < 0 {
		return
	}
	none := unix.EpollEvent{Events: unix.EPOLLONESHOT, Fd: p.data.Fd}
	_ = unix.EpollCtl(p.Fd, unix.EPOLL_CTL_MOD, int(p.data.Fd), &none) // the next wait will tell
	p.op = unix.EPOLL_CTL_MOD
}
