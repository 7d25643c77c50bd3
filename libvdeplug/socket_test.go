//go:build linux

package libvdeplug_test

import (
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/umlvde/umlvde/internal/rig"
	"github.com/umlvde/umlvde/libvdeplug"
	"golang.org/x/sys/unix"
)

func TestBuffers(t *testing.T) {
	c := open(t, fmt.Sprintf("udp://127.0.0.1:%d->127.0.0.1:9", freePort(t)))
	must(t, c.SetReadBuffer(100<<10))
	must(t, c.SetWriteBuffer(100<<10))

	// That it is this network's own: what fits becomes less.
	a, b := seqpackets(t)
	fill := func() (n int) {
		t.Helper()
		for {
			must(t, a.SetWriteDeadline(time.Now().Add(20*time.Millisecond)))
			if _, err := a.Write(rig.Frame(1000, 1)); err != nil {
				checkTimeout(t, err)
				break
			}
			n++
		}
		for range n {
			receive(t, b)
		}
		return n
	}
	before := fill()
	must(t, a.SetWriteBuffer(32<<10))
	if after := fill(); after == 0 || after > before/4 {
		t.Errorf("%d frames found room before, %d in a small buffer", before, after)
	}

	hub := open(t, "hub://"+filepath.Join(rig.TempDir(t), "h"))
	for _, err := range []error{hub.SetReadBuffer(1 << 20), hub.SetWriteBuffer(1 << 20)} {
		if !errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("of no socket: %v", err)
		}
	}
	must(t, a.Close())
	for _, err := range []error{a.SetReadBuffer(1 << 20), a.SetWriteBuffer(1 << 20)} {
		if !errors.Is(err, net.ErrClosed) {
			t.Errorf("after Close: %v", err)
		}
	}
}

// TestSyscallConn polls.
func TestSyscallConn(t *testing.T) {
	eachNetwork(t, func(t *testing.T, a, b *libvdeplug.Conn) {
		raw, err := a.SyscallConn()
		must(t, err)
		readable := func(within time.Duration) (ok bool) {
			t.Helper()
			must(t, raw.Control(func(fd uintptr) { ok = rig.Poll(int(fd), unix.POLLIN, within) }))
			return ok
		}
		if readable(0) {
			t.Error("there is nothing to read")
		}
		bufs, sizes := buffers(64)
		for i := range 3 {
			for range 5 {
				send(t, b, rig.Frame(60, uint32(i)))
			}
			if !readable(soon) {
				t.Fatal("it does not become readable")
			}
			must(t, a.SetReadDeadline(time.Now().Add(soon)))
			for n := 0; n < 5; {
				k, err := a.ReadBatch(bufs, sizes)
				must(t, err)
				n += k
			}
			if readable(0) {
				t.Error("there is nothing left to read")
			}
		}
		if again, err := a.SyscallConn(); err != nil || again != raw {
			t.Errorf("the second one: %v, %v", again, err)
		}
		for _, f := range []func(func(uintptr) bool) error{raw.Read, raw.Write} {
			if err := f(func(uintptr) bool { return true }); !errors.Is(err, errors.ErrUnsupported) {
				t.Error(err)
			}
		}
		must(t, a.Close())
		if err := raw.Control(func(uintptr) {}); !errors.Is(err, net.ErrClosed) {
			t.Errorf("after Close: %v", err)
		}
		if _, err := a.SyscallConn(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("after Close: %v", err)
		}
		var _ syscall.Conn = a
	})
}
