//go:build linux

package libvdeplug

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"

	"github.com/umlvde/umlvde/internal/guard"
	"github.com/umlvde/umlvde/internal/isolate"
	"github.com/umlvde/umlvde/internal/plug"
	"golang.org/x/sys/unix"
)

// Open plugs into the network that vnl names; "" means the user's default
// network, ~/.vdeplug/default, or the host's default switch.
//
// It blocks as long as the plugin does: looking up a name, or waiting for
// a switch that is stopped or has no free port, which may be for ever. Use
// [OpenContext] to limit that. It runs on the calling thread, so a goroutine
// that is locked to a thread in another network namespace opens a tap there.
//
// The Conn of a seqpacket://N, also in braces, takes the descriptor over: it is
// closed on exec, sends from a larger buffer and is closed by Close. So hand over
// one that no [os.File] owns. After an error it is still the caller's; but when
// a context has ended, or descriptors have run out, it may be closed, perhaps later.
//
// Errors are of type *[OpError]. errors.Is tells [fs.ErrNotExist] (no library,
// plugin, switch or device), [fs.ErrPermission], syscall.EBUSY (a tap in use),
// syscall.ECONNREFUSED (a switch that has died); errors.As tells a
// [*PluginError].
func Open(vnl string, o *Options) (*Conn, error) {
	p, text, err := open(context.Background(), vnl, o)
	return opened(p, vnl, text, o, err)
}

// OpenContext is [Open] that gives up when ctx ends, with ctx.Err. C cannot be
// interrupted: a goroutine stays until the plugin returns, and unplugs then
// ([Unfinished] counts it); but an isolated plugin is ended. It may run on
// another thread than the caller's if ctx can end.
func OpenContext(ctx context.Context, vnl string, o *Options) (*Conn, error) {
	if err := ctx.Err(); err != nil {
		return nil, openError(vnl, err)
	}
	if ctx.Done() == nil || o != nil && o.Isolation != nil {
		p, text, err := open(ctx, vnl, o)
		return opened(p, vnl, text, o, err)
	}
	type result struct {
		c   *Conn
		err error
	}
	open := func() (r result) {
		r.c, r.err = Open(vnl, o)
		return r
	}
	late := func(r result) {
		if r.err == nil {
			_ = r.c.Close() // nobody is there to be told
		}
	}
	if r, ok := await(open, ctx.Done(), late); ok {
		return r.c, r.err
	}
	return nil, openError(vnl, ctx.Err())
}

// open opens a plug and returns the text of the VNL that it found.
func open(ctx context.Context, vnl string, o *Options) (plug.Plug, string, error) {
	v, err := plug.Resolve(vnl)
	if err != nil {
		return nil, "", err
	}
	if o == nil {
		o = new(Options)
	}
	descr := o.Descr
	if descr == "" {
		descr = filepath.Base(os.Args[0])
	}
	if i := o.Isolation; i != nil && v.Plugin != "seqpacket" {
		if v.Innermost().Plugin == "seqpacket" { // the child has no such descriptor, or another one
			return nil, "", fmt.Errorf("a descriptor of this process cannot be used in the isolated one: %w", unix.EINVAL)
		}
		p, err := isolate.Open(ctx, isolate.Options{
			Program: i.Program, Library: o.Library, Reconnect: i.Reconnect,
			Job: guard.Job{VNL: v.Text, Descr: descr, Port: o.Port, Group: o.Group, Mode: uint32(o.Mode.Perm())},
		})
		return p, v.Text, err
	}
	p, err := plug.Open(v, plug.Options{Descr: descr, Port: o.Port, Group: o.Group, Mode: o.Mode, Library: o.Library})
	return p, v.Text, err
}

// opened makes a Conn of a plug, if there is no error.
func opened(p plug.Plug, vnl, text string, o *Options, err error) (*Conn, error) {
	if err != nil {
		return nil, openError(vnl, err)
	}
	c, err := newConn(p, text)
	if p, ok := p.(*isolate.Plug); ok {
		p.Start(func(down error) {
			if f := o.Isolation.OnState; f != nil {
				f(c, publicError(down))
			}
		})
	}
	if err != nil {
		_ = p.Close() // the error in hand came first
		return nil, openError(vnl, err)
	}
	return c, nil
}

func openError(vnl string, err error) error {
	return &OpError{Op: "open", VNL: vnl, Err: publicError(err)}
}

// publicError makes an error type of this package of an internal one.
func publicError(err error) error {
	var p *plug.PluginError
	var crash *isolate.CrashError
	switch {
	case errors.As(err, &p):
		return &PluginError{Plugin: p.Plugin, File: p.File, Package: p.Package, err: p}
	case errors.As(err, &crash):
		return &CrashError{Reason: crash.Error()}
	}
	return err
}

var unfinished atomic.Int64

// Unfinished returns how many plugs of this process are neither open nor gone:
// those of which Close, an OpenContext or a [Bridge] has not waited for the plugin's
// end, or its return. Each may hold a thread, descriptors and memory; a plugin that
// never returns holds them for ever. A service that sees the number grow wants an
// [Isolation].
func Unfinished() int { return int(unfinished.Load()) }

// await runs f in a goroutine and returns its result, unless until has something
// first: then ok is false, the result goes to late, and Unfinished counts it
// meanwhile.
func await[T, S any](f func() T, until <-chan S, late func(T)) (t T, ok bool) {
	result := make(chan T)
	abandoned := make(chan struct{})
	go func() {
		t := f()
		select {
		case result <- t:
		case <-abandoned:
			late(t)
			unfinished.Add(-1)
		}
	}()
	select {
	case t = <-result:
		return t, true
	case <-until:
		unfinished.Add(1)
		close(abandoned)
		return t, false
	}
}
