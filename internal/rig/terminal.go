package rig

import (
	"fmt"
	"testing"

	"golang.org/x/sys/unix"
)

// Terminal makes a pseudo terminal: a descriptor of its master, which does not block
// and is the caller's to close, and the path of its other end.
func Terminal(t testing.TB) (master int, path string) {
	t.Helper()
	master, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	if err = unix.IoctlSetPointerInt(master, unix.TIOCSPTLCK, 0); err == nil {
		n, err = unix.IoctlGetInt(master, unix.TIOCGPTN)
	}
	if err != nil {
		_ = unix.Close(master)
		t.Fatal(err)
	}
	return master, fmt.Sprintf("/dev/pts/%d", n)
}
