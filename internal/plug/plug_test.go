package plug

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/umlvde/umlvde/internal/leak"
	"github.com/umlvde/umlvde/internal/mmsg"
	"github.com/umlvde/umlvde/internal/relay"
	"github.com/umlvde/umlvde/internal/rig"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { os.Exit(leak.Main(m)) }

const soon = 10 * time.Second

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newBatch(t testing.TB) *mmsg.Batch {
	t.Helper()
	b, err := mmsg.NewBatch()
	must(t, err)
	t.Cleanup(b.Free)
	return b
}

// open opens a plug and closes it at the end of the test.
func open(t testing.TB, vnl string) Plug {
	t.Helper()
	p, err := Open(ParseVNL(vnl), Options{Descr: "test"})
	must(t, err)
	t.Cleanup(func() { must(t, p.Close()) })
	return p
}

// send hands frames to a plug, as long as that takes, and returns the counts.
func send(t testing.TB, p Plug, frames ...[]byte) relay.Totals {
	t.Helper()
	b, c := newBatch(t), relay.Counters{}
	for _, f := range frames {
		if !b.Append(f) {
			t.Fatal("too many frames for a batch")
		}
	}
	c.In.Add(uint64(b.Len()))
	for {
		err := p.Send(b, &c)
		if err == nil {
			break
		}
		if !errors.Is(err, unix.EAGAIN) {
			t.Fatal(err)
		}
		_, w, _ := p.Fds()
		poll(t, w, unix.POLLOUT)
	}
	total := c.Totals()
	if b.Len() != 0 || p.Unsent() || total.In != total.Out+total.Dropped() {
		t.Errorf("sent %v, and %d frames are left", total.String(), b.Len())
	}
	return total
}

// receive returns the frames that a plug has next, at least one.
func receive(t testing.TB, p Plug) (frames [][]byte) {
	t.Helper()
	frames, err := tryReceive(t, p)
	must(t, err)
	return frames
}

func tryReceive(t testing.TB, p Plug) (frames [][]byte, err error) {
	t.Helper()
	b := newBatch(t)
	r, _, _ := p.Fds()
	for deadline := time.Now().Add(soon); time.Now().Before(deadline); {
		err := p.Recv(b)
		if errors.Is(err, unix.EAGAIN) {
			poll(t, r, unix.POLLIN)
			continue
		}
		for i := range b.Len() {
			frames = append(frames, append([]byte(nil), b.Frame(i)...))
		}
		return frames, err
	}
	t.Fatal("nothing came")
	return nil, nil
}

func poll(t testing.TB, fd int, events int16) {
	t.Helper()
	if !rig.Poll(fd, events, soon) {
		t.Fatal("nothing happens")
	}
}

// carry sends a frame from a to b.
func carry(t *testing.T, a, b Plug, number uint32) {
	t.Helper()
	for _, size := range []int{60, 1514} {
		if n := send(t, a, rig.Frame(size, number)); n.Out != 1 {
			t.Fatalf("sent %v", n.String())
		}
		for {
			frames := receive(t, b)
			if f := frames[len(frames)-1]; len(f) >= 18 && f[12] == 0x88 && f[13] == 0xb5 {
				if len(f) != size || rig.Number(f) != number {
					t.Fatalf("frame %d of %d bytes came as %d of %d", number, size, rig.Number(f), len(f))
				}
				break
			}
		}
	}
}

// TestEveryPlugin sees that each plugin on this machine is one that the table
// knows, or that this package serves itself.
func TestEveryPlugin(t *testing.T) {
	lib, err := Load("")
	must(t, err)
	for _, p := range Plugins(lib) {
		if _, known := table[p.Name]; !known && p.Name != "cmd" && p.Name != "seqpacket" {
			t.Errorf("%s is installed and nothing is known about it", p.Path)
		}
	}
}

