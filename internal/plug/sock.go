package plug

import (
	"fmt"
	"io"
	"slices"
	"strconv"

	"github.com/umlvde/umlvde/internal/mmsg"
	"github.com/umlvde/umlvde/internal/relay"
	"golang.org/x/sys/unix"
)

// sockPlug is a plugin whose datafd is a socket of bare frames. The library
// opened it and will close it; the frames go past the library, which would do
// the same, one by one.
type sockPlug struct {
	plugin
}

func (p *sockPlug) Recv(b *mmsg.Batch) error {
	return recvSocket(p.data, b, &p.t)
}

func (p *sockPlug) Send(b *mmsg.Batch, c *relay.Counters) error {
	for {
		errno := sendSocket(p.data, b, c)
		switch {
		case errno == 0:
			return nil
		case errno == unix.EAGAIN:
			return unix.EAGAIN
		case p.t.connects && (errno == unix.ENOTCONN || errno == unix.EDESTADDRREQ):
			// vde_send connects the socket, and sends this one frame.
			if err := sendLibrary(p.conn, b, c, &p.t, 1, false); err != nil {
				return err
			}
		case p.t.refuses(errno):
			b.Drop(1)
			c.Dropped(relay.Refused, 1)
		case errno == unix.EPIPE || errno == unix.ECONNREFUSED || errno == unix.ENOTCONN:
			return io.EOF
		default:
			return fmt.Errorf("send: %w", errno)
		}
	}
}

// sendBuffer is how much our end of a SEQPACKET socket may hold that the other end
// has not read, in bytes: of a unix socket the sender's buffer is the queue, and
// the default, 93 ordinary frames, is little more than a batch. The sockets of
// plugins keep theirs: towards a vde_switch with too few CPUs, a longer queue
// cost guests a quarter of their TCP rate.
const sendBuffer = 1 << 20

// enlarge gives a socket a sendBuffer, or as much of it as the host allows.
func enlarge(fd int) {
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, sendBuffer) != nil {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, sendBuffer) // the default will do
	}
}

// recvSocket is relay.Port's Recv for a socket.
func recvSocket(fd int, b *mmsg.Batch, t *traits) error {
	errno := b.Recv(fd)
	if errno == unix.ECONNRESET { // said once, before what is still to come: the peer left frames unread when it closed
		errno = b.Recv(fd)
	}
	switch {
	case errno == 0 && (t.emptyIsNothing || !b.EndsEmpty()):
		return nil
	case errno == 0 && mmsg.HungUp(fd) && mmsg.Queued(fd) == 0: // what looks like empty frames is the end
		if b.TrimEmpty(); b.Len() == 0 {
			return io.EOF
		}
		return nil
	case errno == 0:
		return nil
	case errno == unix.EAGAIN, errno == unix.EINTR, errno == unix.ECONNRESET, slices.Contains(t.transient, errno):
		return unix.EAGAIN
	}
	return fmt.Errorf("receive: %w", errno)
}

// sendSocket sends b to a socket and counts what went out; the errno is about
// the first frame left.
func sendSocket(fd int, b *mmsg.Batch, c *relay.Counters) unix.Errno {
	bytes := b.Bytes(b.Len())
	sent, errno := b.Send(fd)
	c.Sent(sent, bytes-b.Bytes(b.Len()))
	return errno
}

// A Socket is a plug on a descriptor that the caller owns: a SEQPACKET socket
// of which each message is a frame. UML's end of the cable is one.
type Socket struct {
	fd int
}

// NewSocket makes a plug of a SEQPACKET socket. Close does not close fd.
func NewSocket(fd int) (*Socket, error) {
	switch socketType(fd) {
	case unix.SOCK_SEQPACKET:
		enlarge(fd)
		return &Socket{fd}, nil
	case -1:
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil {
			return nil, fmt.Errorf("descriptor %d is not open: %w", fd, err)
		}
		return nil, fmt.Errorf("descriptor %d is not a socket: %w", fd, unix.ENOTSOCK)
	}
	return nil, fmt.Errorf("descriptor %d is not a SEQPACKET socket: %w", fd, unix.ESOCKTNOSUPPORT)
}

func openSeqpacket(arg string) (Plug, error) {
	fd, err := strconv.Atoi(arg)
	if err != nil || fd < 0 {
		return nil, fmt.Errorf("%q is not the number of a descriptor: %w", arg, unix.EINVAL)
	}
	s, err := NewSocket(fd)
	if err != nil {
		return nil, err
	}
	unix.CloseOnExec(fd)
	return &ownSocket{s}, nil
}

// ownSocket is the plug of a seqpacket:// VNL, which takes the descriptor over.
type ownSocket struct{ *Socket }

// Close closes the descriptor.
func (s *ownSocket) Close() error { return unix.Close(s.fd) }

// Recv is relay.Port's.
func (s *Socket) Recv(b *mmsg.Batch) error { return recvSocket(s.fd, b, &packets) }

// packets is what is known of a Socket: nothing that is special.
var packets traits

// Send is relay.Port's.
func (s *Socket) Send(b *mmsg.Batch, c *relay.Counters) error {
	for {
		switch errno := sendSocket(s.fd, b, c); errno {
		case 0:
			return nil
		case unix.EAGAIN:
			return unix.EAGAIN
		case unix.EMSGSIZE, unix.ENOBUFS, unix.ENOMEM:
			b.Drop(1)
			c.Dropped(relay.Refused, 1)
		case unix.EPIPE, unix.ECONNRESET, unix.ENOTCONN:
			return io.EOF
		default:
			return fmt.Errorf("send: %w", errno)
		}
	}
}

// Fds is relay.Port's.
func (s *Socket) Fds() (r, w, ctl int) { return s.fd, s.fd, -1 }

// Check is relay.Port's: a socket has no control descriptor.
func (s *Socket) Check() error { return nil }

// Pumps is relay.Port's.
func (s *Socket) Pumps() bool { return false }

// CallsC is relay.Port's.
func (s *Socket) CallsC() bool { return false }

// Unsent is relay.Port's.
func (s *Socket) Unsent() bool { return false }

// Parallel is Plug's.
func (s *Socket) Parallel() bool { return true }

// MaxFrame is Plug's.
func (s *Socket) MaxFrame() int { return mmsg.FrameCap }
