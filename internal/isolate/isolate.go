// Package isolate opens a plug in a process of its own: a worker, as package
// guard starts it for a UML guest, but with this process in the guest's place.
// The worker relays frames between the plug and a SEQPACKET socket, whose other
// end is the Plug here.
package isolate

import (
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/umlvde/umlvde/internal/guard"
	"github.com/umlvde/umlvde/internal/mmsg"
	"github.com/umlvde/umlvde/internal/plug"
	"github.com/umlvde/umlvde/internal/relay"
	"golang.org/x/sys/unix"
)

// Options say what to open, and how.
type Options struct {
	Job       guard.Job
	Program   string        // the umlvde to run; "" means the one in $PATH
	Library   string        // for the worker's $LIBVDEPLUG; "" means ours
	Reconnect time.Duration // the longest pause between two tries; 0 or less means that the first end is the end
}

const (
	// firstPause is the pause before the first new try; the next ones double.
	firstPause = 10 * time.Millisecond
	// patience is how long the first new open may take, as it may never return;
	// the next ones may take twice as long each, up to lastPatience.
	patience, lastPatience = 2 * time.Second, 30 * time.Second
	// stableAfter is how long a plug must have been up for the pauses to begin
	// anew.
	stableAfter = time.Second
	// verdictTime is how long a worker's end may take to be known once its socket
	// is closed.
	verdictTime = time.Second
)

// A Plug is a plug.Plug whose plugin runs in a worker.
type Plug struct {
	*plug.Socket     // our end of the workers' socket
	near         int // its descriptor
	far          int // the workers' end, kept for the next one; -1 unless there may be one
	o            Options
	tell         func(down error)

	down    atomic.Bool   // no worker serves; what is sent is dropped
	closing chan struct{} // closed by Close
	over    chan struct{} // closed when no worker serves, or will
	why     error         // the reason, once over is closed

	mu     sync.Mutex
	child  *child       // the serving one, or nil
	totals relay.Totals // what ended workers have taken from us, and what they left
	losses relay.Totals // the same, of the other direction
}

// Open starts a worker and waits until it has opened the plug. When ctx ends, so
// does the worker. [Plug.Start] must follow.
func Open(ctx context.Context, o Options) (*Plug, error) {
	program, err := look(o.Program)
	if err != nil {
		return nil, err
	}
	o.Program = program
	o.Job.Protocol, o.Job.Limit, o.Job.Patient = guard.Protocol, mmsg.FrameCap, true
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	p := &Plug{near: pair[0], far: pair[1], o: o, closing: make(chan struct{}), over: make(chan struct{})}
	if p.Socket, err = plug.NewSocket(p.near); err == nil {
		p.child, err = start(ctx, &p.o, p.far)
	}
	if err != nil {
		_, _ = unix.Close(pair[0]), unix.Close(pair[1])
		return nil, err
	}
	if o.Reconnect <= 0 {
		p.dropFar() // the worker's end shall show
	}
	return p, nil
}

// Start begins to watch over the worker; it must be called once. tell is called
// for each loss of the network that is not the end, and with nil for each
// recovery.
func (p *Plug) Start(tell func(down error)) {
	p.tell = tell
	go p.supervise()
}

func (p *Plug) dropFar() {
	_ = unix.Close(p.far)
	p.far = -1
}

// supervise waits for the worker's end, and starts others.
func (p *Plug) supervise() {
	defer close(p.over)
	c, pause := p.child, firstPause
	for c != nil {
		began := time.Now()
		p.why = c.tend(p.closing)
		p.retire(c)
		if p.far < 0 || isClosed(p.closing) {
			return
		}
		p.tell(p.why)
		if time.Since(began) >= stableAfter {
			pause = firstPause
		}
		if c, pause = p.restart(pause); c != nil {
			p.tell(nil)
		}
	}
}

// retire takes over the counters of a worker that has ended, and the frames that
// it has not read.
func (p *Plug) retire(c *child) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.child = nil
	p.totals.Add(c.page.Up.Totals())
	p.losses.Add(c.page.Down.Totals())
	c.page.Unmap()
	if p.far < 0 {
		return
	}
	p.down.Store(true) // nothing new comes from now on, but for what is just being sent
	for {
		n, _, zero, errno := mmsg.Drain(p.far)
		p.totals.Drops[relay.Down] += uint64(n)
		if errno != 0 || zero && n == 0 { // nothing is left, or we are being closed
			return
		}
	}
}

// restart starts workers until one serves, which it returns with the next pause,
// or Close comes.
func (p *Plug) restart(pause time.Duration) (*child, time.Duration) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		select {
		case <-p.closing:
			cancel()
		case <-ctx.Done():
		}
	}()
	for limit := patience; ; {
		select {
		case <-time.After(min(pause, p.o.Reconnect)):
		case <-p.closing:
			return nil, 0
		}
		pause = min(2*pause, p.o.Reconnect)
		c, err := startWithin(ctx, limit, &p.o, p.far)
		limit = min(2*limit, lastPatience)
		if err == nil {
			p.mu.Lock()
			p.child = c
			p.mu.Unlock()
			p.down.Store(false)
			return c, pause
		}
	}
}

// startWithin is start, unless that takes too long.
func startWithin(ctx context.Context, limit time.Duration, o *Options, far int) (*child, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return start(ctx, o, far)
}

// Recv is relay.Port's.
func (p *Plug) Recv(b *mmsg.Batch) error {
	return p.verdict(p.Socket.Recv(b))
}

// Send is relay.Port's. Without a worker it drops.
func (p *Plug) Send(b *mmsg.Batch, c *relay.Counters) error {
	if p.down.Load() {
		c.Dropped(relay.Down, b.Len())
		b.Clear()
		return nil
	}
	return p.verdict(p.Socket.Send(b, c))
}

// verdict makes the reason for a worker's end of the end of its socket.
func (p *Plug) verdict(err error) error {
	if !errors.Is(err, io.EOF) {
		return err
	}
	select {
	case <-p.over:
		return p.why
	case <-time.After(verdictTime):
		return &CrashError{"the process of the plugin has closed its socket"}
	}
}

// Totals returns what the network took of the frames that were sent and what has
// become of the others, and the same of those that came from the network.
func (p *Plug) Totals() (up, down relay.Totals) {
	p.mu.Lock()
	defer p.mu.Unlock()
	up, down = p.totals, p.losses
	if p.child != nil {
		up.Add(p.child.page.Up.Totals())
		down.Add(p.child.page.Down.Totals())
	}
	return up, down
}

// Close ends the worker: it may close the plug, for a moment, and is killed then.
func (p *Plug) Close() error {
	close(p.closing)
	// The worker sees the end of its guest, as the far end that we hold is no
	// other than its own.
	err := unix.Close(p.near)
	<-p.over
	if p.far >= 0 {
		p.dropFar()
	}
	return err
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
