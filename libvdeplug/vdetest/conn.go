package vdetest

import (
	"io"
	"net"
	"os"
	"syscall"
	"time"

	"github.com/umlvde/umlvde/libvdeplug"
)

// Conn is one end of a cable or a port of a switch. It is a [net.Conn] that
// carries one Ethernet frame in each Read and Write, of 14 to 9234 bytes
// ([libvdeplug.MinFrameSize], [libvdeplug.MaxFrameSize]). All methods may be called
// at any time from any goroutine; no buffer of the caller's is kept.
type Conn struct {
	name   string
	medium *medium
	carry  func(frame []byte) bool // takes a copy, or reports that there is no room
	unplug func()

	// These are guarded by medium.mu.
	queue                       [][]byte // for a reader
	closed                      bool
	ended                       bool // the network has
	writing                     bool // some call is, and others have to wait
	readDeadline, writeDeadline time.Time
	stats                       libvdeplug.Stats
}

var _ net.Conn = (*Conn)(nil)

// push queues a copy of a frame for the reader of c. The caller holds mu.
func (c *Conn) push(frame []byte) bool {
	if len(c.queue) == queueLen {
		return false
	}
	c.queue = append(c.queue, append([]byte(nil), frame...))
	return true
}

// over reports why a call with that deadline must not go on.
func (c *Conn) over(deadline time.Time) error {
	switch {
	case c.closed:
		return net.ErrClosed
	case !deadline.IsZero() && !time.Now().Before(deadline):
		return os.ErrDeadlineExceeded
	}
	return nil
}

func (c *Conn) fail(op string, err error) error {
	return &libvdeplug.OpError{Op: op, VNL: c.name, Err: err}
}

// Read reads one frame, as the Read of a libvdeplug.Conn.
func (c *Conn) Read(b []byte) (int, error) {
	if len(b) == 0 {
		return c.ReadBatch(nil, nil)
	}
	var size [1]int
	_, err := c.ReadBatch([][]byte{b}, size[:])
	return size[0], err
}

// ReadBatch waits for a frame and takes those that are at hand, as the ReadBatch
// of a libvdeplug.Conn.
func (c *Conn) ReadBatch(bufs [][]byte, sizes []int) (n int, err error) {
	c.medium.mu.Lock()
	defer c.medium.mu.Unlock()
	bufs = bufs[:min(len(bufs), len(sizes), maxBatch)]
	for {
		if err := c.over(c.readDeadline); err != nil {
			return 0, c.fail("read", err)
		}
		if len(bufs) == 0 {
			return 0, nil
		}
		if len(c.queue) > 0 {
			break
		}
		if c.ended {
			return 0, io.EOF
		}
		c.medium.wait(c.readDeadline)
	}
	defer c.medium.notify() // there is room
	for n < min(len(bufs), len(c.queue)) && len(c.queue[n]) <= len(bufs[n]) {
		sizes[n] = copy(bufs[n], c.queue[n])
		c.stats.RxBytes += uint64(sizes[n])
		n++
	}
	if n == 0 {
		c.queue = c.queue[1:]
		c.stats.RxDrops++
		return 0, c.fail("read", io.ErrShortBuffer)
	}
	c.queue = c.queue[n:]
	c.stats.RxFrames += uint64(n)
	return n, nil
}

// Write sends one frame, as the Write of a libvdeplug.Conn.
func (c *Conn) Write(frame []byte) (n int, err error) {
	if n, err = c.WriteBatch([][]byte{frame}); n == 1 {
		n = len(frame)
	}
	return n, err
}

// WriteBatch sends frames in their order, as the WriteBatch of a libvdeplug.Conn.
func (c *Conn) WriteBatch(frames [][]byte) (n int, err error) {
	c.medium.mu.Lock()
	defer c.medium.mu.Unlock()
	for c.writing {
		if err := c.over(c.writeDeadline); err != nil {
			return 0, c.fail("write", err)
		}
		c.medium.wait(c.writeDeadline)
	}
	if err := c.over(c.writeDeadline); err != nil {
		return 0, c.fail("write", err)
	}
	c.writing = true
	defer func() {
		c.writing = false
		c.medium.notify()
	}()
	for _, frame := range frames {
		if err := c.write(frame); err != nil {
			return n, c.fail("write", err)
		}
		n++
		c.stats.TxFrames++
		c.stats.TxBytes += uint64(len(frame))
	}
	return n, nil
}

// write sends one frame, waiting for room. The caller holds medium.mu.
func (c *Conn) write(frame []byte) error {
	if len(frame) < libvdeplug.MinFrameSize || len(frame) > libvdeplug.MaxFrameSize {
		return libvdeplug.ErrFrameSize
	}
	for {
		switch err := c.over(c.writeDeadline); {
		case err != nil:
			return err
		case c.ended:
			return syscall.EPIPE
		case c.carry(frame):
			c.medium.notify()
			return nil
		}
		c.medium.wait(c.writeDeadline)
	}
}

// Close unplugs. Calls in progress return [net.ErrClosed].
func (c *Conn) Close() error {
	c.medium.mu.Lock()
	defer c.medium.mu.Unlock()
	if !c.closed {
		c.closed = true
		c.queue = nil
		c.unplug()
		c.medium.notify()
	}
	return nil
}

// LocalAddr returns the network: its Network() is "vde", its String() a name that
// begins with "vdetest://".
func (c *Conn) LocalAddr() net.Addr { return addr(c.name) }

// RemoteAddr returns the same as LocalAddr.
func (c *Conn) RemoteAddr() net.Addr { return addr(c.name) }

type addr string

func (a addr) Network() string { return "vde" }
func (a addr) String() string  { return string(a) }

// SetDeadline sets both deadlines, as in [net.Conn].
func (c *Conn) SetDeadline(t time.Time) error {
	return c.setDeadlines(t, &c.readDeadline, &c.writeDeadline)
}

// SetReadDeadline makes reads fail from time t on; the zero time means never.
func (c *Conn) SetReadDeadline(t time.Time) error { return c.setDeadlines(t, &c.readDeadline) }

// SetWriteDeadline makes writes fail from time t on; the zero time means never.
func (c *Conn) SetWriteDeadline(t time.Time) error { return c.setDeadlines(t, &c.writeDeadline) }

func (c *Conn) setDeadlines(t time.Time, deadlines ...*time.Time) error {
	c.medium.mu.Lock()
	defer c.medium.mu.Unlock()
	if c.closed {
		return c.fail("set deadline", net.ErrClosed)
	}
	for _, d := range deadlines {
		*d = t
	}
	c.medium.notify()
	return nil
}

// Stats returns the counts so far, also after Close. RxDrops counts, besides what
// it does for a libvdeplug.Conn, the frames that found the queue of a switch's port
// full.
func (c *Conn) Stats() libvdeplug.Stats {
	c.medium.mu.Lock()
	defer c.medium.mu.Unlock()
	return c.stats
}
