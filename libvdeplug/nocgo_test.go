//go:build linux && !cgo

package libvdeplug_test

import (
	"errors"
	"testing"

	"github.com/umlvde/umlvde/internal/rig"
	"github.com/umlvde/umlvde/libvdeplug"
)

// TestNoCgo does what a program without cgo can do.
func TestNoCgo(t *testing.T) {
	_, version := libvdeplug.Version()
	_, plugins := libvdeplug.Plugins()
	_, opened := libvdeplug.Open("null://", nil)
	_, stream := libvdeplug.OpenStream(nil, nil, nil)
	for i, err := range []error{libvdeplug.Available(), version, plugins, opened, stream} {
		var op *libvdeplug.OpError
		if !errors.Is(err, errors.ErrUnsupported) || !errors.As(err, &op) {
			t.Errorf("call %d: %v", i, err)
		}
	}
	a, b := seqpackets(t)
	send(t, a, rig.Frame(60, 1))
	receive(t, b)
	vnl := "vde://" + startSwitch(t)
	c, d := openIsolated(t, vnl, libvdeplug.Isolation{}), openIsolated(t, vnl, libvdeplug.Isolation{})
	greet(t, c, d)
	greet(t, d, c)
	e := open(t, "cmd://cat")
	send(t, e, rig.Frame(60, 2))
	receive(t, e)
}
