//go:build cgo

package cvde

/*
#cgo noescape cvde_stream_send
#cgo nocallback cvde_stream_send
#include "cvde.h"
*/
import "C"

import (
	"unsafe"

	"github.com/mattn/go-pointer"
	"golang.org/x/sys/unix"
)

// A StreamHandler is what a Stream calls from within Recv.
type StreamHandler interface {
	// StreamFrame is given a frame, valid until it returns.
	StreamFrame(frame []byte)
	// StreamError is told that the library has thrown a part of the stream away;
	// kind is the library's own number.
	StreamError(kind int)
}

// A Stream is a vdestream. Recv and Send may run at the same time, but each only
// once; Close must not run with any of them.
type Stream struct {
	c      *C.struct_cvde_stream
	opaque unsafe.Pointer
}

// OpenStream calls vdestream_open. What is sent is written to fd, which remains
// the caller's.
func (l *Library) OpenStream(fd int, h StreamHandler) (*Stream, error) {
	s := &Stream{opaque: pointer.Save(h)}
	c, err := C.cvde_stream_open(l.c, s.opaque, C.int(fd))
	if c == nil {
		pointer.Unref(s.opaque)
		return nil, err
	}
	s.c = c
	return s, nil
}

// Send calls vdestream_send and returns what writev returned there: the frame's
// length and 2, less if the descriptor took less, 0 if the frame is too long for
// the library.
func (s *Stream) Send(frame []byte) (int, error) {
	r := C.cvde_stream_send(s.c, unsafe.Pointer(unsafe.SliceData(frame)), C.size_t(len(frame)))
	if r < 0 {
		return 0, unix.Errno(-r)
	}
	return int(r), nil
}

// Recv gives a piece of the stream to vdestream_recv, which calls the handler for
// each frame that is complete. It loses the first byte of a length of which the
// piece has only that: give it none of these.
func (s *Stream) Recv(piece []byte) {
	C.cvde_stream_recv(s.c, unsafe.Pointer(unsafe.SliceData(piece)), C.size_t(len(piece)))
}

// Close calls vdestream_close.
func (s *Stream) Close() {
	C.cvde_stream_close(s.c)
	pointer.Unref(s.opaque)
}

//export goStreamFrame
func goStreamFrame(opaque, buf unsafe.Pointer, n C.size_t) {
	pointer.Restore(opaque).(StreamHandler).StreamFrame(unsafe.Slice((*byte)(buf), int(n)))
}

//export goStreamError
func goStreamError(opaque unsafe.Pointer, kind C.int) {
	pointer.Restore(opaque).(StreamHandler).StreamError(int(kind))
}
