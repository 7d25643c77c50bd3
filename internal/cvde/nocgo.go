//go:build !cgo

// Package cvde stands for the C library in a program that is built without cgo:
// it cannot be loaded, and whatever needs it says so.
package cvde

import (
	"errors"
	"fmt"
	"unsafe"
)

// EthBufSize is as in the package with cgo.
const EthBufSize = 9234

// ErrUnspecified is as in the package with cgo.
var ErrUnspecified = errors.New("refused without a reason")

var errNoCgo = fmt.Errorf("this program was built without cgo: %w", errors.ErrUnsupported)

// A Library is never made.
type Library struct{}

// A Conn is never made.
type Conn struct{}

// OpenArgs is struct vde_open_args.
type OpenArgs struct {
	Port  int
	Group string
	Mode  uint32
}

// Load fails.
func Load(string) (*Library, error) { return nil, errNoCgo }

// Probe fails.
func Probe(string) error { return errNoCgo }

// Path returns "".
func (*Library) Path() string { return "" }

// Open fails.
func (*Library) Open(_, _ string, _ *OpenArgs) (*Conn, error) { return nil, errNoCgo }

// DataFd returns -1.
func (*Conn) DataFd() int { return -1 }

// CtlFd returns -1.
func (*Conn) CtlFd() int { return -1 }

// Peek does nothing.
func (*Conn) Peek(uint16) {}

// Prime does nothing.
func (*Conn) Prime() {}

// Recv fails.
func (*Conn) Recv(unsafe.Pointer, int, bool) (int, error) { return 0, errNoCgo }

// Send fails.
func (*Conn) Send(unsafe.Pointer, int, bool) (int, error) { return 0, errNoCgo }

// Close fails.
func (*Conn) Close() error { return errNoCgo }

// A StreamHandler is as in the package with cgo.
type StreamHandler interface {
	StreamFrame(frame []byte)
	StreamError(kind int)
}

// A Stream is never made.
type Stream struct{}

// OpenStream fails.
func (*Library) OpenStream(int, StreamHandler) (*Stream, error) { return nil, errNoCgo }

// Send fails.
func (*Stream) Send([]byte) (int, error) { return 0, errNoCgo }

// Recv does nothing.
func (*Stream) Recv([]byte) {}

// Close does nothing.
func (*Stream) Close() {}
