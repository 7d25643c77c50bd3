// Package cvde is the one place where Go calls C: the libvdeplug4 that is
// installed on the host, loaded with dlopen(3), and loops that move a batch of
// frames in one call. It has types and no policy: package plug knows the
// plugins.
//
// Nothing here may be called with memory of the Go heap for C to keep, and any
// call into a plugin may block for ever: see package plug.
package cvde

/*
#cgo LDFLAGS: -ldl
#cgo noescape cvde_recv
#cgo nocallback cvde_recv
#cgo noescape cvde_send
#cgo nocallback cvde_send
#include <stdlib.h>
#include "cvde.h"
*/
import "C"

import (
	"errors"
	"io"
	"unsafe"

	"golang.org/x/sys/unix"
)

// EthBufSize is the longest frame that vde_recv is asked for, in bytes
// (VDE_ETHBUFSIZE of libvdeplug.h).
const EthBufSize = C.CVDE_ETHBUFSIZE

// ErrUnspecified says that a plugin refused to open and left no errno.
var ErrUnspecified = errors.New("refused without a reason")

// A Library is a loaded libvdeplug. It stays loaded for ever and is safe for
// concurrent use.
type Library struct{ c *C.struct_cvde_lib }

const whySize = 512

// Load dlopens the library: name is a soname or a path. The error's text is
// dlerror's.
func Load(name string) (*Library, error) {
	n := C.CString(name)
	defer C.free(unsafe.Pointer(n))
	why := (*C.char)(C.calloc(1, whySize))
	defer C.free(unsafe.Pointer(why))
	lib := C.cvde_load(n, why, whySize)
	if lib == nil {
		return nil, errors.New(C.GoString(why))
	}
	return &Library{lib}, nil
}

// Path returns the file that was loaded, as the dynamic linker names it.
func (l *Library) Path() string { return C.GoString(C.cvde_path(l.c)) }

// Probe dlopens a plugin's file and unloads it again. The error's text is
// dlerror's.
func Probe(path string) error {
	p := C.CString(path)
	defer C.free(unsafe.Pointer(p))
	why := (*C.char)(C.calloc(1, whySize))
	defer C.free(unsafe.Pointer(why))
	if C.cvde_probe(p, why, whySize) < 0 {
		return errors.New(C.GoString(why))
	}
	return nil
}

// OpenArgs is struct vde_open_args.
type OpenArgs struct {
	Port  int    // of the switch; 0 means any
	Group string // of the data socket; "" means unchanged
	Mode  uint32 // permissions of the data socket
}

// A Conn is an open plug. Which of its methods may run at the same time is the
// plugin's to say.
type Conn struct{ c *C.struct_cvde_conn }

// Open calls vde_open, which may block for ever. args may be nil. The error is
// a unix.Errno or ErrUnspecified.
func (l *Library) Open(vnl, descr string, args *OpenArgs) (*Conn, error) {
	v, d := C.CString(vnl), C.CString(descr)
	defer C.free(unsafe.Pointer(v))
	defer C.free(unsafe.Pointer(d))
	var a *C.struct_cvde_open_args
	if args != nil {
		a = (*C.struct_cvde_open_args)(C.calloc(1, C.sizeof_struct_cvde_open_args))
		defer C.free(unsafe.Pointer(a))
		a.port, a.mode = C.int(args.Port), C.mode_t(args.Mode)
		if args.Group != "" {
			a.group = C.CString(args.Group)
			defer C.free(unsafe.Pointer(a.group))
		}
	}
	out := (**C.struct_cvde_conn)(C.calloc(1, C.size_t(unsafe.Sizeof(uintptr(0)))))
	defer C.free(unsafe.Pointer(out))
	if r := C.cvde_open(l.c, v, d, a, out); r < 0 {
		return nil, result(r)
	}
	return &Conn{*out}, nil
}

// DataFd returns the descriptor to poll for frames, -1 if there is none.
func (c *Conn) DataFd() int { return int(C.cvde_datafd(c.c)) }

// CtlFd returns the descriptor that hangs up when the network dies, or -1.
func (c *Conn) CtlFd() int { return int(C.cvde_ctlfd(c.c)) }

// Peek is for a plugin that returns the length of the buffer for that of a frame
// with a VLAN tag of type tpid, and gives others a tag, if there is room: Recv
// asks the socket for the length before, where it can.
func (c *Conn) Peek(tpid uint16) { C.cvde_peek(c.c, C.uint16_t(tpid)) }

// Prime is for a plugin that reads an address family from the stack before it
// has set it: Recv leaves a good one there.
func (c *Conn) Prime() { C.cvde_prime(c.c) }

// Recv stores up to n frames that are ready in the n struct mmsghdr at v, whose
// buffers hold more than EthBufSize bytes each, and returns how many it stored:
// 0 if there was none. With poll, vde_recv is called only when DataFd is
// readable. The error is io.EOF if vde_recv returned 0, or a unix.Errno.
func (c *Conn) Recv(v unsafe.Pointer, n int, poll bool) (int, error) {
	r := C.cvde_recv(c.c, (*C.struct_mmsghdr)(v), C.int(n), flag(poll))
	if r < 0 {
		return 0, result(r)
	}
	return int(r), nil
}

// Send hands over up to n frames of the n struct mmsghdr at v and returns how
// many the plugin took; the error, a unix.Errno, is about the first one, if it
// took none. With poll, it stops where DataFd is not writable, with EAGAIN.
func (c *Conn) Send(v unsafe.Pointer, n int, poll bool) (int, error) {
	r := C.cvde_send(c.c, (*C.struct_mmsghdr)(v), C.int(n), flag(poll))
	if r < 0 {
		return 0, result(r)
	}
	return int(r), nil
}

// Close calls vde_close, which may block for ever. No other method may run or
// be called afterwards.
func (c *Conn) Close() error {
	if r := C.cvde_close(c.c); r < 0 {
		return result(r)
	}
	return nil
}

func flag(b bool) C.int {
	if b {
		return 1
	}
	return 0
}

// result makes a Go error of a negative result.
func result(r C.int) error {
	switch r {
	case C.CVDE_EOF:
		return io.EOF
	case C.CVDE_UNSPEC:
		return ErrUnspecified
	}
	return unix.Errno(-r)
}
