package plug

import (
	"fmt"

	"github.com/umlvde/umlvde/internal/mmsg"
	"github.com/umlvde/umlvde/internal/relay"
	"golang.org/x/sys/unix"
)

// tapPlug is a tap device, opened by the library: one frame a read or write,
// which do not wait. The device takes no recvmmsg.
type tapPlug struct {
	plugin
}

// isBareTap reports whether fd is a tap whose frames have no header of the
// kernel's before them.
func isBareTap(fd int) bool {
	ifr, err := unix.NewIfreq("")
	if err == nil {
		err = unix.IoctlIfreq(fd, unix.TUNGETIFF, ifr)
	}
	return err == nil && ifr.Uint16()&(unix.IFF_TAP|unix.IFF_NO_PI|unix.IFF_VNET_HDR) == unix.IFF_TAP|unix.IFF_NO_PI
}

func (p *tapPlug) Recv(b *mmsg.Batch) error {
	b.Clear()
	for b.Len() < b.Room() {
		n, errno := mmsg.Read(p.data, b.Tail())
		switch {
		case errno == 0:
			b.Extend(n)
			continue
		case b.Len() > 0: // the next call will say it again
			return nil
		case errno == unix.EAGAIN, errno == unix.EINTR, p.t.refuses(errno):
			return unix.EAGAIN
		case errno == unix.EBADFD:
			return errDeleted
		}
		return fmt.Errorf("receive: %w", errno)
	}
	return nil
}

func (p *tapPlug) Send(b *mmsg.Batch, c *relay.Counters) error {
	for b.Len() > 0 {
		frame := b.Frame(0)
		_, errno := mmsg.Write(p.data, frame)
		switch {
		case errno == 0:
			c.Sent(1, uint64(len(frame)))
		case errno == unix.EAGAIN, errno == unix.EINTR:
			return unix.EAGAIN
		case p.t.refuses(errno):
			c.Dropped(relay.Refused, 1)
		case errno == unix.EBADFD:
			return errDeleted
		default:
			return fmt.Errorf("send: %w", errno)
		}
		b.Drop(1)
	}
	return nil
}

var errDeleted = fmt.Errorf("the interface was deleted: %w", unix.EBADFD)
