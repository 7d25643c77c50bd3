package plug

import (
	"errors"
	"net"
	"os"
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

func pipeFd(t *testing.T, f *os.File) (fd uintptr) {
	t.Helper()
	c, err := f.SyscallConn()
	must(t, err)
	must(t, c.Control(func(n uintptr) { fd = n }))
	return fd
}
