package relay_test

import (
	"os"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/umlvde/umlvde/internal/leak"
	"github.com/umlvde/umlvde/internal/mmsg"
	"github.com/umlvde/umlvde/internal/plug"
	"github.com/umlvde/umlvde/internal/relay"
	"github.com/umlvde/umlvde/internal/rig"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { os.Exit(leak.Main(m)) }

const soon = 10 * time.Second

// far is the end of a socket whose other end is a port of the relay.
type far struct {
	t  testing.TB
	fd int
}

// port returns a real port, on a socket, and its far end.
func port(t testing.TB) (relay.Port, far) {
	t.Helper()
	p, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(p[0]) })
	f := far{t, p[1]}
	t.Cleanup(func() { unix.Close(f.fd) })
	s, err := plug.NewSocket(p[0])
	if err != nil {
		t.Fatal(err)
	}
	return s, f
}

func (f far) send(frame []byte) {
	f.t.Helper()
	if err := unix.Sendto(f.fd, frame, unix.MSG_NOSIGNAL, nil); err != nil {
		f.t.Fatal(err)
	}
}

func (f far) recv() []byte {
	f.t.Helper()
	if !rig.Poll(f.fd, unix.POLLIN, soon) {
		f.t.Fatal("no frame came")
	}
	buf := make([]byte, 70000)
	n, err := unix.Read(f.fd, buf)
	if err != nil {
		f.t.Fatal(err)
	}
	return buf[:n]
}

// hangUp tells the port that its other side has ended.
func (f far) hangUp() {
	f.t.Helper()
	if err := unix.Shutdown(f.fd, unix.SHUT_RDWR); err != nil {
		f.t.Fatal(err)
	}
}

// running is a relay at work.
type running struct {
	*relay.Relay // its Run is running
	up, down     relay.Counters
	progress     atomic.Uint64
	busy         atomic.Uint32
	done         chan error
}

// limits are the longest frames that go up and down.
const upLimit, downLimit = 9000, 1514

// alone makes start start relays that are alone in their process, as a worker's.
var alone bool

func start(t testing.TB, guest, network relay.Port) *running {
	t.Helper()
	r := prepare(t, guest, network)
	r.start(t)
	return r
}

func prepare(t testing.TB, guest, network relay.Port) *running {
	t.Helper()
	r := &running{done: make(chan error, 1)}
	var err error
	r.Relay, err = relay.New(guest, network, upLimit, downLimit, &r.up, &r.down,
		relay.Monitor{Progress: &r.progress, Busy: &r.busy})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *running) start(t testing.TB) {
	t.Helper()
	r.busy.Store(1)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if alone {
			turns := runtime.GOMAXPROCS(0)
			err := r.Alone()
			if runtime.GOMAXPROCS(turns); err != nil { // the test needs one, too
				r.done <- err
				return
			}
		}
		r.done <- r.Run()
	}()
	t.Cleanup(func() {
		r.Stop()
		<-ended
		r.Close()
		balanced(t, "up", &r.up)
		balanced(t, "down", &r.down)
	})
}

// end waits for the end of Run.
func (r *running) end(t testing.TB) error {
	t.Helper()
	select {
	case err := <-r.done:
		return err
	case <-time.After(soon):
		t.Fatal("the relay does not end")
		return nil
	}
}

// asleep waits until the relay has nothing to do.
func (r *running) asleep(t testing.TB) {
	t.Helper()
	rig.Eventually(t, soon, "the relay sleeps", func() bool { return r.busy.Load() == 0 })
}

func balanced(t testing.TB, way string, c *relay.Counters) {
	t.Helper()
	if n := c.Totals(); n.In != n.Out+n.Dropped() {
		t.Errorf("%s: %d frames in, %v", way, n.In, n.String())
	}
}

func drops(t *testing.T, what string, c *relay.Counters, want map[relay.Reason]uint64) {
	t.Helper()
	got := c.Totals().Drops
	for i := range got {
		if got[i] != want[relay.Reason(i)] {
			t.Errorf("%s: dropped %d as %v, want %d", what, got[i], relay.Reason(i), want[relay.Reason(i)])
		}
	}
}

// fake is a network that fails on purpose. Its descriptor is readable as long as
// it has frames, or pretends to.
type fake struct {
	event   int // eventfd
	inbox   [][]byte
	recv    error // after the inbox
	send    func(b *mmsg.Batch, c *relay.Counters) error
	unsent  atomic.Bool
	check   error
	ctl     int
	pumps   bool
	callsC  bool
	recvs   atomic.Int64
	perCall int
}

func newFake(t testing.TB) *fake {
	t.Helper()
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return &fake{event: fd, ctl: -1, perCall: mmsg.Max, recv: unix.EAGAIN}
}

func signal(t testing.TB, fd int) {
	t.Helper()
	if _, err := unix.Write(fd, []byte{1, 0, 0, 0, 0, 0, 0, 0}); err != nil {
		t.Fatal(err)
	}
}

func (f *fake) Recv(b *mmsg.Batch) error {
	f.recvs.Add(1)
	b.Clear()
	for len(f.inbox) > 0 && b.Len() < f.perCall {
		if frame := f.inbox[0]; !b.Append(frame) { // too long for a batch: it only says so
			b.Tail()
			b.Extend(len(frame))
		}
		f.inbox = f.inbox[1:]
	}
	if b.Len() > 0 {
		return nil
	}
	return f.recv
}

func (f *fake) Send(b *mmsg.Batch, c *relay.Counters) error {
	if f.send != nil {
		return f.send(b, c)
	}
	return take(b, c)
}

// take counts the frames of b as sent, and forgets them.
func take(b *mmsg.Batch, c *relay.Counters) error {
	c.Sent(b.Len(), b.Bytes(b.Len()))
	b.Clear()
	return nil
}

func (f *fake) Unsent() bool         { return f.unsent.Load() }
func (f *fake) Fds() (r, w, ctl int) { return f.event, f.event, f.ctl }
func (f *fake) Check() error         { return f.check }
func (f *fake) Pumps() bool          { return f.pumps }
func (f *fake) CallsC() bool         { return f.callsC }
