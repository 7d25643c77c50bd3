package rig

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// A Namespace is a network namespace that lives until the end of the test, or
// as long as something runs in it.
type Namespace struct {
	T    testing.TB // the test whose it is
	file *os.File
}

// NewNamespace makes a network namespace, whose loopback interface is up.
func NewNamespace(t testing.TB) *Namespace {
	t.Helper()
	n := &Namespace{T: t}
	inNetns(t, func() error { return unix.Unshare(unix.CLONE_NEWNET) }, func() {
		var err error
		n.file, err = os.Open("/proc/thread-self/ns/net")
		must(t, err)
	})
	t.Cleanup(func() { n.file.Close() })
	n.Sh("ip link set lo multicast on up")
	return n
}

// inNetns runs f in the network namespace that enter goes to, and returns to
// the one before: were the thread to end, the processes that it has started
// would get their Pdeathsig.
func inNetns(t testing.TB, enter func() error, f func()) {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	own, err := os.Open("/proc/thread-self/ns/net")
	must(t, err)
	defer own.Close()
	if err := enter(); err != nil {
		t.Fatalf("a network namespace (this test must run as root): %v", err)
	}
	defer func() {
		if err := unix.Setns(int(own.Fd()), unix.CLONE_NEWNET); err != nil {
			panic(err) // or all that follows is in the wrong place
		}
	}()
	f()
}

// Do runs f, and so what f starts, in the namespace.
func (n *Namespace) Do(f func()) {
	n.T.Helper()
	inNetns(n.T, func() error { return unix.Setns(int(n.file.Fd()), unix.CLONE_NEWNET) }, f)
}

// Sh runs shell commands in the namespace and returns what they printed.
func (n *Namespace) Sh(commands string) (out string) {
	n.T.Helper()
	n.Do(func() {
		n.T.Helper()
		text, err := exec.Command("sh", "-ec", commands).CombinedOutput()
		if err != nil {
			n.T.Fatalf("%s: %v\n%s", commands, err, text)
		}
		out = string(text)
	})
	return out
}

// Path names the namespace for ip(8).
func (n *Namespace) Path() string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), n.file.Fd()) }

// Enter is the program and arguments that run a command in the namespace, as
// the same process.
func (n *Namespace) Enter() []string { return []string{"nsenter", "--net=" + n.Path(), "--"} }

// A LAN joins namespaces by a bridge.
type LAN struct {
	t      testing.TB
	bridge *Namespace
	hosts  int
}

// NewLAN makes a LAN without hosts.
func NewLAN(t testing.TB) *LAN {
	t.Helper()
	l := &LAN{t: t, bridge: NewNamespace(t)}
	l.bridge.Sh("ip link add br0 type bridge mcast_snooping 0; ip link set br0 up")
	return l
}

// Host adds a namespace whose eth0 is on the LAN, with the addresses 10.9.0.N
// and fd09::N, where N counts from 1.
func (l *LAN) Host() *Namespace {
	l.t.Helper()
	l.hosts++
	host := NewNamespace(l.t)
	l.bridge.Sh(fmt.Sprintf("ip link add p%d type veth peer name eth0 netns %s; ip link set p%[1]d master br0 up", l.hosts, host.Path()))
	host.Sh(fmt.Sprintf(`echo 0 >/proc/sys/net/ipv6/conf/eth0/accept_dad
		ip link set eth0 up
		ip addr add 10.9.0.%[1]d/24 dev eth0; ip addr add fd09::%[1]d/64 dev eth0 nodad
		ip route add 224.0.0.0/4 dev eth0`, l.hosts))
	return host
}