// TestDriven checks which way each kind of plug is driven.
func TestDriven(t *testing.T) {
	dir := rig.TempDir(t)
	sw := filepath.Join(dir, "s")
	rig.Switch(t, sw)
	key := filepath.Join(dir, "key")
	must(t, os.WriteFile(key, []byte(strings.Repeat("0", 32)), 0o600))
	for _, c := range []struct {
		vnl      string
		want     string
		parallel bool
	}{
		{sw, "*plug.sockPlug", true},
		{"vde://" + sw, "*plug.sockPlug", true},
		{"ptp://" + dir + "/p", "*plug.ptpPlug", true},
		{"udp://127.0.0.1:0->127.0.0.1:9", "*plug.sockPlug", true},
		{"slirp://", "*plug.sockPlug", true},
		{"null://", "*plug.libPlug", true},
		{"hub://" + dir + "/h", "*plug.libPlug", false},
		{"switch://" + dir + "/i", "*plug.libPlug", false},
		{"vlan://5{vde://" + sw + "}", "*plug.nestedPlug", false},
		{"agno://" + key + "{vde://" + sw + "}", "*plug.nestedPlug", false},
		{"cmd://cat", "*plug.cmdPlug", true},
	} {
		t.Run(ParseVNL(c.vnl).Plugin, func(t *testing.T) {
			p := open(t, c.vnl)
			if got := fmt.Sprintf("%T", p); got != c.want || p.Parallel() != c.parallel {
				t.Errorf("%s is a %s, parallel %v", c.vnl, got, p.Parallel())
			}
			if err := p.Recv(newBatch(t)); !errors.Is(err, unix.EAGAIN) && !strings.HasPrefix(c.vnl, "slirp") {
				t.Errorf("%s: Recv of nothing: %v", c.vnl, err)
			}
		})
	}
}

func TestCarry(t *testing.T) {
	dir := rig.TempDir(t)
	sw := "vde://" + filepath.Join(dir, "s")
	rig.Switch(t, filepath.Join(dir, "s"))
	key := filepath.Join(dir, "key")
	must(t, os.WriteFile(key, []byte(strings.Repeat("0", 32)), 0o600))
	for name, vnls := range map[string][2]string{
		"vde": {sw, sw},
		"ptp": {"ptp://" + dir + "/p", "ptp://" + dir + "/p"},
		// Not on a switch, which drops tagged frames and cuts those that agno made longer.
		"vlan": {"vlan://5{ptp://" + dir + "/v}", "vlan://5{ptp://" + dir + "/v}"},
		"agno": {"agno://" + key + "{ptp://" + dir + "/a}", "agno://" + key + "{ptp://" + dir + "/a}"},
		"cmd":  {"cmd://vde_plug " + sw, "cmd://vde_plug " + sw},
	} {
		t.Run(name, func(t *testing.T) {
			a, b := open(t, vnls[0]), open(t, vnls[1])
			if name == "cmd" {
				ready(t, a, b)
			}
			carry(t, a, b, 1)
			carry(t, b, a, 2)
			batch := newBatch(t)
			for _, room := range []int{mmsg.Max, 1, 7} {
				var frames [][]byte
				for i := range uint32(50) {
					frames = append(frames, rig.Frame(100, i))
				}
				send(t, a, frames...)
				for next := uint32(0); next < 50; {
					r, _, _ := b.Fds()
					if !rig.Poll(r, unix.POLLIN, soon) {
						t.Fatalf("room for %d: nothing shows that there are more than %d frames", room, next)
					}
					batch.Limit(room)
					if err := b.Recv(batch); err != nil {
						if !errors.Is(err, unix.EAGAIN) {
							t.Fatal(err)
						}
						batch.Clear()
					}
					for i := range batch.Len() {
						if n := rig.Number(batch.Frame(i)); n != next {
							t.Fatalf("frame %d came as number %d", n, next)
						}
						next++
					}
				}
			}
		})
	}
}

// ready sends frames both ways until one has come each way: a command opens its
// plug when it likes. Those under way are thrown away.
func ready(t *testing.T, a, b Plug) {
	t.Helper()
	batch := newBatch(t)
	for _, way := range [][2]Plug{{a, b}, {b, a}} {
		rig.Eventually(t, soon, "a frame goes through", func() bool {
			send(t, way[0], rig.Frame(60, 0))
			return way[1].Recv(batch) == nil
		})
	}
	for _, way := range [][2]Plug{{a, b}, {b, a}} { // the last of them, by its number
		send(t, way[0], rig.Frame(60, 99))
		for done := false; !done; {
			for _, f := range receive(t, way[1]) {
				done = done || rig.Number(f) == 99
			}
		}
	}
}

func freePort(t testing.TB) int {
	t.Helper()
	c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	must(t, err)
	defer c.Close()
	return c.LocalAddr().(*net.UDPAddr).Port
}

