package main

import (
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/umlvde/umlvde/internal/rig"
	"golang.org/x/sys/unix"
)

// connect connects to a listener as a guest does, until the end of the test.
func connect(t *testing.T, path string) {
	t.Helper()
	must(t, tryConnect(t, path))
}

// tryConnect is connect where there may be no listener.
func tryConnect(t *testing.T, path string) error {
	t.Helper()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	must(t, err)
	t.Cleanup(func() { unix.Close(fd) })
	return unix.Connect(fd, &unix.SockaddrUnix{Name: path})
}

// Listen, too, says that the library is missing, to the guest that needs it.
func TestListenWithoutTheLibrary(t *testing.T) {
	dir := rig.TempDir(t)
	t.Setenv("LIBVDEPLUG", dir+"/libvdeplug.so.2")
	l := rig.StartListen(t, dir+"/guests", "slirp://")
	connect(t, dir+"/guests")
	l.WaitLine("^umlvde: UML [0-9]+: slirp://: link down: .*/libvdeplug.so.2: no such file or directory; trying again$", 5*time.Second)
}

// A listener replaces the socket of one that was killed, but not that of one
// that is alive.
func TestListenReplacesAStaleSocket(t *testing.T) {
	path := rig.TempDir(t) + "/guests"
	first := rig.StartListen(t, path, "null://")
	out, err := exec.Command(rig.Umlvde(), "listen", path, "null://").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "another program listens there") {
		t.Errorf("a second listener: %v %s", err, out)
	}
	first.Signal(syscall.SIGKILL)
	first.Wait(time.Second)
	second := rig.Start(t, exec.Command(rig.Umlvde(), "listen", path, "null://"))
	rig.Eventually(t, 5*time.Second, "the second one listens", func() bool {
		return tryConnect(t, path) == nil
	})
	second.Signal(syscall.SIGTERM)
	second.Wait(time.Second)
}

// Who finds the path taken does not become a guest of the one that listens there,
// and leaves one alone that is only about to listen.
func TestListenFindsThePathTaken(t *testing.T) {
	dir := rig.TempDir(t)
	refused := func(path string) {
		t.Helper()
		second := rig.Start(t, exec.Command(rig.Umlvde(), "listen", path, "null://"))
		second.WaitLine("^umlvde: cannot listen on "+path+": another program listens there$", 5*time.Second)
		if code := second.Wait(5 * time.Second); code != exitFailure {
			t.Errorf("exit status %d", code)
		}
	}
	first := rig.StartListen(t, "-v", dir+"/guests", "null://")
	refused(dir + "/guests")
	first.Signal(syscall.SIGTERM)
	first.Wait(5 * time.Second)
	if lines := first.Lines(); len(lines) > 0 {
		t.Errorf("the first one said: %q", lines)
	}

	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	must(t, err)
	defer unix.Close(fd)
	must(t, unix.Bind(fd, &unix.SockaddrUnix{Name: dir + "/soon"}))
	refused(dir + "/soon")
}

// What is no socket is left alone, even if the arguments were mixed up.
func TestListenKeepsOtherFiles(t *testing.T) {
	dir := rig.TempDir(t)
	must(t, os.WriteFile(dir+"/lab.vnl", []byte("null://"), 0o600))
	must(t, os.Mkdir(dir+"/empty", 0o700))
	for _, path := range []string{dir + "/lab.vnl", dir + "/empty"} {
		out, err := exec.Command(rig.Umlvde(), "listen", path, dir+"/guests").CombinedOutput()
		if want := "umlvde: cannot listen on " + path + ": there is something else than a socket\n"; err == nil || string(out) != want {
			t.Errorf("%v: %q, not %q", err, out, want)
		}
		if _, err := os.Stat(path); err != nil {
			t.Error(err)
		}
	}
}

// At its end a listener leaves the socket of one that has taken its place.
func TestListenLeavesItsSuccessor(t *testing.T) {
	path := rig.TempDir(t) + "/guests"
	first := rig.StartListen(t, path, "null://")
	must(t, os.Remove(path))
	second := rig.Start(t, exec.Command(rig.Umlvde(), "listen", path, "null://"))
	rig.Eventually(t, 5*time.Second, "the second one listens", func() bool {
		_, err := os.Stat(path)
		return err == nil
	})
	first.Signal(syscall.SIGTERM)
	first.Wait(5 * time.Second)
	connect(t, path)
	second.Signal(syscall.SIGTERM)
	second.Wait(5 * time.Second)
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("the socket is left: %v", err)
	}
}

// The guests of a listener stay on the network when its terminal hangs up: they may
// have terminals of their own.
func TestListenOutlivesItsTerminal(t *testing.T) {
	path := rig.TempDir(t) + "/guests"
	l := rig.StartListen(t, "-v", path, "null://")
	connect(t, path)
	l.WaitLine("link up", 5*time.Second)
	for _, pid := range append(l.Children(), l.Pid()) {
		must(t, syscall.Kill(pid, syscall.SIGHUP))
	}
	connect(t, path)
	l.WaitLine("link up", 5*time.Second)
	l.Signal(syscall.SIGTERM)
	if code := l.Wait(5 * time.Second); code != 0 {
		t.Errorf("exit status %d", code)
	}
	if text := strings.Join(l.Lines(), "\n"); strings.Contains(text, "down") {
		t.Errorf("it said:\n%s", text)
	}
}

// A name with @ is a file's, as it is for a kernel.
func TestListenAtAnAt(t *testing.T) {
	dir := rig.TempDir(t)
	cmd := exec.Command(rig.Umlvde(), "listen", "@guests", "null://")
	cmd.Dir = dir
	rig.Start(t, cmd)
	rig.Eventually(t, 5*time.Second, "the socket is there", func() bool {
		_, err := os.Stat(dir + "/@guests")
		return err == nil
	})
}

// A guest that names the socket from its own directory gets frames as long as its
// mtu= allows, too.
func TestGuestNamesASocketFromItsDirectory(t *testing.T) {
	dir := rig.TempDir(t)
	hub := rig.StartHelper(t, rig.HelperConfig{VNL: "hub://" + dir + "/h"})
	hub.WaitLine("link up", 5*time.Second)
	l := rig.StartListen(t, "-v", dir+"/guests", "vde://"+dir+"/h")
	u := rig.Boot(t, rig.Kernel(t, "6.12"), []string{"env", "-C", dir}, []string{"vec0:transport=bess,dst=guests,mtu=4000"}, nil)
	address(u, 1)
	l.WaitLine("UML [0-9]+: .*: link up", 5*time.Second)
	u.Must(bootTime, "ip link set vec0 promisc on")
	rig.Eventually(t, 10*time.Second, "it receives a frame of 4014 bytes", func() bool {
		hub.Send(rig.Frame(4014, 0), time.Second)
		return strings.TrimSpace(u.Must(bootTime, "cat /sys/class/net/vec0/statistics/rx_packets")) != "0"
	})
	u.PowerOff()
}
