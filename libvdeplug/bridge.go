//go:build linux

package libvdeplug

import (
	"context"
	"errors"
	"io"
	"net"
	"sync/atomic"
	"time"

	"github.com/umlvde/umlvde/internal/mmsg"
	"github.com/umlvde/umlvde/internal/plug"
	"github.com/umlvde/umlvde/internal/relay"
	"golang.org/x/sys/unix"
)

// Bridge joins two networks as a cable does: each frame that one Conn receives is
// sent to the other, in batches, on a thread of its own, until ctx ends, one of
// the networks ends or one of the Conns is closed. It returns what it has carried
// and why it ended: ctx's error, io.EOF (which the other errors of this function
// do not wrap) or the reason, in an *[OpError] that names the network.
//
// The Conns belong to the Bridge meanwhile. Other calls of Read, ReadBatch, Write,
// WriteBatch and Bridge fail with [ErrBridged], also those that were waiting when
// it began; deadlines do not count. Frames that a Conn has already taken out of
// its network go first. Neither Conn is closed: those that did not end can be used
// as before.
//
// A network that takes no frames for a while makes the other wait, as it would
// a writer; but one that the other Conn hosts (hub://) is served on, and loses
// frames.
//
// When a plugin does not return from a call, Bridge does after a second, or somewhat
// later on a busy machine, and the Conns stay in its hands.
func Bridge(ctx context.Context, a, b *Conn) (Bridged, error) {
	if err := claim(ctx, a, b); err != nil {
		return Bridged{}, err
	}
	ends := [2]*bridgeEnd{{Plug: a.plug, c: a}, {Plug: b.plug, c: b}}
	before := [2]relay.Totals{a.wr.count.Totals(), b.wr.count.Totals()}
	var mon struct {
		progress atomic.Uint64
		busy     atomic.Uint32
	}
	r, err := relay.New(ends[0], ends[1], b.limit, a.limit, &b.wr.count, &a.wr.count,
		relay.Monitor{Progress: &mon.progress, Busy: &mon.busy})
	if err != nil {
		release(a, b)
		return Bridged{}, a.fail("bridge", err)
	}
	r.Patient()
	ended, stopped, late := make(chan struct{}), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		select {
		case <-ctx.Done():
		case <-a.done:
		case <-b.done:
		case <-ended:
			return
		}
		r.Stop()
		for range 10 { // where a CPU has to be waited for, these take longer, as the relay does
			select {
			case <-time.After(bridgeWait / 10):
			case <-ended:
				return
			}
		}
		close(late)
	}()
	run := func() error {
		err := r.Run()
		close(ended)
		<-stopped
		r.Close()
		release(a, b)
		return err
	}
	err, ok := await(run, late, func(error) {})
	carried := Bridged{AB: flow(before[1], b.wr.count.Totals()), BA: flow(before[0], a.wr.count.Totals())}
	switch {
	case isClosed(a.done):
		return carried, a.fail("bridge", net.ErrClosed)
	case isClosed(b.done):
		return carried, b.fail("bridge", net.ErrClosed)
	case !ok || errors.Is(err, relay.ErrStopped):
		return carried, &OpError{Op: "bridge", VNL: a.vnl, Err: ctx.Err()}
	case errors.Is(err, relay.ErrGuestGone):
		return carried, ends[0].reason()
	}
	return carried, ends[1].reason()
}

// bridgeWait is how long a Bridge that is to end waits for the plugins, and for a CPU:
// who gives up gives the Conns up, too.
const bridgeWait = time.Second

// flow is what has been counted between two moments.
func flow(before, after relay.Totals) Flow {
	return Flow{
		Frames: after.Out - before.Out,
		Bytes:  after.Bytes - before.Bytes,
		Drops:  after.Dropped() - before.Dropped(),
	}
}

// bridgeEnd is a Conn as a port of a relay. It counts what it receives as read
// from the Conn, and keeps the error that ends it.
type bridgeEnd struct {
	plug.Plug
	c    *Conn
	why  error
	late error // of a Recv that had frames to return first
}

// Recv is relay.Port's. It begins with what the Conn has taken out of its network.
func (e *bridgeEnd) Recv(b *mmsg.Batch) (err error) {
	switch left := e.c.rd.batch; {
	case e.late != nil:
		return e.note(e.late)
	case left != nil && left.Len() > 0:
		e.recvLeft(b, left)
	default:
		if err = e.Plug.Recv(b); err != nil {
			return e.note(err)
		}
	}
	e.c.rd.count.Sent(b.Len(), b.Bytes(b.Len()))
	return nil
}

