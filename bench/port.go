package main

import (
	"io"
	"sync/atomic"

	"github.com/umlvde/umlvde/internal/mmsg"
	"github.com/umlvde/umlvde/internal/plug"
	"github.com/umlvde/umlvde/internal/relay"
	"golang.org/x/sys/unix"
)

// A port is where the benchmark puts frames in and takes them out: the guest's
// end of a helper, or its far end.
type port interface {
	// recv replaces what b holds; unix.EAGAIN if nothing waits.
	recv(b *mmsg.Batch) error
	// send takes frames out of b; unix.EAGAIN if there is no room for the rest.
	send(b *mmsg.Batch) error
	// fd is to be polled.
	fd() int
	// totals tells how many frames went each way, ever.
	totals() (sent, came uint64)
	close()
}

// socketPort is a socket of bare frames, used as UML uses its own.
type socketPort struct {
	sock       int
	sent, came uint64
	passed     atomic.Uint64 // for whoever else wants to know
}

func (s *socketPort) fd() int                     { return s.sock }
func (s *socketPort) totals() (sent, came uint64) { return s.sent, s.came }

func (s *socketPort) recv(b *mmsg.Batch) error {
	errno := b.Recv(s.sock)
	switch {
	case errno == unix.EINTR, errno == unix.ECONNREFUSED: // the latter: udp, nobody listens yet
		return unix.EAGAIN
	case errno != 0:
		b.Clear()
		return errno
	case b.EndsEmpty():
		if b.TrimEmpty(); b.Len() == 0 {
			return io.EOF
		}
	}
	s.came += uint64(b.Len())
	return nil
}

func (s *socketPort) send(b *mmsg.Batch) error {
	for {
		n, errno := b.Send(s.sock)
		s.sent += uint64(n)
		switch errno {
		case 0:
			return nil
		case unix.ENOBUFS: // a full device queue
			b.Drop(1)
		case unix.EAGAIN, unix.EINTR, unix.ECONNREFUSED, unix.ENETDOWN:
			return unix.EAGAIN
		default:
			return errno
		}
	}
}

func (s *socketPort) close() {
	if s.sock >= 0 {
		unix.Close(s.sock)
		s.sock = -1
	}
}

// plugPort is an end that libvdeplug opened.
type plugPort struct {
	plug.Plug
	count relay.Counters
	came  uint64
}

func openPlug(vnl string) (*plugPort, error) {
	p, err := plug.Open(plug.ParseVNL(vnl), plug.Options{Descr: "bench"})
	if err != nil {
		return nil, err
	}
	return &plugPort{Plug: p}, nil
}

func (p *plugPort) fd() int {
	r, _, _ := p.Fds()
	return r
}

func (p *plugPort) recv(b *mmsg.Batch) error {
	err := p.Recv(b)
	if err == nil {
		p.came += uint64(b.Len())
	}
	return err
}

func (p *plugPort) send(b *mmsg.Batch) error    { return p.Send(b, &p.count) }
func (p *plugPort) totals() (sent, came uint64) { return p.count.Out.Load(), p.came }
func (p *plugPort) close()                      { _ = p.Close() } // the process goes on without it
