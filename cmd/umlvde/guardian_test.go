package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/umlvde/umlvde/internal/rig"
	"github.com/umlvde/umlvde/libvdeplug/faultplug"
	"golang.org/x/sys/unix"
)

// resting starts a helper whose link has been quiet for long enough for both of its
// processes to sleep, and returns its worker, too.
func resting(t *testing.T, c rig.HelperConfig) (g *rig.Guest, worker int) {
	t.Helper()
	g = rig.StartHelper(t, c)
	g.WaitLine("link up", 5*time.Second)
	worker = onlyWorker(t, g)
	time.Sleep(500 * time.Millisecond) // what is awaited is that nothing happens
	return g, worker
}

// onlyWorker is the worker of a helper that has one.
func onlyWorker(t *testing.T, g *rig.Guest) int {
	t.Helper()
	pids := g.Children()
	if len(pids) != 1 {
		t.Fatalf("workers %v, not one", pids)
	}
	return pids[0]
}

// unread is how many bytes the guest has sent that nobody has read.
func unread(t *testing.T, g *rig.Guest) int {
	t.Helper()
	n, err := unix.IoctlGetInt(g.Fd, unix.TIOCOUTQ)
	must(t, err)
	return n
}

// sendMany sends more than the guardian lets wait for a worker that does not move.
func sendMany(g *rig.Guest) {
	for range 10 {
		g.Send(rig.Frame(1000, 1), time.Second)
	}
}

// Few frames wait for a worker that is kept from a CPU for a while.
func TestFrameWaitsForTheWorker(t *testing.T) {
	net := faultplug.New(t)
	g, worker := resting(t, rig.HelperConfig{VNL: net.VNL(), Env: []string{net.Env()}})
	must(t, syscall.Kill(worker, syscall.SIGSTOP))
	sent := rig.Frame(60, 1)
	g.Send(sent, time.Second)
	time.Sleep(300 * time.Millisecond) // longer than many frames may wait
	must(t, syscall.Kill(worker, syscall.SIGCONT))
	if got := g.Recv(5 * time.Second); !bytes.Equal(got, sent) {
		t.Errorf("%x came back, not %x", got, sent)
	}
	end(t, g)
}

// A worker that was kept from a CPU until the guardian had taken its frames finds
// nothing to do. It sleeps on, and is not taken for one that hangs.
func TestWorkerWithoutFramesIsLeftAlone(t *testing.T) {
	net := faultplug.New(t)
	g, worker := resting(t, rig.HelperConfig{VNL: net.VNL(), Env: []string{net.Env()}})
	must(t, syscall.Kill(worker, syscall.SIGSTOP))
	sendMany(g)
	rig.Eventually(t, 5*time.Second, "the guardian takes the frames", func() bool { return unread(t, g) == 0 })
	must(t, syscall.Kill(worker, syscall.SIGCONT))
	time.Sleep(1500 * time.Millisecond) // longer than a worker may hang
	g.Echo(recovery)
	if now := onlyWorker(t, g); now != worker {
		t.Errorf("worker %d was replaced by %d", worker, now)
	}
	end(t, g)
}

// A worker that never moves is replaced, even if frames come so rarely that the
// guardian rests in between.
func TestStoppedWorkerIsReplacedThoughFramesAreRare(t *testing.T) {
	net := faultplug.New(t)
	g, worker := resting(t, rig.HelperConfig{VNL: net.VNL(), Env: []string{net.Env()}})
	must(t, syscall.Kill(worker, syscall.SIGSTOP))
	tick := time.NewTicker(250 * time.Millisecond) // after a frame, the guardian looks for 200 ms at most
	defer tick.Stop()
	for limit := rig.NewLimit(15 * time.Second); rig.Alive(worker); <-tick.C {
		if limit.Left() <= 0 {
			t.Fatal("the worker is still there")
		}
		sendMany(g)
	}
	g.Echo(recovery)
	end(t, g)
}

// While one open hangs, another one that fails at once is repeated in pauses, and
// its reason is told.
func TestFailuresBesideAnOpenThatHangsAreRepeatedInPauses(t *testing.T) {
	net := faultplug.New(t)
	net.Set(t, faultplug.OpenBlock)
	g := rig.StartHelper(t, rig.HelperConfig{VNL: net.VNL(), Env: []string{net.Env()}})
	g.WaitLine("link down: the plugin does not return from opening it", 5*time.Second)
	net.Set(t, faultplug.OpenFail)
	net.Clear(t, faultplug.OpenBlock)
	workers := make(map[int]bool)
	rig.Eventually(t, 15*time.Second, "the reason is told", func() bool {
		for _, pid := range g.Children() {
			workers[pid] = true
		}
		return strings.Contains(g.Lines()[len(g.Lines())-1], "link still down: "+syscall.EPROTO.Error())
	})
	if len(workers) > 6 { // one more each 1.5 s
		t.Errorf("%d workers were started meanwhile", len(workers))
	}
	net.Clear(t, faultplug.OpenFail)
	g.Echo(5 * time.Second)
	end(t, g)
}