// TestVlanTags sends tagged frames through a trunk: vlan's vde_recv returns the
// length of the buffer for theirs, and what was there before behind them.
func TestVlanTags(t *testing.T) {
	vnl := "ptp://" + filepath.Join(rig.TempDir(t), "p")
	outside, inside := open(t, vnl), open(t, "vlan://5/x{"+vnl+"}")
	tagged := func(tpid uint16, vid byte, size int) []byte {
		f := rig.Frame(size, 7)
		return append(append(f[:12:12], byte(tpid>>8), byte(tpid), 0, vid), f[12:]...)
	}
	for _, size := range []int{60, 1514} {
		send(t, outside, tagged(0x8100, 5, size))
		if f := receive(t, inside)[0]; !bytes.Equal(f, rig.Frame(size, 7)) {
			t.Errorf("a frame of the untagged network has %d bytes, not %d", len(f), size)
		}
		send(t, outside, tagged(0x8100, 10, size))
		if f := receive(t, inside)[0]; !bytes.Equal(f, tagged(0x8100, 10, size)) {
			t.Errorf("a tagged frame has %d bytes, not %d", len(f), size+4)
		}
		send(t, inside, rig.Frame(size, 7))
		if f := receive(t, outside)[0]; !bytes.Equal(f, tagged(0x8100, 5, size)) {
			t.Errorf("a frame that was tagged has %d bytes, not %d", len(f), size+4)
		}
	}
}

func TestUDP(t *testing.T) {
	p, q := freePort(t), freePort(t)
	a := open(t, fmt.Sprintf("udp://127.0.0.1:%d->127.0.0.1:%d", p, q))
	if n := send(t, a, rig.Frame(60, 0)); n.Out != 1 {
		t.Errorf("the first frame, to nobody: %v", n.String())
	}
	b := open(t, fmt.Sprintf("udp://127.0.0.1:%d->127.0.0.1:%d", q, p))
	// ICMP has told a that nobody was there, which must not end it.
	rig.Eventually(t, soon, "a frame arrives", func() bool {
		send(t, a, rig.Frame(60, 1))
		return b.Recv(newBatch(t)) == nil
	})
	carry(t, b, a, 2)
}

// TestPtpReturns has one end of a cable go away and come back.
func TestPtpReturns(t *testing.T) {
	vnl := "ptp://" + filepath.Join(rig.TempDir(t), "p")
	a := open(t, vnl)
	if n := send(t, a, rig.Frame(60, 0), rig.Frame(60, 0)); n.Drops[relay.Refused] != 2 {
		t.Errorf("alone: %v", n.String())
	}
	for i := range uint32(3) {
		b, err := Open(ParseVNL(vnl), Options{})
		must(t, err)
		carry(t, a, b, 10+i)
		carry(t, b, a, 20+i)
		must(t, b.Close())
		if n := send(t, a, rig.Frame(60, 0), rig.Frame(60, 0)); n.Drops[relay.Refused] != 2 {
			t.Errorf("alone again: %v", n.String())
		}
	}
}

func TestHubAndClients(t *testing.T) {
	dir := filepath.Join(rig.TempDir(t), "h")
	host := open(t, "hub://"+dir)
	stop, stopped := make(chan struct{}), make(chan struct{})
	got := make(chan uint32, 1000)
	go func() { // it lets clients in, and passes their frames on, while it receives
		defer close(stopped)
		b, err := mmsg.NewBatch()
		if err != nil {
			t.Error(err)
			return
		}
		defer b.Free()
		r, _, _ := host.Fds()
		for {
			select {
			case <-stop:
				return
			default:
			}
			_, _ = unix.Poll([]unix.PollFd{{Fd: int32(r), Events: unix.POLLIN}}, 10)
			if host.Recv(b) == nil {
				for i := range b.Len() {
					got <- rig.Number(b.Frame(i))
				}
			}
		}
	}()
	a, b := open(t, "vde://"+dir), open(t, "vde://"+dir)
	carry(t, a, b, 1)
	if n := <-got; n != 1 {
		t.Errorf("the host got frame %d", n)
	}
	close(stop)
	<-stopped
	send(t, host, rig.Frame(60, 2))
	if rig.Number(receive(t, a)[0]) != 2 || rig.Number(receive(t, b)[0]) != 2 {
		t.Error("the host's frame did not reach its clients")
	}
}

