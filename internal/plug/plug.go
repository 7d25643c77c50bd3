// Package plug opens VNLs: through libvdeplug and its plugins, each driven the
// fastest way that is known to be right for it, or by itself where a VNL is
// only a descriptor or a command.
package plug

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"strings"
	"syscall"
	"time"

	"github.com/umlvde/umlvde/internal/cvde"
	"github.com/umlvde/umlvde/internal/mmsg"
	"github.com/umlvde/umlvde/internal/relay"
	"golang.org/x/sys/unix"
)

// Options are the particulars of an open; the zero value is good.
type Options struct {
	Descr   string      // shown in a switch's port list
	Port    int         // port of the switch; 0 means any
	Group   string      // group that owns the data socket; "" means unchanged
	Mode    fs.FileMode // permissions of the data socket; 0 means 0700
	Library string      // the library to load; "" means the host's
}

// A Plug is an open VNL. Nothing in it waits, except that Send waits in
// plugins that cannot do without; a plugin that misbehaves may keep any call
// for ever.
type Plug interface {
	relay.Port

	// Parallel says that Recv and Send may run at the same time. Each of
	// them takes one caller at a time in any case.
	Parallel() bool

	// MaxFrame is the longest frame that Send can pass on, in bytes:
	// mmsg.FrameCap if the plug has no limit of its own.
	MaxFrame() int

	// Close ends the plug; no other method may run or be called afterwards.
	Close() error
}

// Open opens a VNL. It blocks as long as the plugin does, which may be for
// ever, and cannot be cancelled.
func Open(vnl VNL, opts Options) (Plug, error) {
	if strings.ContainsRune(vnl.Text, 0) {
		return nil, fmt.Errorf("a VNL ends at a zero byte, so it cannot hold one: %w", unix.EINVAL)
	}
	switch vnl.Plugin {
	case "seqpacket":
		return openSeqpacket(vnl.Arg)
	case "cmd":
		return openCmd(vnl.Arg)
	}
	if err := table[vnl.Plugin].grammar.check(vnl); err != nil {
		return nil, err
	}
	if vnl.Plugin == "vde" && opts.Group != "" { // one that it does not know would be group 0 to the plugin
		if err := group(opts.Group); err != nil {
			return nil, fmt.Errorf("group %s: %w", opts.Group, err)
		}
	}
	if ready := table[vnl.Plugin].ready; ready != nil {
		if err := ready(vnl); err != nil {
			return nil, err
		}
	}
	lib, err := Load(opts.Library)
	if err != nil {
		return nil, err
	}
	if table[vnl.Plugin].nests {
		return openNested(lib, vnl, opts)
	}
	if reclaim := table[vnl.Plugin].reclaim; reclaim != nil {
		reclaim(vnl.base())
	}
	conn, err := openC(lib, vnl, opts)
	if err != nil {
		return nil, explain(lib, vnl, err)
	}
	return classify(conn, vnl), nil
}

// CloseWithin closes p, unless that takes longer than patience: then p is left to
// the end of the process.
func CloseWithin(p Plug, patience time.Duration) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = p.Close() // there is no use for it any more
	}()
	select {
	case <-done:
	case <-time.After(patience):
	}
}

func openC(lib *cvde.Library, vnl VNL, opts Options) (*cvde.Conn, error) {
	args := &cvde.OpenArgs{Port: opts.Port, Group: opts.Group, Mode: uint32(opts.Mode.Perm())}
	if args.Mode == 0 {
		args.Mode = 0o700 // to the plugins 0 would mean no permission at all
	}
	if table[vnl.Plugin].keepsOnExec {
		syscall.ForkLock.RLock() // a child forked meanwhile would keep the device busy
		defer syscall.ForkLock.RUnlock()
	}
	if rewrite := table[vnl.Plugin].rewrite; rewrite != nil {
		vnl = rewrite(vnl)
	}
	conn, err := lib.Open(vnl.Text, opts.Descr, args)
	if err != nil {
		return nil, err
	}
	unix.CloseOnExec(conn.DataFd())
	if peek := table[vnl.Plugin].peek; peek != nil {
		conn.Peek(peek(vnl))
	}
	return conn, nil
}