// While one open hangs and no other worker can be started, the guardian is asleep
// between its tries.
func TestGuardianThatCannotStartAnotherWorkerSleeps(t *testing.T) {
	net := faultplug.New(t)
	net.Set(t, faultplug.OpenBlock)
	g := rig.StartHelper(t, rig.HelperConfig{VNL: net.VNL(), Env: []string{net.Env()}})
	rig.Eventually(t, 5*time.Second, "the first worker is there", func() bool { return len(g.Children()) > 0 })
	must(t, unix.Prlimit(g.Pid(), unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 3, Max: 3}, nil))
	g.WaitLine("link still down: no worker can be started: too many open files", 15*time.Second)
	g.Close()
	g.Wait(5 * time.Second)
	if took := g.Cmd.ProcessState.UserTime() + g.Cmd.ProcessState.SystemTime(); took > time.Second {
		t.Errorf("it took %v of a CPU", took)
	}
}

// A command that fills standard error for ever neither freezes the guest nor keeps
// the guardian from its signals.
func TestGuestOutlivesACommandThatPrintsForEver(t *testing.T) {
	g := rig.StartHelper(t, rig.HelperConfig{VNL: `cmd://sh -c "yes >&2"`})
	g.WaitLine(": y$", 5*time.Second)
	killWorker(t, g)
	t.Logf("the guest waited %v at most", flood(t, g, time.Second, guestPatience))
	g.Signal(syscall.SIGTERM)
	if code := g.Wait(2 * time.Second); code != 0 {
		t.Errorf("exit status %d", code)
	}
}

// A helper that was born to ignore SIGINT, as a script's background processes are,
// keeps its link when the terminal sends one to all of them.
func TestIgnoredInterruptDoesNotEndTheWorker(t *testing.T) {
	net := faultplug.New(t)
	script := filepath.Join(rig.TempDir(t), "vde_plug")
	must(t, os.WriteFile(script, []byte("#!/bin/sh\ntrap '' INT; exec "+rig.VdePlug()+` "$@"`), 0o700))
	g := rig.StartHelper(t, rig.HelperConfig{
		Program: script, VNL: net.VNL(), Env: []string{net.Env()}, Attr: &syscall.SysProcAttr{Setpgid: true},
	})
	g.WaitLine("link up", 5*time.Second)
	worker := onlyWorker(t, g)
	must(t, syscall.Kill(-g.Pid(), syscall.SIGINT))
	time.Sleep(300 * time.Millisecond) // what is awaited is that nothing happens
	g.Echo(recovery)
	if now := onlyWorker(t, g); now != worker {
		t.Errorf("worker %d was replaced by %d", worker, now)
	}
	end(t, g)
}

// Guests that connect while umlvde listen is about to end do not keep it.
func TestGuestsThatComeAtTheEndDoNotKeepTheListener(t *testing.T) {
	net := faultplug.New(t)
	name, value, _ := strings.Cut(net.Env(), "=")
	t.Setenv(name, value)
	path := filepath.Join(rig.TempDir(t), "guests")
	p := rig.StartListen(t, "-v", path, net.VNL())
	connect(t, path)
	p.WaitLine("link up", 5*time.Second)
	net.Set(t, faultplug.CloseBlock) // so that the end takes a while
	p.Signal(syscall.SIGTERM)
	rig.Eventually(t, 5*time.Second, "it ends", func() bool {
		_ = tryConnect(t, path) // the listener may be gone
		return !rig.Alive(p.Pid())
	})
}

// stall makes every look at dir wait for ever, as that of a network file system
// does whose server is gone.
func stall(t *testing.T, dir string) {
	t.Helper()
	fuse := rig.TempDir(t) + "/fuse"
	must(t, unix.Mknod(fuse, unix.S_IFCHR|0o600, int(unix.Mkdev(10, 229)))) // not every machine has it in /dev
	fd, err := unix.Open(fuse, unix.O_RDWR|unix.O_CLOEXEC, 0)
	must(t, err)
	t.Cleanup(func() {
		_ = unix.Close(fd) // and who waits is told
		_ = unix.Unmount(dir, unix.MNT_DETACH)
	})
	must(t, unix.Mount("test", dir, "fuse", 0, fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0", fd)))
}

// A directory of the network's that does not answer any more stops its workers, not
// the guest.
func TestGuestOutlivesADirectoryThatHangs(t *testing.T) {
	dir := rig.TempDir(t) + "/s"
	sw := rig.Switch(t, dir)
	g := rig.StartHelper(t, rig.HelperConfig{VNL: "vde://" + dir})
	g.WaitLine("link up", 5*time.Second)
	stall(t, dir)
	sw.Signal(syscall.SIGKILL)
	g.WaitLine("link down", 5*time.Second)
	t.Logf("the guest waited %v at most", flood(t, g, 2*time.Second, guestPatience))
	end(t, g)
}
