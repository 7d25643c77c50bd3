package rig

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TempDir makes a directory with a short path, as sockets need it.
func TempDir(t testing.TB) string {
	t.Helper()
	parent := os.TempDir()
	if len(parent) > 20 {
		parent = "/tmp"
	}
	dir, err := os.MkdirTemp(parent, "vde")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// Switch starts a vde_switch at path and waits until it can be connected to.
func Switch(t testing.TB, path string) *Proc {
	t.Helper()
	cmd := exec.Command("vde_switch", "-s", path)
	in, err := cmd.StdinPipe() // it ends with its console
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { in.Close() })
	p := Start(t, cmd)
	Eventually(t, 5*time.Second, "the switch listens", func() bool {
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		return unix.Connect(fd, &unix.SockaddrUnix{Name: filepath.Join(path, "ctl")}) == nil
	})
	return p
}
