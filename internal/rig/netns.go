package rig

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// A Namespace is a network namespace that lives until the end of the test, or
// as long as something runs in it.
type Namespace struct {
	t    testing.TB
	file *os.File
}

// NewNamespace makes a network namespace, whose loopback interface is up.
func NewNamespace(t testing.TB) *Namespace {
	t.Helper()
	f, err := newNetns()
	if err != nil {
		t.Fatalf("a network namespace (this test must run as root): %v", err)
	}
	t.Cleanup(func() { f.Close() })
	n := &Namespace{t, f}
	n.Run("ip link set lo up")
	return n
}

// newNetns returns to its own namespace: the thread must not end with its work,
// as the processes that it has started would get their Pdeathsig.
func newNetns() (*os.File, error) {
	runtime.LockOSThread()
	own, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return nil, err
	}
	defer own.Close()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return nil, err
	}
	made, err := os.Open("/proc/thread-self/ns/net")
	if err2 := unix.Setns(int(own.Fd()), unix.CLONE_NEWNET); err2 != nil {
		panic(err2) // nothing more can be done in this thread
	}
	runtime.UnlockOSThread()
	return made, err
}

// Path names the namespace, as ip link set ... netns PATH takes it.
func (n *Namespace) Path() string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), n.file.Fd()) }

// Enter is the program and arguments that run a command in the namespace, as
// the same process.
func (n *Namespace) Enter() []string { return []string{"nsenter", "--net=" + n.Path(), "--"} }

// Run runs a command, which has no quotes, in the namespace.
func (n *Namespace) Run(command string) {
	n.t.Helper()
	argv := append(n.Enter(), strings.Fields(command)...)
	if out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
		n.t.Fatalf("%s: %v: %s", command, err, out)
	}
}
