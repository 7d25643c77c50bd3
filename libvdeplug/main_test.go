//go:build linux

package libvdeplug_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/umlvde/umlvde/internal/leak"
	"github.com/umlvde/umlvde/internal/rig"
	"github.com/umlvde/umlvde/libvdeplug"
	"golang.org/x/sys/unix"
)

// soon is how long a test waits for what must happen.
const soon = 10 * time.Second

// TestMain fails if the tests leave descriptors or goroutines behind.
func TestMain(m *testing.M) {
	if os.Getenv(childTest) != "" { // leave things, on purpose
		os.Exit(m.Run())
	}
	os.Exit(leak.Main(withProgram{m}))
}

// childTest says which test this process has been started for.
const childTest = "LIBVDEPLUG_TEST_CHILD"

// inChild runs a test in a process of its own, with more in its environment, and
// reports whether this is it.
func inChild(t *testing.T, lasting time.Duration, attr *syscall.SysProcAttr, env ...string) bool {
	t.Helper()
	if os.Getenv(childTest) == t.Name() {
		return true
	}
	ctx, cancel := context.WithTimeout(context.Background(), lasting)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=0")
	cmd.WaitDelay = time.Second
	cmd.Env = append(append(os.Environ(), childTest+"="+t.Name()), env...)
	cmd.SysProcAttr = attr
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	must(t, err)
	return false
}

// withProgram runs the tests with umlvde built.
type withProgram struct{ m *testing.M }

func (p withProgram) Run() int { return rig.Main(p.m) }

// open opens vnl and closes it at the end of the test.
func open(t testing.TB, vnl string) *libvdeplug.Conn {
	t.Helper()
	c, err := libvdeplug.Open(vnl, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// A network joins two Conns.
type network struct {
	name string
	// lossless says that a writer waits for a reader who does not read.
	lossless bool
	join     func(t testing.TB) (a, b *libvdeplug.Conn)
}

var networks = []network{
	{"switch", false, func(t testing.TB) (a, b *libvdeplug.Conn) {
		vnl := "vde://" + startSwitch(t)
		return open(t, vnl), open(t, vnl)
	}},
	{"ptp", true, func(t testing.TB) (a, b *libvdeplug.Conn) {
		vnl := "ptp://" + filepath.Join(rig.TempDir(t), "p")
		return open(t, vnl), open(t, vnl)
	}},
	{"seqpacket", true, func(t testing.TB) (a, b *libvdeplug.Conn) {
		return seqpackets(t)
	}},
	{"udp", false, func(t testing.TB) (a, b *libvdeplug.Conn) {
		p, q := freePort(t), freePort(t)
		return open(t, fmt.Sprintf("udp://127.0.0.1:%d->127.0.0.1:%d", p, q)),
			open(t, fmt.Sprintf("udp://127.0.0.1:%d->127.0.0.1:%d", q, p))
	}},
	{"hub", false, func(t testing.TB) (a, b *libvdeplug.Conn) {
		return hub(t)
	}},
	{"isolated", false, func(t testing.TB) (a, b *libvdeplug.Conn) {
		vnl := "ptp://" + filepath.Join(rig.TempDir(t), "p")
		a, b = openIsolated(t, vnl, libvdeplug.Isolation{}), openIsolated(t, vnl, libvdeplug.Isolation{})
		greet(t, a, b)
		greet(t, b, a)
		return a, b
	}},
}

// vlan is not among them: its frames have 18 bytes and more, and may stay inside it
// when a write fails.
var vlan = network{"vlan", true, func(t testing.TB) (a, b *libvdeplug.Conn) {
	vnl := "vlan://5{ptp://" + filepath.Join(rig.TempDir(t), "p") + "}"
	return open(t, vnl), open(t, vnl)
}}

// openIsolated opens vnl in a child process and closes it at the end of the test.
func openIsolated(t testing.TB, vnl string, i libvdeplug.Isolation) *libvdeplug.Conn {
	t.Helper()
	i.Program = rig.Umlvde()
	c, err := libvdeplug.Open(vnl, &libvdeplug.Options{Isolation: &i})
	must(t, err)
	t.Cleanup(func() { check(t, c.Close()) })
	return c
}

// greet waits until a frame from one Conn has reached the other. It is the last one
// that it has sent, so none of its frames comes later.
func greet(t testing.TB, from, to *libvdeplug.Conn) {
	t.Helper()
	buf, last := make([]byte, 60), uint32(0)
	rig.Eventually(t, soon, "a frame arrives", func() bool {
		last++
		send(t, from, rig.Frame(60, last))
		must(t, to.SetReadDeadline(time.Now().Add(50*time.Millisecond)))
		for {
			n, err := to.Read(buf)
			switch {
			case err == nil && n == 60 && rig.Number(buf) == last:
				return true
			case err != nil && !errors.Is(err, io.ErrShortBuffer):
				return false
			}
		}
	})
	must(t, to.SetReadDeadline(time.Time{}))
}

// on runs f on two fresh ends of a network.
func (n network) on(t *testing.T, f func(t *testing.T, a, b *libvdeplug.Conn)) {
	t.Run(n.name, func(t *testing.T) {
		a, b := n.join(t)
		f(t, a, b)
	})
}

// eachNetwork runs f on each network.
func eachNetwork(t *testing.T, f func(t *testing.T, a, b *libvdeplug.Conn)) {
	for _, n := range networks {
		n.on(t, f)
	}
}

// eachLossless is eachNetwork for those where a full network makes writers wait.
func eachLossless(t *testing.T, f func(t *testing.T, a, b *libvdeplug.Conn)) {
	for _, n := range networks {
		if n.lossless {
			n.on(t, f)
		}
	}
}

func startSwitch(t testing.TB) (dir string) {
	t.Helper()
	dir = filepath.Join(rig.TempDir(t), "s")
	rig.Switch(t, dir)
	return dir
}

func seqpackets(t testing.TB) (a, b *libvdeplug.Conn) {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	return open(t, fmt.Sprintf("seqpacket://%d", pair[0])), open(t, fmt.Sprintf("seqpacket://%d", pair[1]))
}

// hub returns a client of a hub and the Conn that hosts it.
func hub(t testing.TB) (client, host *libvdeplug.Conn) {
	t.Helper()
	dir := filepath.Join(rig.TempDir(t), "h")
	host = open(t, "hub://"+dir)
	served := make(chan error)
	go func() { // the host lets the client in while it reads
		_, err := host.Read(make([]byte, libvdeplug.MaxFrameSize))
		served <- err
	}()
	client = open(t, "vde://"+dir)
	must(t, host.SetReadDeadline(time.Unix(1, 0)))
	if err := <-served; !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatal(err)
	}
	must(t, host.SetReadDeadline(time.Time{}))
	return client, host
}

func freePort(t testing.TB) int {
	t.Helper()
	c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	return c.LocalAddr().(*net.UDPAddr).Port
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// check is must for other goroutines than the test's own.
func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Error(err)
	}
}

