//go:build linux

package libvdeplug_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/umlvde/umlvde/internal/rig"
	"github.com/umlvde/umlvde/libvdeplug"
	"github.com/umlvde/umlvde/libvdeplug/faultplug"
)

// faulty makes a network of the fault plugin, which the children find, too.
func faulty(t *testing.T) *faultplug.Net {
	t.Helper()
	n := faultplug.New(t)
	name, value, _ := strings.Cut(n.Env(), "=")
	t.Setenv(name, value)
	return n
}

// nextState waits for a call of OnState.
func nextState(t *testing.T, states <-chan error) error {
	t.Helper()
	return finish(t, "the change of state", states)
}

// TestIsolatedOpenErrors compares the errors of an isolated open with those of
// one in this process.
func TestIsolatedOpenErrors(t *testing.T) {
	dir := rig.TempDir(t)
	sw := rig.Switch(t, filepath.Join(dir, "dead"))
	sw.Signal(os.Kill)
	sw.Wait(soon)
	for _, vnl := range []string{
		"vde://" + dir + "/none", "vde://" + dir + "/dead", "quantum://", "udp://x", "cmd://" + dir + "/none",
	} {
		_, want := libvdeplug.Open(vnl, nil)
		_, got := libvdeplug.Open(vnl, &libvdeplug.Options{Isolation: &libvdeplug.Isolation{Program: rig.Umlvde()}})
		if want == nil || got == nil || got.Error() != want.Error() {
			t.Errorf("isolated: %v\nnot isolated: %v", got, want)
			continue
		}
		for _, target := range []error{fs.ErrNotExist, fs.ErrPermission, syscall.ECONNREFUSED, syscall.EPROTONOSUPPORT, syscall.EINVAL} {
			if errors.Is(got, target) != errors.Is(want, target) {
				t.Errorf("%v: is %v: %v", got, target, errors.Is(got, target))
			}
		}
		var p, q *libvdeplug.PluginError
		if errors.As(got, &p) != errors.As(want, &q) || p != nil && (p.Plugin != q.Plugin || p.File != q.File || p.Package != q.Package) {
			t.Errorf("%+v and %+v", p, q)
		}
	}
	_, err := libvdeplug.Open("null://", &libvdeplug.Options{
		Library: "/nonexistent.so", Isolation: &libvdeplug.Isolation{Program: rig.Umlvde()},
	})
	if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "/nonexistent.so") {
		t.Errorf("no library: %v", err)
	}
}

// TestNoProgram looks for an umlvde that is not there, or is something else.
func TestNoProgram(t *testing.T) {
	open := func(program string) error {
		_, err := libvdeplug.Open("null://", &libvdeplug.Options{Isolation: &libvdeplug.Isolation{Program: program}})
		if err == nil {
			t.Errorf("%q opened it", program)
		}
		return err
	}
	if err := open("/nonexistent/umlvde"); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "/nonexistent/umlvde") {
		t.Error(err)
	}
	t.Setenv("PATH", "")
	if err := open(""); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "umlvde") {
		t.Error(err)
	}
	script := func(text string) string {
		file := filepath.Join(rig.TempDir(t), "umlvde")
		must(t, os.WriteFile(file, []byte("#!/bin/sh\n"+text), 0o700))
		return file
	}
	var crash *libvdeplug.CrashError
	if err := open(script("echo who are you >&2; exit 3")); !errors.As(err, &crash) || !strings.Contains(err.Error(), "exit status 3") ||
		!strings.Contains(err.Error(), "who are you") {
		t.Error(err)
	}
	// What an umlvde of another time would do and say.
	t.Setenv("TEST_BINARY", os.Args[0])
	t.Setenv(childTest, "TestStranger")
	if err := open(script(`exec "$TEST_BINARY" -test.run '^TestStranger$'`)); !strings.Contains(err.Error(), "another version") {
		t.Error(err)
	}
}

// TestStranger is that umlvde.
func TestStranger(t *testing.T) {
	if os.Getenv(childTest) == "" {
		return // see TestNoProgram
	}
	const ctl = 4
	buf := make([]byte, 16<<10)
	if n, err := syscall.Read(ctl, buf); n == 0 || err != nil {
		t.Fatal("no job", err)
	}
	_, _ = syscall.Write(ctl, []byte("opened"))
	_, _ = syscall.Read(ctl, buf) // there is no answer
}

func TestIsolatedOpenContext(t *testing.T) {
	n := faulty(t)
	n.Set(t, faultplug.OpenBlock)
	ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
	defer cancel()
	left := children()
	_, err := libvdeplug.OpenContext(ctx, n.VNL(), &libvdeplug.Options{Isolation: &libvdeplug.Isolation{Program: rig.Umlvde()}})
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	if pids, n := left(), libvdeplug.Unfinished(); len(pids) > 0 || n > 0 {
		t.Errorf("processes %v are left, %d calls unfinished", pids, n)
	}
}

