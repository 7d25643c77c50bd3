package plug

import (
	"sync"
	"sync/atomic"

	"github.com/umlvde/umlvde/internal/mmsg"
	"github.com/umlvde/umlvde/internal/relay"
	"golang.org/x/sys/unix"
)

// ptpPlug is a cable between two datagram sockets with names, each connected to
// the other. An end that ends says nothing, and what replaces it cannot send to
// one that is connected to its predecessor, which only a frame the other way
// would end. So it is watched whether the other end's name is removed.
type ptpPlug struct {
	sockPlug
	peer string // the other end's name
	ino  int    // -1: not watched

	mu    sync.Mutex
	armed bool
	left  atomic.Bool // the other end is gone; what it has sent may still be in the socket
}

func newPtp(p plugin, base string) Plug {
	t := &ptpPlug{sockPlug: sockPlug{plugin: p}, ino: -1}
	own, err := unix.Getsockname(p.data)
	if name, ok := own.(*unix.SockaddrUnix); err == nil && ok && name.Name != "" {
		if t.peer = base; name.Name == base {
			t.peer += "+"
		}
		if t.ino, err = unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK); err != nil {
			t.ino = -1 // a frame towards the other end will do
		}
	}
	t.arm() // the second end is connected from the start
	return t
}

// arm watches the other end's name, if it is there.
func (p *ptpPlug) arm() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.armed && p.ino >= 0 {
		_, err := unix.InotifyAddWatch(p.ino, p.peer, unix.IN_ATTRIB|unix.IN_DELETE_SELF)
		if p.armed = err == nil; p.armed {
			p.left.Store(false)
		}
	}
}

func (p *ptpPlug) Recv(b *mmsg.Batch) error {
	err := p.sockPlug.Recv(b)
	if p.left.Load() {
		p.letGo()
	}
	return err
}

func (p *ptpPlug) Send(b *mmsg.Batch, c *relay.Counters) error {
	before := c.Out.Load()
	err := p.sockPlug.Send(b, c)
	if c.Out.Load() > before { // it is connected
		p.arm()
	}
	return err
}

func (p *ptpPlug) Fds() (r, w, ctl int) { return p.data, p.data, p.ino }

// Check learns that the other end has gone.
func (p *ptpPlug) Check() error {
	p.mu.Lock()
	var b [4096]byte
	_, _ = unix.Read(p.ino, b[:])
	p.armed = false
	p.left.Store(true)
	p.mu.Unlock()
	p.letGo()
	return nil
}

// letGo disconnects the socket from an end that has gone, so that it hears whoever
// comes; the next frame connects it again. The kernel throws away what is in the
// socket then, so that is read before.
func (p *ptpPlug) letGo() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.left.Load() && !mmsg.Readable(p.data) {
		_ = mmsg.Disconnect(p.data)
		p.left.Store(false)
	}
}

func (p *ptpPlug) Close() error {
	if p.ino >= 0 {
		_ = unix.Close(p.ino)
	}
	return p.sockPlug.Close()
}