// TestReclaimHub opens a hub whose last host was killed, and one whose host is
// alive.
func TestReclaimHub(t *testing.T) {
	dir := filepath.Join(rig.TempDir(t), "h")
	must(t, os.Mkdir(dir, 0o700))
	for _, name := range []string{"ctl", ".12345-0"} {
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		must(t, err)
		must(t, unix.Bind(fd, &unix.SockaddrUnix{Name: filepath.Join(dir, name)}))
		must(t, unix.Close(fd))
	}
	first, err := Open(ParseVNL("hub://"+dir), Options{})
	must(t, err)
	if _, err := Open(ParseVNL("hub://"+dir+"[mode=700]"), Options{}); !errors.Is(err, fs.ErrExist) {
		t.Errorf("with a host that is alive: %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "ctl")); err != nil {
		t.Errorf("the second host broke the first: %v", err)
	}
	must(t, first.Close())

	// A host that was killed while it removed its directory has left it empty.
	must(t, os.Mkdir(dir, 0o700))
	if _, err := Open(ParseVNL("hub://"+dir), Options{}); !errors.Is(err, fs.ErrExist) {
		t.Errorf("in an empty directory of the user's: %v", err)
	}
	must(t, os.Chmod(dir, fs.ModeSetgid|0o700))
	second, err := Open(ParseVNL("hub://"+dir), Options{})
	must(t, err)
	must(t, second.Close())

	// What is not a hub's stays.
	must(t, os.Mkdir(dir, 0o700))
	file := filepath.Join(dir, "file")
	must(t, os.WriteFile(file, nil, 0o600))
	if _, err := Open(ParseVNL("hub://"+dir), Options{}); !errors.Is(err, fs.ErrExist) {
		t.Errorf("in a directory of something else: %v", err)
	}
	if _, err := os.Stat(file); err != nil {
		t.Error(err)
	}
}

func TestSwitchEnds(t *testing.T) {
	dir := filepath.Join(rig.TempDir(t), "s")
	sw := rig.Switch(t, dir)
	p := open(t, "vde://"+dir)
	sw.Signal(os.Kill)
	_, _, ctl := p.Fds()
	poll(t, ctl, unix.POLLIN)
	if err := p.Check(); !errors.Is(err, io.EOF) {
		t.Errorf("Check: %v", err)
	}
	sw.Wait(soon)
	b, c := newBatch(t), relay.Counters{}
	b.Append(rig.Frame(60, 1))
	if err := p.Send(b, &c); !errors.Is(err, io.EOF) {
		t.Errorf("Send: %v", err)
	}
}

func TestSeqpacket(t *testing.T) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET, 0)
	must(t, err)
	a := open(t, fmt.Sprintf("seqpacket://%d", pair[0]))
	b, err := Open(ParseVNL(fmt.Sprintf("seqpacket://%d", pair[1])), Options{})
	must(t, err)
	for _, fd := range pair {
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
			t.Errorf("descriptor %d would be inherited: %v", fd, err)
		}
	}
	carry(t, a, b, 1)
	send(t, a, rig.Frame(60, 2))
	send(t, b, rig.Frame(60, 3), rig.Frame(60, 4))
	must(t, b.Close()) // with a frame unread, which gives ECONNRESET first
	var got []uint32
	for {
		frames, err := tryReceive(t, a)
		for _, f := range frames {
			got = append(got, rig.Number(f))
		}
		if err != nil {
			if !errors.Is(err, io.EOF) {
				t.Error(err)
			}
			break
		}
	}
	if !slices.Equal(got, []uint32{3, 4}) {
		t.Errorf("before the end came %v", got)
	}
	batch, c := newBatch(t), relay.Counters{}
	batch.Append(rig.Frame(60, 5))
	if err := a.Send(batch, &c); !errors.Is(err, io.EOF) {
		t.Errorf("Send to nobody: %v", err)
	}

	stream, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	must(t, err)
	defer unix.Close(stream[0])
	defer unix.Close(stream[1])
	pipe, w, err := os.Pipe()
	must(t, err)
	defer pipe.Close()
	defer w.Close()
	for arg, want := range map[string]error{
		"":                                 unix.EINVAL,
		"-1":                               unix.EINVAL,
		"3x":                               unix.EINVAL,
		"99999":                            unix.EBADF,
		fmt.Sprint(stream[0]):              unix.ESOCKTNOSUPPORT,
		fmt.Sprint(int(pipeFd(t, pipe))):   unix.ENOTSOCK,
		"99999999999999999999999999999999": unix.EINVAL,
	} {
		if _, err := Open(ParseVNL("seqpacket://"+arg), Options{}); !errors.Is(err, want) {
			t.Errorf("seqpacket://%s: %v, want %v", arg, err, want)
		}
	}
}

