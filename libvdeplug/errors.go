package libvdeplug

import (
	"errors"
	"strconv"

	"github.com/umlvde/umlvde/internal/plug"
)

// ErrFrameSize says that a frame was not sent because it has fewer than
// [MinFrameSize] bytes or more than its network can carry.
var ErrFrameSize = errors.New("not a frame that the network carries: too short or too long")

// OpError is the type of all errors of this package, except a bare [io.EOF]. It
// implements [net.Error].
type OpError struct {
	Op  string // "load", "open", "read", "write", "set deadline" or "close"
	VNL string // the network
	Err error  // the reason; often a syscall.Errno, wrapped or bare
}

// Error returns the operation, the network and the reason.
func (e *OpError) Error() string {
	s := "libvdeplug: " + e.Op
	if e.Op != "load" {
		s += " " + strconv.Quote(e.VNL)
	}
	return s + ": " + e.Err.Error()
}

// Unwrap returns Err.
func (e *OpError) Unwrap() error { return e.Err }

// Timeout reports whether the reason is a deadline that has passed.
func (e *OpError) Timeout() bool {
	var t interface{ Timeout() bool }
	return errors.As(e.Err, &t) && t.Timeout()
}

// Temporary is Timeout; [net.Error] asks for it.
func (e *OpError) Temporary() bool { return e.Timeout() }

// PluginError is the reason why [Open] has no use of a VNL's plugin: it is
// missing, and errors.Is(err, [fs.ErrNotExist]) is true, or it does not load.
// Where a plugin was loaded and then refused, there is no PluginError in the
// chain, only the errno it left. The C library tells the one from the other no
// more than by EPROTONOSUPPORT, which a PluginError also is.
type PluginError struct {
	Plugin  string // its name in the VNL
	File    string // the file that is missing or does not load
	Package string // the Debian package that has it, "" if unknown
	err     *plug.PluginError
}

// Error says what is wrong with the file.
func (e *PluginError) Error() string { return e.err.Error() }

// Unwrap returns the reason.
func (e *PluginError) Unwrap() error { return e.err }

// openError makes an internal error of an open one of this package.
func openError(vnl string, err error) error {
	var p *plug.PluginError
	if errors.As(err, &p) {
		err = &PluginError{Plugin: p.Plugin, File: p.File, Package: p.Package, err: p}
	}
	return &OpError{Op: "open", VNL: vnl, Err: err}
}
