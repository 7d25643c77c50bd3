package plug

import (
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/umlvde/umlvde/internal/cvde"
	"github.com/umlvde/umlvde/internal/mmsg"
	"github.com/umlvde/umlvde/internal/relay"
	"golang.org/x/sys/unix"
)

// libPlug is a plugin that is driven through vde_recv and vde_send, a batch a
// call from Go.
type libPlug struct{ plugin }

// allSends is held in vde_send of the plugins with serialSends.
var allSends sync.Mutex

func (p *libPlug) Recv(b *mmsg.Batch) error {
	room := b.Room()
	if p.t.oneByOne {
		room = 1
	}
	n, err := p.conn.Recv(b.Empty(), room, true)
	switch {
	case n > 0:
		b.Filled(n)
		return nil
	case err == nil:
		return unix.EAGAIN
	case err == io.EOF: //nolint:errorlint // cvde returns it bare
		return io.EOF
	case p.t.pumps: // it is about one of those that it serves
		return unix.EAGAIN
	}
	var errno unix.Errno
	if errors.As(err, &errno) && p.t.refuses(errno) {
		return unix.EAGAIN
	}
	return fmt.Errorf("receive: %w", err)
}

func (p *libPlug) Send(b *mmsg.Batch, c *relay.Counters) error {
	if p.t.serialSends {
		allSends.Lock()
		defer allSends.Unlock()
	}
	return sendLibrary(p.conn, b, c, &p.t, mmsg.Max, p.t.pollOut)
}

// sendLibrary sends up to most frames of b with vde_send.
func sendLibrary(conn *cvde.Conn, b *mmsg.Batch, c *relay.Counters, t *traits, most int, poll bool) error {
	for most > 0 && b.Len() > 0 {
		v, n := b.Headers()
		n, err := conn.Send(v, min(n, most), poll)
		c.Sent(n, b.Bytes(n))
		b.Drop(n)
		most -= n
		if err == nil {
			continue
		}
		var errno unix.Errno
		switch errors.As(err, &errno); {
		case errno == unix.EAGAIN, errno == unix.EINTR:
			return unix.EAGAIN
		case t.refuses(errno):
			b.Drop(1)
			c.Dropped(relay.Refused, 1)
			most--
		default:
			return fmt.Errorf("send: %w", err)
		}
	}
	return nil
}

// Fds names datafd for room only where it tells of that, which an epoll or the
// reading end of a pipe never does.
func (p *libPlug) Fds() (r, w, ctl int) {
	if p.t.nonblock || p.t.pollOut {
		return p.plugin.Fds()
	}
	return p.data, -1, p.ctl
}

func (p *libPlug) CallsC() bool { return true }
