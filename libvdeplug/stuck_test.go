//go:build linux

package libvdeplug_test

import (
	"context"
	"errors"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/umlvde/umlvde/internal/rig"
	"github.com/umlvde/umlvde/libvdeplug"
	"github.com/umlvde/umlvde/libvdeplug/faultplug"
)

// TestStuckPlugin uses a plugin that does not return from its calls. It leaves
// threads in it for ever.
func TestStuckPlugin(t *testing.T) {
	if !inChild(t, 2*soon, nil) {
		return
	}
	network := faultplug.New(t)
	name, value, _ := strings.Cut(network.Env(), "=")
	t.Setenv(name, value)
	for fault, test := range map[faultplug.Fault]func(*testing.T, *libvdeplug.Conn){
		faultplug.SendBlock:  sendBlocks,
		faultplug.RecvBlock:  recvBlocks,
		faultplug.CloseBlock: func(t *testing.T, c *libvdeplug.Conn) { closeSoon(t, c) },
		faultplug.RecvEmpty:  recvEmpty,
		faultplug.RecvLie:    recvLies,
		faultplug.RecvFail:   recvFails,
		faultplug.SendFail:   sendFails,
	} {
		t.Run(string(fault), func(t *testing.T) {
			c, err := libvdeplug.Open(network.VNL(), nil)
			must(t, err)
			send(t, c, rig.Frame(60, 1)) // it sends all back
			if n := rig.Number(receive(t, c)); n != 1 {
				t.Fatalf("frame %d came back", n)
			}
			network.Set(t, fault)
			defer network.Clear(t, fault)
			test(t, c)
		})
	}
	t.Run("open-block", func(t *testing.T) {
		network.Set(t, faultplug.OpenBlock)
		defer network.Clear(t, faultplug.OpenBlock)
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
		defer cancel()
		if _, err := libvdeplug.OpenContext(ctx, network.VNL(), nil); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
	})
}

// closeSoon checks that Close does not wait for the plugin; it leaves room for
// a machine that is busy with something else.
func closeSoon(t *testing.T, c *libvdeplug.Conn) {
	t.Helper()
	start := time.Now()
	must(t, c.Close())
	d := time.Since(start)
	if t.Logf("Close took %v", d); d > time.Second {
		t.Error("that is too long")
	}
}

// stuck runs f in a goroutine and returns once it is in a C function, where the
// plugin keeps it.
func stuck(t *testing.T, function string, f func()) {
	t.Helper()
	before := stacks(function)
	go f()
	rig.Eventually(t, soon, "the call is in the plugin", func() bool { return stacks(function) > before })
}

func sendBlocks(t *testing.T, c *libvdeplug.Conn) {
	stuck(t, "cvde._Cfunc_cvde_send(", func() { _, _ = c.Write(rig.Frame(60, 2)) })
	// The plugin is unknown, so nothing else can be done with it; but it can be
	// waited for in vain, until the deadline or Close.
	must(t, c.SetDeadline(time.Now().Add(20*time.Millisecond)))
	_, err := c.Read(make([]byte, 60))
	checkTimeout(t, err)
	_, err = c.Write(rig.Frame(60, 3))
	checkTimeout(t, err)
	must(t, c.SetDeadline(time.Time{}))
	errs := make(chan error, 2)
	go func() {
		_, err := c.Read(make([]byte, 60))
		errs <- err
	}()
	go func() {
		_, err := c.Write(rig.Frame(60, 4))
		errs <- err
	}()
	closeSoon(t, c)
	for range 2 {
		if err := finish(t, "a call", errs); !errors.Is(err, net.ErrClosed) {
			t.Error(err)
		}
	}
}

func recvBlocks(t *testing.T, c *libvdeplug.Conn) {
	send(t, c, rig.Frame(60, 2))
	stuck(t, "cvde._Cfunc_cvde_recv(", func() { _, _ = c.Read(make([]byte, 60)) })
	must(t, c.SetDeadline(time.Now().Add(20*time.Millisecond)))
	_, err := c.Read(make([]byte, 60))
	checkTimeout(t, err)
	closeSoon(t, c)
	for range 20 { // the deadline has passed as well, and the call is still there
		if _, err := c.Read(make([]byte, 60)); !errors.Is(err, net.ErrClosed) {
			t.Fatalf("a read after Close: %v", err)
		}
	}
}

// recvEmpty reads from a plugin that says without end that it has frames, and
// has none.
func recvEmpty(t *testing.T, c *libvdeplug.Conn) {
	send(t, c, rig.Frame(60, 2))
	var before, after syscall.Rusage
	must(t, syscall.Getrusage(syscall.RUSAGE_SELF, &before))
	must(t, c.SetReadDeadline(time.Now().Add(500*time.Millisecond)))
	_, err := c.Read(make([]byte, 60))
	checkTimeout(t, err)
	must(t, syscall.Getrusage(syscall.RUSAGE_SELF, &after))
	used := time.Duration(after.Utime.Nano() + after.Stime.Nano() - before.Utime.Nano() - before.Stime.Nano())
	slept := after.Nvcsw - before.Nvcsw // CPU time alone says little on a busy machine
	if t.Logf("%v of CPU time in half a second, slept %d times", used, slept); used > 250*time.Millisecond && slept < 100 {
		t.Error("it spins")
	}
	closeSoon(t, c)
}

func recvLies(t *testing.T, c *libvdeplug.Conn) {
	send(t, c, rig.Frame(60, 2))
	must(t, c.SetReadDeadline(time.Now().Add(20*time.Millisecond)))
	_, err := c.Read(make([]byte, 60))
	checkTimeout(t, err)
	if s := c.Stats(); s.RxDrops != 1 {
		t.Errorf("counted %+v", s)
	}
	closeSoon(t, c)
}

func recvFails(t *testing.T, c *libvdeplug.Conn) {
	send(t, c, rig.Frame(60, 2))
	for range 2 {
		if _, err := c.Read(make([]byte, 60)); !errors.Is(err, syscall.EPROTO) {
			t.Error(err)
		}
	}
	closeSoon(t, c)
}

func sendFails(t *testing.T, c *libvdeplug.Conn) {
	for range 2 {
		if n, err := c.Write(rig.Frame(60, 2)); n != 0 || !errors.Is(err, syscall.EPROTO) {
			t.Error(n, err)
		}
	}
	closeSoon(t, c)
}