// recvLeft receives the frames of left, of which there are some, and then those
// that the plug may keep inside, where no poll would find them. An error is left
// for the next call.
func (e *bridgeEnd) recvLeft(b, left *mmsg.Batch) {
	r, _, _ := e.Fds()
	b.Clear()
	for {
		for left.Len() > 0 {
			if !b.Append(left.Frame(0)) {
				return // b is full
			}
			left.Drop(1)
		}
		if b.Len() == mmsg.Max || mmsg.Readable(r) {
			return
		}
		if err := e.Plug.Recv(left); err != nil {
			if left.Clear(); err != unix.EAGAIN { //nolint:errorlint // the Port contract: bare
				e.late = err
			}
			return
		}
		e.c.rd.screen()
	}
}

// Send is relay.Port's.
func (e *bridgeEnd) Send(b *mmsg.Batch, c *relay.Counters) error { return e.note(e.Plug.Send(b, c)) }

// Check is relay.Port's.
func (e *bridgeEnd) Check() error { return e.note(e.Plug.Check()) }

func (e *bridgeEnd) note(err error) error {
	if err != nil && err != unix.EAGAIN { //nolint:errorlint // the Port contract: bare
		e.why = err
	}
	return err
}

// reason is why the end has ended: it has hung up if it has not said more.
func (e *bridgeEnd) reason() error {
	err := e.why
	if err == nil || errors.Is(err, io.EOF) {
		err = io.EOF
	}
	return &OpError{Op: "bridge", VNL: e.c.vnl, Err: publicError(err)}
}

// claim takes all turns of two Conns for a Bridge.
func claim(ctx context.Context, a, b *Conn) error {
	if !a.bridged.CompareAndSwap(false, true) {
		return a.fail("bridge", ErrBridged)
	}
	if !b.bridged.CompareAndSwap(false, true) { // a itself, perhaps
		a.bridged.Store(false)
		return b.fail("bridge", ErrBridged)
	}
	var taken []*lock
	for _, c := range []*Conn{a, b} {
		c.claimed.set(time.Unix(1, 0))
		for _, h := range []*half{&c.rd, &c.wr} {
			h.mu.Lock()
			if h.poll != nil {
				_ = h.poll.File.SetReadDeadline(time.Unix(1, 0)) // wakes who waits; fails only once it is closed
			}
			h.mu.Unlock()
			err := c.claimTurn(ctx, h.turn)
			if err == nil {
				taken = append(taken, h.turn)
				continue
			}
			unclaim(a, b)
			for _, l := range taken {
				l.unlock()
			}
			return c.fail("bridge", err)
		}
	}
	disarm(a, b)
	return nil
}

// disarm takes back what the waiting calls of before have asked their pollers for, or
// each frame that the Bridge carries would wake one of the runtime's threads.
func disarm(a, b *Conn) {
	for _, c := range []*Conn{a, b} {
		for _, h := range []*half{&c.rd, &c.wr} {
			h.mu.Lock() // shut takes it, too, to close the poller
			if h.poll != nil && !isClosed(c.done) {
				h.poll.disarm()
			}
			h.mu.Unlock()
		}
	}
}

// claimTurn waits for one of the turns.
func (c *Conn) claimTurn(ctx context.Context, turn *lock) error {
	if !turn.try() {
		select {
		case <-turn.passed:
		case <-c.done:
			turn.leave()
			return net.ErrClosed
		case <-ctx.Done():
			turn.leave()
			return ctx.Err()
		}
	}
	if isClosed(c.done) {
		turn.unlock()
		return net.ErrClosed
	}
	return nil
}

// release gives the Conns back to everybody.
func release(a, b *Conn) {
	unclaim(a, b)
	for _, l := range []*lock{a.rd.turn, a.wr.turn, b.rd.turn, b.wr.turn} {
		l.unlock()
	}
}

// unclaim makes reads and writes possible again, and their deadlines count.
func unclaim(a, b *Conn) {
	for _, c := range []*Conn{a, b} {
		c.claimed.set(time.Time{})
		c.bridged.Store(false)
		for _, h := range []*half{&c.rd, &c.wr} {
			h.mu.Lock()
			if h.poll != nil && !c.bridged.Load() { // else there is another claim, whose wake-up this might undo
				_ = h.poll.File.SetReadDeadline(h.until) // as in claim
			}
			h.mu.Unlock()
		}
	}
}