// children returns what lists the processes that have been started since. Those of
// earlier tests may still be about to end.
func children() (since func() []int) {
	before := rig.Children(os.Getpid())
	return func() []int {
		return slices.DeleteFunc(rig.Children(os.Getpid()), func(pid int) bool { return slices.Contains(before, pid) })
	}
}

// TestIsolatedCrash has a plugin crash, hang, fail and end in its process.
func TestIsolatedCrash(t *testing.T) {
	n := faulty(t)
	var crash *libvdeplug.CrashError
	for fault, good := range map[faultplug.Fault]func(error) bool{
		faultplug.RecvCrash: func(err error) bool { return errors.As(err, &crash) && strings.Contains(crash.Reason, "SIGSEGV") },
		faultplug.SendCrash: func(err error) bool { return errors.As(err, &crash) && strings.Contains(crash.Reason, "SIGSEGV") },
		faultplug.RecvBlock: func(err error) bool {
			return errors.As(err, &crash) && strings.Contains(crash.Reason, "did not return")
		},
		faultplug.SendBlock: func(err error) bool {
			return errors.As(err, &crash) && strings.Contains(crash.Reason, "did not return")
		},
		faultplug.RecvFail: func(err error) bool { return errors.Is(err, syscall.EPROTO) && !errors.As(err, &crash) },
		faultplug.SendFail: func(err error) bool { return errors.Is(err, syscall.EPROTO) && !errors.As(err, &crash) },
	} {
		t.Run(string(fault), func(t *testing.T) {
			c := openIsolated(t, n.VNL(), libvdeplug.Isolation{})
			send(t, c, rig.Frame(60, 1)) // it sends all back
			receive(t, c)
			read := make(chan error, 1)
			go func() { read <- readUntilError(c) }()
			n.Set(t, fault)
			send(t, c, rig.Frame(60, 2))
			for range 2 {
				if err := finish(t, "the read", read); !good(err) {
					t.Errorf("a read ended with %v", err)
				}
				_, err := c.Write(rig.Frame(60, 3))
				if !good(err) {
					t.Errorf("a write ended with %v", err)
				}
				read <- readUntilError(c) // says it again
			}
			n.Clear(t, fault)
		})
	}
	if n := libvdeplug.Unfinished(); n != 0 {
		t.Errorf("%d plugs are unfinished", n)
	}
}

func TestIsolatedEnd(t *testing.T) {
	dir := filepath.Join(rig.TempDir(t), "s")
	sw := rig.Switch(t, dir)
	c := openIsolated(t, dir, libvdeplug.Isolation{})
	sw.Signal(os.Kill)
	checkEOF(t, readUntilError(c))
	if _, err := c.Write(rig.Frame(60, 2)); !errors.Is(err, syscall.EPIPE) {
		t.Errorf("a write ended with %v, want EPIPE", err)
	}
}

// TestIsolatedClose closes plugs whose plugins do not return, and looks for
// children.
func TestIsolatedClose(t *testing.T) {
	n := faulty(t)
	left := children()
	for _, fault := range []faultplug.Fault{faultplug.CloseBlock, faultplug.SendBlock, faultplug.RecvBlock, faultplug.CloseCrash} {
		promptly(t, "Close with "+string(fault), func() time.Duration {
			c := openIsolated(t, n.VNL(), libvdeplug.Isolation{})
			n.Set(t, fault)
			defer n.Clear(t, fault)
			send(t, c, rig.Frame(60, 2))
			read := make(chan error, 1)
			go func() { read <- readUntilError(c) }()
			start := time.Now()
			must(t, c.Close())
			took := time.Since(start)
			if err := finish(t, "the read", read); !errors.Is(err, net.ErrClosed) {
				t.Error(err)
			}
			rig.Eventually(t, soon, "the child ends", func() bool {
				return len(left()) == 0 && libvdeplug.Unfinished() == 0
			})
			return took
		})
	}
}

