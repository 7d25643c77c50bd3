package libvdeplug

import (
	"errors"
	"strconv"
	"strings"
)

// ErrFrameSize says that a frame was not sent because it has fewer than
// [MinFrameSize] bytes or more than its network can carry.
var ErrFrameSize = errors.New("not a frame that the network carries: too short or too long")

// ErrBridged says that a Conn is in use by a [Bridge].
var ErrBridged = errors.New("the Conn is in use by a Bridge")

// CrashError is why an isolated Conn has ended if it was neither its network
// nor its plugin that said so: the child process has crashed or did not move,
// and was killed. It also comes from an Open during which the child ended.
type CrashError struct {
	Reason string // one line for people
}

// Error returns the reason.
func (e *CrashError) Error() string { return e.Reason }

// OpError is the type of all errors of this package, except a bare [io.EOF]. It
// implements [net.Error].
type OpError struct {
	Op  string // "load", "open", "read", "write", "bridge", "close" and so on
	VNL string // the network
	Err error  // the reason; often a syscall.Errno, wrapped or bare
}

// Error returns the operation, the network and the reason, in one line.
func (e *OpError) Error() string {
	s := "libvdeplug: " + e.Op
	if e.Op != "load" {
		s += " " + strconv.Quote(e.VNL)
	}
	printable := func(r rune) rune { // a reason may tell what a VNL has in it
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}
	return s + ": " + strings.Map(printable, e.Err.Error())
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
	err     error
}

// Error says what is wrong with the file.
func (e *PluginError) Error() string { return e.err.Error() }

// Unwrap returns the reason.
func (e *PluginError) Unwrap() error { return e.err }

func loadError(err error) error {
	if err == nil {
		return nil
	}
	return &OpError{Op: "load", Err: err}
}
