//go:build !linux

package libvdeplug

import (
	"context"
	"errors"
	"io"
	"net"
	"syscall"
	"time"
)

// The C library runs on Linux only. Elsewhere a program builds, and its Opens
// fail.
var errSystem = errors.ErrUnsupported

// Conn is a plug in a virtual network. On this system there is none.
type Conn struct{}

var _ net.Conn = (*Conn)(nil)

// Open fails with an *[OpError] that is [errors.ErrUnsupported].
func Open(vnl string, _ *Options) (*Conn, error) {
	return nil, &OpError{Op: "open", VNL: vnl, Err: errSystem}
}

// OpenContext fails as Open does.
func OpenContext(_ context.Context, vnl string, o *Options) (*Conn, error) { return Open(vnl, o) }

// Available returns [errors.ErrUnsupported] in an *[OpError].
func Available() error { return loadError(errSystem) }

// Version fails as Available does.
func Version() (Info, error) { return Info{}, loadError(errSystem) }

// Plugins fails as Available does.
func Plugins() ([]Plugin, error) { return nil, loadError(errSystem) }

// Unfinished returns 0.
func Unfinished() int { return 0 }

// Bridge fails: there is no Conn.
func Bridge(context.Context, *Conn, *Conn) (Bridged, error) {
	return Bridged{}, &OpError{Op: "bridge", Err: errSystem}
}

func (*Conn) fail(op string) error { return &OpError{Op: op, Err: errSystem} }

// Read fails.
func (c *Conn) Read([]byte) (int, error) { return 0, c.fail("read") }

// ReadBatch fails.
func (c *Conn) ReadBatch([][]byte, []int) (int, error) { return 0, c.fail("read") }

// Write fails.
func (c *Conn) Write([]byte) (int, error) { return 0, c.fail("write") }

// WriteBatch fails.
func (c *Conn) WriteBatch([][]byte) (int, error) { return 0, c.fail("write") }

// Close does nothing.
func (*Conn) Close() error { return nil }

// LocalAddr returns an empty address.
func (*Conn) LocalAddr() net.Addr { return addr("") }

// RemoteAddr returns an empty address.
func (*Conn) RemoteAddr() net.Addr { return addr("") }

// SetDeadline fails.
func (c *Conn) SetDeadline(time.Time) error { return c.fail("set deadline") }

// SetReadDeadline fails.
func (c *Conn) SetReadDeadline(time.Time) error { return c.fail("set deadline") }

// SetWriteDeadline fails.
func (c *Conn) SetWriteDeadline(time.Time) error { return c.fail("set deadline") }

// SetReadBuffer fails.
func (c *Conn) SetReadBuffer(int) error { return c.fail("set buffer") }

// SetWriteBuffer fails.
func (c *Conn) SetWriteBuffer(int) error { return c.fail("set buffer") }

// SyscallConn fails.
func (c *Conn) SyscallConn() (syscall.RawConn, error) { return nil, c.fail("syscall") }

// Stats returns nothing but zeros.
func (*Conn) Stats() Stats { return Stats{} }

// Stream carries frames through a stream of bytes. On this system there is none.
type Stream struct{}

// OpenStream fails as Open does.
func OpenStream(io.Writer, func(frame []byte), func(err error)) (*Stream, error) {
	return nil, &OpError{Op: "open", VNL: "stream", Err: errSystem}
}

func (*Stream) fail(op string) error { return &OpError{Op: op, VNL: "stream", Err: errSystem} }

// Send fails.
func (s *Stream) Send([]byte) error { return s.fail("write") }

// Recv fails.
func (s *Stream) Recv([]byte) error { return s.fail("read") }

// Close does nothing.
func (*Stream) Close() error { return nil }
