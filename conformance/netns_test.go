package conformance

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// home is the network namespace of the test program.
var home *os.File

func openHome() (err error) {
	home, err = os.Open("/proc/self/ns/net")
	return err
}

// A netns is a network namespace without a name, which ends with the test.
type netns struct {
	t    testing.TB
	file *os.File
}

// newNetns makes a network namespace whose lo is up. No thread may end with it:
// one that has started processes would take them along (Pdeathsig).
func newNetns(t testing.TB) *netns {
	t.Helper()
	n := &netns{t: t}
	elsewhere(t, func() error { return unix.Unshare(unix.CLONE_NEWNET) }, func() {
		must(t, loopback())
		var err error
		n.file, err = os.Open("/proc/thread-self/ns/net")
		must(t, err)
	})
	t.Cleanup(func() { n.file.Close() })
	return n
}

// elsewhere runs f after the thread has gone to another namespace.
func elsewhere(t testing.TB, enter func() error, f func()) {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	must(t, enter())
	defer func() {
		if err := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); err != nil {
			panic(err) // or all that follows is in the wrong place
		}
	}()
	f()
}

// do runs f in the namespace, and so what f starts.
func (n *netns) do(f func()) {
	n.t.Helper()
	elsewhere(n.t, func() error { return unix.Setns(int(n.file.Fd()), unix.CLONE_NEWNET) }, f)
}

// sh runs a shell command in the namespace and returns what it printed.
func (n *netns) sh(command string) (out string) {
	n.t.Helper()
	n.do(func() {
		n.t.Helper()
		text, err := exec.Command("sh", "-ec", command).CombinedOutput()
		if err != nil {
			n.t.Fatalf("%s: %v\n%s", command, err, text)
		}
		out = string(text)
	})
	return out
}

// path names the namespace for ip(8).
func (n *netns) path() string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), n.file.Fd()) }

// lan makes n namespaces whose eth0 are on one bridge, with the addresses
// 10.9.0.1 and fd09::1, 10.9.0.2 and fd09::2, ...
func lan(t testing.TB, n int) (hosts []*netns) {
	t.Helper()
	bridge := newNetns(t)
	bridge.sh("ip link add br0 type bridge mcast_snooping 0; ip link set br0 up")
	for i := 1; i <= n; i++ {
		host := newNetns(t)
		bridge.sh(fmt.Sprintf("ip link add p%d type veth peer name eth0 netns %s; ip link set p%[1]d master br0 up", i, host.path()))
		host.sh(fmt.Sprintf(`echo 0 >/proc/sys/net/ipv6/conf/eth0/accept_dad
			ip link set eth0 up
			ip addr add 10.9.0.%[1]d/24 dev eth0; ip addr add fd09::%[1]d/64 dev eth0 nodad
			ip route add 224.0.0.0/4 dev eth0`, i))
		hosts = append(hosts, host)
	}
	return hosts
}

// loopback brings lo up, for multicast too, in the thread's network namespace.
func loopback() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	ifr, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	ifr.SetUint16(unix.IFF_UP | unix.IFF_MULTICAST)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
