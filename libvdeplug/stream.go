//go:build linux

package libvdeplug

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"

	"github.com/umlvde/umlvde/internal/cvde"
	"github.com/umlvde/umlvde/internal/plug"
	"golang.org/x/sys/unix"
)

// Stream carries frames through a stream of bytes: a pipe, a TCP connection, the
// standard input and output of vde_plug at the other end. Each frame follows its
// length, two bytes, big endian. It is the C library's vdestream, whose two
// faults do no harm here: it loses a length that comes in two pieces, and goes on
// with garbage when a write takes only a part.
//
// All methods may be called from any goroutine; sends take turns, and so do
// receives.
type Stream struct {
	w     io.Writer
	frame func(frame []byte)
	fail  func(err error)
	lib   *cvde.Stream

	send    sync.Mutex
	pair    [2]int // the library writes to the first, we read from the second
	out     []byte // a frame with its length
	sendErr error  // after it, the stream has the beginning of a frame

	recv    sync.Mutex
	in      []byte // what the library is given; kept from one call to the next: the first byte of a length
	rest    int    // of the frame that the library is waiting for, bytes
	recvErr error  // what has made nonsense of the stream

	closed bool // guarded by both locks
}

// maxStreamFrame is the longest frame of a vdestream, in bytes (libvdestream.c,
// MAXPACKET).
const maxStreamFrame = MaxFrameSize + 2

// OpenStream makes a Stream. What is sent is written to w, a frame in each Write.
// frame is called, from within [Stream.Recv], for each frame that has come; the
// slice is valid until it returns. fail, if not nil, is called in the same way
// when what comes is not a stream of frames; nothing follows then. Neither may call
// methods of the Stream.
func OpenStream(w io.Writer, frame func(frame []byte), fail func(err error)) (*Stream, error) {
	lib, err := plug.Load("")
	if err != nil {
		return nil, loadError(err)
	}
	s := &Stream{w: w, frame: frame, fail: fail, out: make([]byte, 2+maxStreamFrame)}
	// The library ignores how much a write has taken. A socket that keeps messages
	// takes all or nothing, and there is always room for one.
	s.pair, err = unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err == nil {
		if s.lib, err = lib.OpenStream(s.pair[0], (*streamHandler)(s)); err != nil {
			_, _ = unix.Close(s.pair[0]), unix.Close(s.pair[1])
		}
	}
	if err != nil {
		return nil, &OpError{Op: "open", VNL: "stream", Err: err}
	}
	return s, nil
}

// Send sends one frame and returns the error of the writer, if that has one; after
// it, the stream cannot be used. A frame of fewer than [MinFrameSize] bytes, or
// of more than 9236, is refused with [ErrFrameSize].
func (s *Stream) Send(frame []byte) error {
	s.send.Lock()
	defer s.send.Unlock()
	err := s.sendErr
	switch {
	case s.closed:
		err = net.ErrClosed
	case err != nil:
	case len(frame) < MinFrameSize || len(frame) > maxStreamFrame:
		err = ErrFrameSize
	default:
		var n int
		if _, err = s.lib.Send(frame); err == nil {
			n, err = unix.Read(s.pair[1], s.out)
		}
		if err == nil {
			_, err = s.w.Write(s.out[:n])
			s.sendErr = err
		}
	}
	return streamError("write", err)
}

// Recv takes the next bytes of the stream, as they come: frames may begin and end
// anywhere in it. It calls the functions that [OpenStream] was given.
func (s *Stream) Recv(chunk []byte) error {
	s.recv.Lock()
	defer s.recv.Unlock()
	if s.closed {
		return streamError("read", net.ErrClosed)
	}
	if len(chunk) == 0 || s.recvErr != nil {
		return streamError("read", s.recvErr)
	}
	// Count along, to see whether what is there ends within a length.
	s.in = append(s.in, chunk...)
	end := s.rest
	for end+2 <= len(s.in) {
		n := int(binary.BigEndian.Uint16(s.in[end:]))
		end += 2 + n
		if n > maxStreamFrame {
			break // it will say so
		}
	}
	whole := len(s.in)
	if whole-end == 1 { // the first byte of a length
		whole--
	}
	s.rest = max(0, end-whole)
	s.lib.Recv(s.in[:whole])
	s.in = append(s.in[:0], s.in[whole:]...)
	return streamError("read", s.recvErr)
}

// Close frees the Stream; the writer stays open. It waits for a Send or Recv that
// is going on. A second Close fails with [net.ErrClosed].
func (s *Stream) Close() error {
	s.send.Lock()
	defer s.send.Unlock()
	s.recv.Lock()
	defer s.recv.Unlock()
	if s.closed {
		return streamError("close", net.ErrClosed)
	}
	s.closed = true
	s.lib.Close()
	return streamError("close", errors.Join(unix.Close(s.pair[0]), unix.Close(s.pair[1])))
}

func streamError(op string, err error) error {
	if err == nil {
		return nil
	}
	return &OpError{Op: op, VNL: "stream", Err: err}
}

// streamHandler is a Stream as the library calls it.
type streamHandler Stream

func (s *streamHandler) StreamFrame(frame []byte) {
	if len(frame) >= MinFrameSize && s.recvErr == nil {
		s.frame(frame)
	}
}

func (s *streamHandler) StreamError(kind int) {
	s.recvErr = fmt.Errorf("this is not a stream of frames: one would be longer than %d bytes (error %d): %w", maxStreamFrame, kind, unix.EPROTO)
	if s.fail != nil {
		s.fail(streamError("read", s.recvErr))
	}
}