// checkEOF checks that a read has said, without any wrapping, that all is over.
func checkEOF(t testing.TB, err error) {
	t.Helper()
	if err != io.EOF { //nolint:errorlint // bare
		t.Errorf("got %v, want a bare io.EOF", err)
	}
}

// promptly fails the test unless f, tried up to five times, takes at most 100 ms:
// a busy machine may do something else at any moment, but not always.
func promptly(t testing.TB, what string, f func() time.Duration) {
	t.Helper()
	var took []time.Duration
	for range 5 {
		d := f()
		if d <= 100*time.Millisecond {
			return
		}
		took = append(took, d)
	}
	t.Errorf("%s took %v", what, took)
}

// send writes one frame.
func send(t testing.TB, c *libvdeplug.Conn, frame []byte) {
	t.Helper()
	if n, err := c.Write(frame); n != len(frame) || err != nil {
		t.Fatalf("Write of %d bytes: %d, %v", len(frame), n, err)
	}
}

// receive reads one frame in time.
func receive(t testing.TB, c *libvdeplug.Conn) []byte {
	t.Helper()
	must(t, c.SetReadDeadline(time.Now().Add(soon)))
	defer func() { must(t, c.SetReadDeadline(time.Time{})) }()
	buf := make([]byte, 65600)
	n, err := c.Read(buf)
	must(t, err)
	return buf[:n]
}

// finish waits for a function that runs in a goroutine.
func finish(t testing.TB, what string, done <-chan error) error {
	t.Helper()
	select {
	case err := <-done:
		return err
	case <-time.After(soon):
		t.Fatalf("%s does not end", what)
		return nil
	}
}

// readUntilError reads frames away until it gets an error.
func readUntilError(c io.Reader) error {
	for buf := make([]byte, libvdeplug.MaxFrameSize); ; {
		if _, err := c.Read(buf); err != nil {
			return err
		}
	}
}

// parked waits until n goroutines sleep in the poller of a Conn.
func parked(t testing.TB, n int) {
	t.Helper()
	rig.Eventually(t, soon, fmt.Sprintf("%d calls wait", n), func() bool {
		return stacks("libvdeplug.(*poller).wait(") == n
	})
}

// stacks counts the goroutines that are in a function.
func stacks(function string) int {
	buf := make([]byte, 4<<20)
	return bytes.Count(buf[:runtime.Stack(buf, true)], []byte(function))
}