func pipeFd(t *testing.T, f *os.File) (fd uintptr) {
	t.Helper()
	c, err := f.SyscallConn()
	must(t, err)
	must(t, c.Control(func(n uintptr) { fd = n }))
	return fd
}

// inNetns runs f on a thread in a network namespace of its own.
func inNetns(t *testing.T, f func() error) {
	t.Helper()
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // for good, so the thread ends with the goroutine
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			done <- fmt.Errorf("unshare (this test must run as root): %w", err)
			return
		}
		done <- f()
	}()
	must(t, <-done)
}

// TestTap writes to a tap that is down, and then up.
func TestTap(t *testing.T) {
	var p Plug
	var fd int
	inNetns(t, func() (err error) {
		if p, err = Open(ParseVNL("tap://vdetest"), Options{}); err != nil {
			return err
		}
		fd, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		return err
	})
	defer unix.Close(fd)
	if _, ok := p.(*tapPlug); !ok {
		t.Errorf("it is a %T", p)
	}
	data, _, _ := p.Fds()
	if flags, err := unix.FcntlInt(uintptr(data), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
		t.Errorf("its descriptor would be inherited: %v", err)
	}
	if n := send(t, p, rig.Frame(60, 1)); n.Drops[relay.Refused] != 1 {
		t.Errorf("while it is down: %v", n.String())
	}
	ifr, err := unix.NewIfreq("vdetest")
	must(t, err)
	ifr.SetUint16(unix.IFF_UP)
	must(t, unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr))
	if n := send(t, p, rig.Frame(60, 1), make([]byte, 13), rig.Frame(1514, 2)); n.Out != 2 || n.Drops[relay.Refused] != 1 {
		t.Errorf("while it is up: %v", n.String())
	}
	must(t, p.Close())
}

func TestTapDeleted(t *testing.T) {
	b, c := newBatch(t), relay.Counters{}
	inNetns(t, func() error {
		p, err := Open(ParseVNL("tap://vdetest"), Options{})
		if err != nil {
			return err
		}
		defer p.Close()
		if out, err := exec.Command("ip", "link", "delete", "vdetest").CombinedOutput(); err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		if err := p.Recv(b); !errors.Is(err, unix.EBADFD) {
			t.Errorf("Recv: %v", err)
		}
		b.Append(rig.Frame(60, 1))
		if err := p.Send(b, &c); !errors.Is(err, unix.EBADFD) || !strings.Contains(err.Error(), "deleted") {
			t.Errorf("Send: %v", err)
		}
		return nil
	})
}

// TestSlirp closes a slirp that has something to say.
func TestSlirp(t *testing.T) {
	for range 3 {
		p := open(t, "slirp://")
		f := rig.Frame(60, 1)
		copy(f, "\xff\xff\xff\xff\xff\xff\x02\x00\x00\x00\x00\x01\x08\x06\x00\x01\x08\x00\x06\x04\x00\x01"+
			"\x02\x00\x00\x00\x00\x01\x0a\x00\x02\x0f\x00\x00\x00\x00\x00\x00\x0a\x00\x02\x02") // who has 10.0.2.2?
		send(t, p, f)
		for answered := false; !answered; {
			for _, f := range receive(t, p) {
				answered = answered || string(f[12:14]) == "\x08\x06"
			}
		}
	}
}

// TestMulticast opens the plugins that need multicast, where nobody hears them,
// and closes them without a rest.
func TestMulticast(t *testing.T) {
	for _, vnl := range []string{"vxvde://239.0.0.9/if=lo", "vxlan://239.0.0.9/port=14999/if=lo"} {
		before := len(leak.OpenFiles())
		var p Plug
		inNetns(t, func() (err error) {
			if err := loopback(); err != nil {
				return err
			}
			p, err = Open(ParseVNL(vnl), Options{})
			return err
		})
		send(t, p, rig.Frame(60, 1))
		if err := p.Recv(newBatch(t)); err != nil && !errors.Is(err, unix.EAGAIN) {
			t.Errorf("%s: %v", vnl, err)
		}
		must(t, p.Close())
		if after := len(leak.OpenFiles()); after != before {
			t.Errorf("%s: %d descriptors before, %d after", vnl, before, after)
		}
	}
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
