//go:build linux

package libvdeplug

import (
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"time"

	"github.com/umlvde/umlvde/internal/mmsg"
	"github.com/umlvde/umlvde/internal/relay"
	"golang.org/x/sys/unix"
)

// begin waits for the caller's turn in one direction and looks whether there is
// still something to be done.
func (c *Conn) begin(h *half) (err error) {
	if err = c.acquire(h, h.turn); err != nil {
		return err
	}
	if err = c.over(h); err == nil && h.batch == nil {
		h.batch, err = mmsg.NewBatch()
	}
	if err != nil {
		h.turn.unlock()
	}
	return err
}

// acquire takes a lock, unless Close, a Bridge or the deadline of h comes first.
func (c *Conn) acquire(h *half, l *lock) (err error) {
	if l.try() {
		return nil
	}
	select {
	case <-l.passed:
		return nil
	case <-c.done:
		err = net.ErrClosed
	case <-c.claimed.passed():
		err = ErrBridged
	case <-h.deadline.passed():
		err = os.ErrDeadlineExceeded
	}
	l.leave()
	if over := c.over(h); over != nil { // select has chosen one of several at random
		return over
	}
	return err
}

// over reports why a call must not go on.
func (c *Conn) over(h *half) error {
	switch {
	case isClosed(c.done):
		return net.ErrClosed
	case c.bridged.Load():
		return ErrBridged
	case h.deadline.late.Load():
		return os.ErrDeadlineExceeded
	}
	return nil
}

// enter is for a call into the plug; leave ends it.
func (c *Conn) enter(h *half) error {
	if err := c.over(h); err != nil || c.inside == nil {
		return err
	}
	return c.acquire(h, c.inside)
}

func (c *Conn) leave() {
	if c.inside != nil {
		c.inside.unlock()
	}
}

// fill waits until there is a frame to read, and gets as many as the caller has
// room for.
func (c *Conn) fill(bufs [][]byte) error {
	h := &c.rd
	var last error // why nothing will follow what is there now
	for h.batch.Len() == 0 {
		if h.end != nil {
			return h.end
		}
		if err := c.enter(h); err != nil {
			return err
		}
		h.batch.BorrowRoom(bufs[:min(len(bufs), c.most)])
		err := c.plug.Recv(h.batch)
		c.leave()
		switch {
		case err == nil:
			h.futile = 0
			h.screen()
			continue
		case err != unix.EAGAIN: //nolint:errorlint // the Port contract: bare
			last = err
		case last == nil:
			if err := c.wait(h, h.poll); err != nil {
				return err
			}
			if h.poll.news {
				last = c.plug.Check()
			}
			if last == nil && h.poll.hungUp {
				last = io.EOF
			}
			continue
		}
		h.finish(last)
	}
	return nil
}

// screen drops what is no frame from the batch.
func (h *half) screen() {
	runts, giants := h.batch.Screen(MinFrameSize, mmsg.FrameCap)
	h.count.Dropped(relay.Runt, runts)
	h.count.Dropped(relay.Giant, giants)
}

// finish notes that reads have come to their end.
func (h *half) finish(why error) {
	h.batch.Clear()
	if h.end = why; errors.Is(why, io.EOF) {
		h.end = io.EOF
	}
}

// gather hands frames to the batch, as many as can go at once. The error is about
// the first of them.
func (c *Conn) gather(frames [][]byte) (n int, err error) {
	for n < min(len(frames), c.most) && len(frames[n]) >= MinFrameSize && len(frames[n]) <= c.limit {
		n++
	}
	if n == 0 {
		return 0, ErrFrameSize
	}
	c.wr.batch.Borrow(frames[:n])
	return n, nil
}

// flush sends the batch, waiting for room. What it could not send stays there;
// if that is nothing in spite of an error, the plug has the rest (a command has read
// a part of the last frame), and the next write will pass it on.
func (c *Conn) flush() error {
	h := &c.wr
	for h.end == nil {
		if err := c.enter(h); err != nil {
			return err
		}
		err := c.plug.Send(h.batch, &h.count)
		c.leave()
		switch {
		case err == nil:
			h.futile = 0
			return nil
		case errors.Is(err, io.EOF):
			h.end = unix.EPIPE
		case err != unix.EAGAIN: //nolint:errorlint // the Port contract: bare
			h.end = err
		default:
			if err := c.waitForRoom(); err != nil {
				return err
			}
		}
	}
	return h.end
}

// waitForRoom parks the caller until the plug has room for frames, or may have.
func (c *Conn) waitForRoom() error {
	if _, w, _ := c.plug.Fds(); w < 0 { // nothing tells when it has
		time.Sleep(futilePause)
		return nil
	}
	p, err := c.writePoller()
	if err != nil {
		return err
	}
	return c.wait(&c.wr, p)
}

// writePoller makes the poller for writes at its first use.
func (c *Conn) writePoller() (*poller, error) {
	h := &c.wr
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := c.over(h); err != nil || h.poll != nil {
		return h.poll, err
	}
	_, w, _ := c.plug.Fds()
	p, err := newPoller(w, unix.EPOLLOUT, -1)
	if err == nil {
		h.poll = p
		err = p.File.SetReadDeadline(h.until)
	}
	return p, err
}

const (
	// maxFutile is how many times in a row a plug may be ready, and then have
	// nothing or no room, before that is believed to be its nature (a hub whose
	// client hung up, a closed serial line) and it is asked only each futilePause.
	maxFutile   = 64
	futilePause = time.Millisecond
)

// wait parks the caller until the plug is ready, or may be.
func (c *Conn) wait(h *half, p *poller) error {
	if err := p.wait(); err != nil {
		if over := c.over(h); over != nil { // it knows better
			return over
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			// It was claim's, for a Bridge that did not begin, or has been moved; or the
			// caller's, whose timer is about to say so.
			runtime.Gosched()
			return nil
		}
		return err
	}
	if h.futile++; p.slept {
		h.futile = 0
	}
	if h.futile > maxFutile {
		time.Sleep(futilePause)
	}
	return nil
}