// explain adds to the errno of a failed open what the user can do about it.
func explain(lib *cvde.Library, vnl VNL, err error) error {
	t := table[vnl.Plugin]
	meant := forgotten(vnl)
	unspecified := errors.Is(err, cvde.ErrUnspecified)
	var errno unix.Errno // 0 if unspecified
	errors.As(err, &errno)
	switch hint, ok := t.hints[errno]; {
	case errno == unix.EPROTONOSUPPORT:
		return whyNoPlugin(lib, vnl.Plugin)
	case t.why != nil:
		return t.why(vnl, err)
	case errno == unix.ENOENT && vnl.Plugin == "vde" && vnl.base() == "":
		return fmt.Errorf("no default switch is running: %w", err)
	case errno == unix.ENOENT && meant != "":
		return fmt.Errorf("no switch there (or do you mean %s://?): %w", meant, err)
	case ok && unspecified:
		return errors.New(hint)
	case ok:
		return fmt.Errorf("%s: %w", strings.ReplaceAll(hint, "{}", cmp.Or(vnl.base(), "NAME")), err)
	case unspecified && t.grammar != nil:
		return fmt.Errorf("the plugin %q refused the VNL without a reason: are its parameters right? (it is written %s)", vnl.Plugin, t.grammar.form)
	case unspecified:
		return fmt.Errorf("the plugin %q refused the VNL without a reason: are its parameters right?", vnl.Plugin)
	}
	return err
}

// forgotten is the plugin that the path of a switch seems to mean: "slirp", "tap:tap0".
func forgotten(vnl VNL) string {
	name, _, _ := strings.Cut(vnl.Text, ":")
	if _, known := table[name]; known && !strings.Contains(vnl.Text, "://") {
		return name
	}
	return ""
}

// whyUDP finds out what udp has put ECONNABORTED for.
func whyUDP(vnl VNL, err error) error {
	src, dst, _ := strings.Cut(vnl.Arg, "->")
	ends := make([]*net.UDPAddr, 2)
	for i, s := range []string{src, dst} {
		host, port := "", s
		if c := strings.LastIndex(s, ":"); c >= 0 {
			host, port = s[:c], s[c+1:]
		}
		a, resolve := net.ResolveUDPAddr("udp", net.JoinHostPort(host, port))
		if resolve != nil {
			return resolve
		}
		ends[i] = a
	}
	c, listen := net.ListenUDP("udp", ends[0])
	if listen != nil {
		return listen
	}
	_ = c.Close() // it was only to see whether one can
	return err
}

// classify chooses the way to drive an open plug.
func classify(conn *cvde.Conn, vnl VNL) Plug {
	t := table[vnl.Plugin]
	p := plugin{conn: conn, t: t, data: conn.DataFd(), ctl: conn.CtlFd()}
	if t.nonblock {
		_ = unix.SetNonblock(p.data, true) // else the plugin is driven as one that waits
	}
	if t.primes {
		conn.Prime()
	}
	switch {
	case t.path == bySocket && socketType(p.data) == t.sockType:
		return &sockPlug{plugin: p}
	case t.path == byPtp && socketType(p.data) == t.sockType:
		return newPtp(p, vnl.base())
	case t.path == byTap && isBareTap(p.data):
		return &tapPlug{p}
	case t.path != throughLibrary: // not the version that the table knows
		p.t = traits{transient: t.transient}
	}
	return &libPlug{p}
}

// plugin is what all plugs that came from the library share.
type plugin struct {
	conn      *cvde.Conn
	t         traits
	data, ctl int
}

func (p *plugin) Fds() (r, w, ctl int) { return p.data, p.data, p.ctl }
func (p *plugin) Pumps() bool          { return p.t.pumps }
func (p *plugin) CallsC() bool         { return false }
func (p *plugin) Parallel() bool       { return p.t.parallel }
func (p *plugin) Unsent() bool         { return false }

func (p *plugin) MaxFrame() int {
	if p.t.maxFrame > 0 {
		return p.t.maxFrame
	}
	return mmsg.FrameCap
}

// Check reads the control descriptor, which a switch keeps open as long as it
// lives and on which it says nothing.
func (p *plugin) Check() error {
	var b [64]byte
	n, err := unix.Read(p.ctl, b[:])
	switch {
	case n > 0, err == unix.EAGAIN, err == unix.EINTR:
		return nil
	case err == nil, err == unix.ECONNRESET:
		return io.EOF
	}
	return err
}

func (p *plugin) Close() error {
	if p.t.shutdownFirst {
		_ = unix.Shutdown(p.data, unix.SHUT_RDWR) // it is vde_close's to complain
	}
	if p.t.closeFirst {
		_ = unix.Close(p.data) // as above
	}
	return p.conn.Close()
}

// socketType returns SO_TYPE, or -1 for what is not a socket.
func socketType(fd int) int {
	t, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
	if err != nil {
		return -1
	}
	return t
}
