package isolate

import (
	"context"
	"errors"
	"io"
	"os"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/umlvde/umlvde/internal/guard"
	"github.com/umlvde/umlvde/internal/mmsg"
	"github.com/umlvde/umlvde/internal/relay"
	"github.com/umlvde/umlvde/internal/rig"
	"github.com/umlvde/umlvde/libvdeplug/faultplug"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { os.Exit(rig.Main(m)) }

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// silentSwitch makes a socket at dir where a switch would answer; it never does.
// asked waits for somebody who asks.
func silentSwitch(t *testing.T, dir string) (asked func()) {
	t.Helper()
	must(t, os.RemoveAll(dir))
	must(t, os.Mkdir(dir, 0o700))
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	must(t, err)
	t.Cleanup(func() { _ = unix.Close(fd) })
	must(t, unix.Bind(fd, &unix.SockaddrUnix{Name: dir + "/ctl"}))
	must(t, unix.Listen(fd, 1))
	return func() {
		t.Helper()
		if !rig.Poll(fd, unix.POLLIN, 5*time.Second) {
			t.Fatal("nobody opens the network")
		}
	}
}

func optionsFor(vnl string, reconnect time.Duration) Options {
	return Options{Job: guard.Job{VNL: vnl}, Program: rig.Umlvde(), Reconnect: reconnect}
}

// An open that never returns is given up, so that the next one may succeed.
func TestReconnectDoesNotWaitForAnOpenThatHangs(t *testing.T) {
	dir := rig.TempDir(t) + "/s"
	sw := rig.Switch(t, dir)
	p, err := Open(context.Background(), optionsFor("vde://"+dir, 20*time.Millisecond))
	must(t, err)
	states := make(chan error, 10)
	p.Start(func(down error) { states <- down })
	defer p.Close()
	sw.Signal(os.Kill)
	if err := <-states; err == nil {
		t.Error("no reason for the end of the switch")
	}
	silentSwitch(t, dir)()
	must(t, os.Rename(dir, dir+".silent")) // whoever asks may be making its own socket there
	rig.Switch(t, dir)
	select {
	case err := <-states:
		must(t, err)
	case <-time.After(20 * time.Second):
		t.Fatal("no network again")
	}
}

// A Reconnect that is no time is none: the end is the end, and no child follows.
func TestNegativeReconnectIsNone(t *testing.T) {
	p, err := Open(context.Background(), optionsFor("null://", -time.Second))
	must(t, err)
	worker := p.child.cmd.Process.Pid
	p.Start(func(down error) { t.Errorf("told of %v", down) })
	defer p.Close()
	must(t, syscall.Kill(worker, syscall.SIGKILL))
	b, err := mmsg.NewBatch()
	must(t, err)
	defer b.Free()
	fd, _, _ := p.Fds()
	if !rig.Poll(fd, unix.POLLIN, 5*time.Second) {
		t.Fatal("the child's end does not show")
	}
	var crash *CrashError
	if err := p.Recv(b); !errors.As(err, &crash) || errors.Is(err, io.EOF) {
		t.Error(err)
	}
}

// A child that gives no reason for its end has one all the same: its status, and what
// it printed last, though that line has no end.
func TestEndWithoutAReason(t *testing.T) {
	program := rig.TempDir(t) + "/umlvde"
	for script, want := range map[string]string{
		"exit 0":                            "the plugin's process has ended (exit status 0)",
		"printf 'no such host' >&2; exit 3": "the plugin's process has ended (exit status 3): no such host",
	} {
		must(t, os.WriteFile(program, []byte("#!/bin/sh\n"+script), 0o700))
		_, err := Open(context.Background(), Options{Program: program})
		var crash *CrashError
		if !errors.As(err, &crash) || err.Error() != want {
			t.Errorf("%s: %v", script, err)
		}
	}
}

// A worker ends with the process that has started it, though its network never takes
// what it was given last, or its plugin does not return.
func TestWorkerEndsWithItsParent(t *testing.T) {
	net := faultplug.New(t)
	name, value, _ := strings.Cut(net.Env(), "=")
	t.Setenv(name, value)
	net.Set(t, faultplug.SendBlock)
	for _, vnl := range []string{"cmd://sleep 60", net.VNL()} {
		p, err := Open(context.Background(), optionsFor(vnl, 0))
		must(t, err)
		b, err := mmsg.NewBatch()
		must(t, err)
		defer b.Free()
		var count relay.Counters
		rig.Eventually(t, 10*time.Second, "there is no room", func() bool {
			for err := error(nil); err == nil; err = p.Send(b, &count) {
				b.Append(rig.Frame(1514, 0))
			}
			return !rig.Poll(p.near, unix.POLLOUT, 300*time.Millisecond)
		})
		_, _ = unix.Close(p.near), p.child.ctl.Close() // as the kernel does at the end of a process
		late := time.AfterFunc(5*time.Second, func() {
			t.Errorf("%s: the worker is still there", vnl)
			_ = p.child.cmd.Process.Kill()
		})
		_ = p.child.cmd.Wait()
		late.Stop()
		p.child.page.Unmap()
	}
}

// Threads of this process that end, as those do whose goroutine ends without
// unlocking it, take no worker along that is about to open its plug.
func TestWorkerOutlivesOtherThreads(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	dir := rig.TempDir(t) + "/s"
	asked := silentSwitch(t, dir)
	failed := make(chan error, 1)
	go func() {
		_, err := Open(ctx, optionsFor("vde://"+dir, 0))
		failed <- err
	}()
	asked()
	var locked sync.WaitGroup
	end := make(chan struct{})
	for range 30 { // more than there are idle threads, so one of them gets the thread in question
		locked.Add(1)
		go func() {
			runtime.LockOSThread()
			locked.Done()
			<-end
		}()
	}
	locked.Wait()
	close(end)
	select {
	case err := <-failed:
		t.Fatal(err)
	case <-time.After(300 * time.Millisecond): // what is awaited is that nothing happens
	}
	cancel()
	if err := <-failed; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