// TestReconnect kills the network under an isolated Conn, in every way.
func TestReconnect(t *testing.T) {
	n := faulty(t)
	states := make(chan error, 100)
	c := openIsolated(t, n.VNL(), libvdeplug.Isolation{
		Reconnect: 50 * time.Millisecond,
		OnState:   func(_ *libvdeplug.Conn, down error) { states <- down },
	})
	greet(t, c, c)
	var crash *libvdeplug.CrashError
	for _, fault := range []faultplug.Fault{faultplug.RecvCrash, faultplug.SendBlock, faultplug.RecvFail} {
		before := c.Stats()
		n.Set(t, faultplug.OpenFail)
		n.Set(t, fault)
		send(t, c, rig.Frame(60, 1))
		switch err := nextState(t, states); {
		case fault == faultplug.RecvFail && !errors.Is(err, syscall.EPROTO), fault != faultplug.RecvFail && !errors.As(err, &crash):
			t.Errorf("%s: it went down because of %v", fault, err)
		}
		n.Clear(t, fault)
		for range 3000 { // more than the socket would hold
			send(t, c, rig.Frame(1514, 1))
		}
		if drops := c.Stats().TxDrops - before.TxDrops; drops < 3000 {
			t.Errorf("%s: %d frames were dropped", fault, drops)
		}
		n.Clear(t, faultplug.OpenFail)
		if err := nextState(t, states); err != nil {
			t.Errorf("%s: it came up with %v", fault, err)
		}
		greet(t, c, c)
	}
	// A read has waited through it all; Close ends it while there is no network.
	read := make(chan error, 1)
	go func() { read <- readUntilError(c) }()
	n.Set(t, faultplug.OpenBlock)
	n.Set(t, faultplug.SendCrash)
	send(t, c, rig.Frame(60, 1))
	if err := nextState(t, states); !errors.As(err, &crash) {
		t.Error(err)
	}
	must(t, c.Close())
	if err := finish(t, "the read", read); !errors.Is(err, net.ErrClosed) {
		t.Error(err)
	}
	select {
	case err := <-states:
		t.Errorf("after Close, a change of state: %v", err)
	default:
	}
}

// TestReconnectSwitch has a switch end and start again.
func TestReconnectSwitch(t *testing.T) {
	dir := filepath.Join(rig.TempDir(t), "s")
	sw := rig.Switch(t, dir)
	states := make(chan error, 100)
	c := openIsolated(t, dir, libvdeplug.Isolation{
		Reconnect: 20 * time.Millisecond,
		OnState: func(c *libvdeplug.Conn, down error) {
			c.Stats() // it may be called
			states <- down
		},
	})
	sw.Signal(os.Kill)
	sw.Wait(soon)
	if err := nextState(t, states); err != io.EOF { //nolint:errorlint // bare
		t.Errorf("a switch that has ended: %v", err)
	}
	must(t, os.RemoveAll(dir))
	rig.Switch(t, dir)
	must(t, nextState(t, states))
	peer := open(t, dir)
	greet(t, c, peer)
	greet(t, peer, c)
}

func TestIsolatedSocket(t *testing.T) {
	pair, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_SEQPACKET|syscall.SOCK_CLOEXEC, 0)
	must(t, err)
	a := openIsolated(t, fmt.Sprintf("seqpacket://%d", pair[0]), libvdeplug.Isolation{})
	b := open(t, fmt.Sprintf("seqpacket://%d", pair[1]))
	send(t, a, rig.Frame(60, 3))
	if n := rig.Number(receive(t, b)); n != 3 {
		t.Errorf("frame %d", n)
	}
}

// TestIsolatedSocketInBraces has descriptors in braces, of which the child would take
// its own: 3 is what it gets its frames from.
func TestIsolatedSocketInBraces(t *testing.T) {
	file := filepath.Join(rig.TempDir(t), "vnl")
	must(t, os.WriteFile(file, []byte("seqpacket://3\n"), 0o600))
	o := &libvdeplug.Options{Isolation: &libvdeplug.Isolation{Program: rig.Umlvde()}}
	for _, vnl := range []string{
		"vlan://5{seqpacket://3}", "vlan://5{vlan://6{seqpacket://3}}", "vlan://5{" + file + "}", "unknown://{seqpacket://3}",
	} {
		c, err := libvdeplug.Open(vnl, o)
		if err == nil {
			check(t, c.Close())
		}
		var op *libvdeplug.OpError
		if !errors.Is(err, syscall.EINVAL) || !errors.As(err, &op) || op.VNL != vnl || !strings.Contains(err.Error(), "descriptor") {
			t.Errorf("%s: %v", vnl, err)
		}
	}
	openIsolated(t, "cmd://sh -c cat {seqpacket://3}", libvdeplug.Isolation{}) // arguments, no VNL
}

// TestIsolatedFull writes until there is no room, neither in the network nor on
// the way to it: writes wait, as without a child, and nothing is lost.
func TestIsolatedFull(t *testing.T) {
	vnl := "ptp://" + filepath.Join(rig.TempDir(t), "p")
	a, b := openIsolated(t, vnl, libvdeplug.Isolation{}), open(t, vnl)
	greet(t, a, b)
	greet(t, b, a) // so that nothing is on its way
	var sent uint32
	for ; ; sent++ {
		must(t, a.SetWriteDeadline(time.Now().Add(200*time.Millisecond)))
		if _, err := a.Write(rig.Frame(1514, 1000+sent)); err != nil {
			checkTimeout(t, err)
			break
		}
	}
	for got := uint32(0); got < sent; {
		n := rig.Number(receive(t, b))
		if n != 1000+got {
			t.Fatalf("frame %d of %d is number %d", got, sent, n)
		}
		got++
	}
	rig.Eventually(t, soon, "all is counted", func() bool {
		s := a.Stats()
		return s.TxFrames >= uint64(sent) && s.TxDrops == 0
	})
}
