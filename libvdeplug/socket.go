//go:build linux

package libvdeplug

import (
	"errors"
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// SetReadBuffer sets how many bytes of frames may wait to be read, as
// [net.UDPConn.SetReadBuffer] does, if the network is a socket in which they
// wait: udp, vxlan. It has no effect on unix sockets (vde, ptp, slirp), where
// the sender's buffer counts. Where there is no socket (tap, hub, vxvde), the
// error is [errors.ErrUnsupported].
func (c *Conn) SetReadBuffer(bytes int) error {
	r, _, _ := c.plug.Fds()
	return c.setBuffer(&c.rd, r, unix.SO_RCVBUF, bytes)
}

// SetWriteBuffer sets how many bytes of frames may wait that the network has not
// taken yet, before a write waits, too; it fails as [Conn.SetReadBuffer] does.
// The kernel counts more than the bytes of a frame, some 700 bytes for each.
func (c *Conn) SetWriteBuffer(bytes int) error {
	_, w, _ := c.plug.Fds()
	return c.setBuffer(&c.wr, w, unix.SO_SNDBUF, bytes)
}

func (c *Conn) setBuffer(h *half, fd, option, bytes int) error {
	h.mu.Lock() // shut takes it, too, before the plug is closed
	defer h.mu.Unlock()
	if isClosed(c.done) {
		return c.fail("set buffer", net.ErrClosed)
	}
	err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, option, bytes)
	if err == unix.ENOTSOCK || err == unix.EBADF {
		err = errors.ErrUnsupported
	}
	return c.fail("set buffer", err)
}

// SyscallConn returns a descriptor to be polled, with Control: it is readable
// when the network has frames, or something else to say. It must not be read,
// written or closed; the RawConn's Read and Write fail with
// [errors.ErrUnsupported].
//
// Frames that were taken out of the network and not read do not show in the
// descriptor. A Read takes only one; a ReadBatch takes no more than it returns if
// each buffer is long enough. But cmd:// and VNLs with another in braces (vlan,
// agno) may keep some: read these without polling.
func (c *Conn) SyscallConn() (syscall.RawConn, error) {
	h := &c.rd
	h.mu.Lock()
	defer h.mu.Unlock()
	if isClosed(c.done) {
		return nil, c.fail("syscall", net.ErrClosed)
	}
	if c.polled != nil {
		return c.polled, nil
	}
	epfd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, c.fail("syscall", os.NewSyscallError("epoll_create1", err))
	}
	r := &rawConn{c: c, file: os.NewFile(uintptr(epfd), "epoll")}
	data, _, ctl := c.plug.Fds()
	for _, fd := range []int{data, ctl} {
		if fd >= 0 && err == nil {
			err = watch(epfd, fd)
		}
	}
	if err == nil {
		r.raw, err = r.file.SyscallConn()
	}
	if err != nil {
		r.file.Close()
		return nil, c.fail("syscall", err)
	}
	c.polled = r
	return r, nil
}

var _ syscall.Conn = (*Conn)(nil)

// rawConn is an epoll descriptor of its own over those of the plug, which must not
// be handed out.
type rawConn struct {
	c    *Conn
	file *os.File
	raw  syscall.RawConn
}

func (r *rawConn) Control(f func(fd uintptr)) error {
	err := r.raw.Control(f)
	if err != nil && isClosed(r.c.done) {
		err = net.ErrClosed // the runtime's own error for it is private
	}
	return r.c.fail("syscall", err)
}

func (r *rawConn) Read(func(fd uintptr) bool) error {
	return r.c.fail("syscall", errors.ErrUnsupported)
}

func (r *rawConn) Write(func(fd uintptr) bool) error {
	return r.c.fail("syscall", errors.ErrUnsupported)
}
