//go:build linux

package libvdeplug

import (
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/umlvde/umlvde/internal/mmsg"
	"github.com/umlvde/umlvde/internal/plug"
	"github.com/umlvde/umlvde/internal/relay"
	"golang.org/x/sys/unix"
)

// Conn is a plug in a virtual network: a [net.Conn] that carries whole Ethernet
// frames, without checksum, of [MinFrameSize] bytes and more. Make one with
// [Open] and end it with [Conn.Close].
//
// All methods may be called at any time from any goroutine. Reads take turns in
// the order in which they were called, and so do writes; a read does not wait
// for a write. Blocked calls cost no operating system thread. No buffer of the
// caller's is kept or used after a call has returned.
//
// Deadlines and Close end calls that wait, for frames, for room or for their
// turn. What nothing can end is a call that a plugin does not return from. Of
// Debian's plugins only vdesl:// keeps a read or write for long in the way they
// are used here: a read until the frame that has begun to come stops or is there,
// a write until the serial line takes the frame, which may be never. vde_send of an
// unknown plugin may not return, too.
//
// A Conn that hosts a network for others (hub://, switch://, multi://,
// bonding://) passes their frames on, and lets new ones in, only while a Read
// or ReadBatch is being called: such is the C library. Keep one goroutine
// reading.
type Conn struct {
	vnl    string
	plug   plug.Plug
	limit  int // the longest frame to send, bytes
	most   int // how many frames go through the plug at a time
	rd, wr half
	inside *lock         // held in the plug, if it cannot receive and send at a time; else nil
	done   chan struct{} // closed by Close

	bridged atomic.Bool // a Bridge has all turns, or is about to
	claimed deadline    // passed meanwhile
	polled  *rawConn    // SyscallConn's, if it was called; guarded by rd.mu
	close   func() error
}

// half is one direction of a Conn.
type half struct {
	op       string // for errors
	turn     *lock  // held through a call, so that it is the only one
	deadline deadline
	count    relay.Counters

	// These belong to whoever holds turn.
	batch  *mmsg.Batch // frames that were received and not read, or are being sent
	end    error       // what has ended this direction
	futile int         // times in a row that the plug was ready and then was not

	mu    sync.Mutex
	poll  *poller   // guarded by mu; stays once it is there
	until time.Time // the deadline; guarded by mu
}

var _ net.Conn = (*Conn)(nil)

// mostThroughC is how many frames are given to C at a time, or taken: they are copied
// there, and so many of 1514 bytes stay in the processor's first cache.
const mostThroughC = 20

func newConn(p plug.Plug, vnl string) (*Conn, error) {
	c := &Conn{
		vnl:   vnl,
		plug:  p,
		limit: p.MaxFrame(),
		most:  mmsg.Max,
		rd:    half{op: "read", turn: newLock(), deadline: newDeadline()},
		wr:    half{op: "write", turn: newLock(), deadline: newDeadline()},
		done:  make(chan struct{}),

		claimed: newDeadline(),
	}
	c.close = sync.OnceValue(c.shut)
	if p.CallsC() {
		c.most = mostThroughC
	}
	if !p.Parallel() {
		c.inside = newLock()
	}
	var err error
	r, _, ctl := p.Fds()
	c.rd.poll, err = newPoller(r, unix.EPOLLIN, ctl)
	return c, err
}

// Read waits for a frame, puts it in b and returns its length in bytes. One
// that is longer than b is lost, and the error is [io.ErrShortBuffer]; a buffer
// of [MaxFrameSize] bytes is long enough for all ordinary networks. If b is
// empty, Read returns 0 and takes no frame.
//
// The error is a bare [io.EOF] once the network has ended (a switch that exits,
// a command, the other end of a socket) and all that came before has been read,
// [net.ErrClosed] after Close and [os.ErrDeadlineExceeded] after the deadline,
// both in an *[OpError].
func (c *Conn) Read(b []byte) (n int, err error) {
	if len(b) == 0 {
		return c.ReadBatch(nil, nil)
	}
	bufs, size := [1][]byte{b}, [1]int{}
	_, err = c.ReadBatch(bufs[:], size[:])
	return size[0], err
}

// ReadBatch waits for a frame and then takes those that are at hand: it returns
// the number of frames, with frame i in bufs[i] and its length in bytes in
// sizes[i]. It fills no more than bufs and sizes both have room for, and 64 at
// most. If n > 0, err is nil; the errors are those of [Conn.Read], of which
// [io.ErrShortBuffer] is about bufs[0].
//
// A frame that is longer than its buffer, but for the first, is left for the next
// call, with all that come after it. What is in buffers beyond the n first is
// undefined. It does not allocate memory, except once for its Conn.
func (c *Conn) ReadBatch(bufs [][]byte, sizes []int) (n int, err error) {
	h := &c.rd
	if err := c.begin(h); err != nil {
		return 0, c.fail(h.op, err)
	}
	defer h.turn.unlock()
	bufs = bufs[:min(len(bufs), len(sizes))]
	if len(bufs) == 0 {
		return 0, nil
	}
	if err = c.fill(bufs); err == nil {
		n, err = h.take(bufs, sizes)
	}
	h.batch.Return()
	return n, c.fail(h.op, err)
}

// take gives the caller the frames of the batch, as far as they fit.
func (h *half) take(bufs [][]byte, sizes []int) (n int, err error) {
	for n < min(len(bufs), h.batch.Len()) && h.batch.Size(n) <= len(bufs[n]) {
		if sizes[n] = h.batch.Size(n); !h.batch.InPlace() {
			copy(bufs[n], h.batch.Frame(n))
		}
		n++
	}
	if n == 0 {
		h.batch.Drop(1)
		h.count.Dropped(relay.Giant, 1)
		return 0, io.ErrShortBuffer
	}
	h.count.Sent(n, h.batch.Bytes(n))
	h.batch.Drop(n)
	return n, nil
}

// Write sends one frame, waiting for room if need be, and returns its length in
// bytes, or 0 and an error. A frame of fewer than [MinFrameSize] bytes, or of
// more than the network can carry, is refused with [ErrFrameSize].
//
// As on a cable, nil does not mean that a frame has arrived. One that the network
// turns down while it goes on (an interface that is down, a peer that is not
// there, a datagram that is too long) is counted as dropped in [Stats].
//
// The other errors are [net.ErrClosed] after Close, [os.ErrDeadlineExceeded] after
// the deadline and syscall.EPIPE once the network has ended. Only with cmd:// and
// VNLs with another in braces (vlan, agno) may one come with the frame's length:
// the frame counts as sent, but it, or its end, waits inside for the next write.
func (c *Conn) Write(frame []byte) (n int, err error) {
	frames := [1][]byte{frame}
	if n, err = c.WriteBatch(frames[:]); n == 1 {
		n = len(frame)
	}
	return n, err
}

// WriteBatch sends frames in their order. It returns how many of them were sent;
// if err is not nil, it is as in [Conn.Write] and about the next one, or about what
// waits inside of the last. The frames of one call are not mixed with those of others.
//
// It does not allocate memory, except once for its Conn and once more when the
// network is first out of room.
func (c *Conn) WriteBatch(frames [][]byte) (n int, err error) {
	h := &c.wr
	if err := c.begin(h); err != nil {
		return 0, c.fail(h.op, err)
	}
	defer h.turn.unlock()
	for n < len(frames) {
		count, err := c.gather(frames[n:])
		if err == nil {
			err = c.flush()
			n += count - h.batch.Len()
			h.batch.Clear()
			h.batch.Return()
		}
		if err != nil {
			return n, c.fail(h.op, err)
		}
	}
	return n, nil
}

// Close unplugs. Calls in progress return [net.ErrClosed]. It waits for the plugin
// to give up what it holds, so that a tap or an address can be used again, but not
// longer than 50 ms: whatever takes more time, like a command that does not end or
// a call that the plugin keeps, is left to a goroutine, and counted by [Unfinished].
// Calling Close again returns the same result.
func (c *Conn) Close() error { return c.close() }

// closeWait is how long Close waits for the plugin.
const closeWait = 50 * time.Millisecond

// shut is Close's only run.
func (c *Conn) shut() error {
	close(c.done)
	for _, h := range []*half{&c.rd, &c.wr} {
		h.mu.Lock()
		if h.poll != nil {
			_ = h.poll.File.Close() // wakes who waits; nothing depends on its result
		}
		if h == &c.rd && c.polled != nil {
			c.polled.file.Close()
		}
		h.mu.Unlock()
	}
	finish := func() error {
		for _, h := range []*half{&c.rd, &c.wr} {
			if !h.turn.try() { // from then on nobody is in the plug, or ever will be
				<-h.turn.passed
			}
			if h.batch != nil {
				h.batch.Free()
			}
			h.deadline.set(time.Time{})
		}
		return c.plug.Close()
	}
	wait := time.NewTimer(closeWait)
	defer wait.Stop()
	err, _ := await(finish, wait.C, func(error) {})
	return c.fail("close", err)
}

// LocalAddr returns the network: its Network() is "vde", its String() the VNL.
func (c *Conn) LocalAddr() net.Addr { return addr(c.vnl) }

// RemoteAddr returns the same as LocalAddr.
func (c *Conn) RemoteAddr() net.Addr { return addr(c.vnl) }

// SetDeadline sets both deadlines, as in [net.Conn].
func (c *Conn) SetDeadline(t time.Time) error {
	if err := c.SetReadDeadline(t); err != nil {
		return err
	}
	return c.SetWriteDeadline(t)
}

// SetReadDeadline makes reads fail from time t on, those that wait already and
// also where frames are at hand. The zero time means never.
func (c *Conn) SetReadDeadline(t time.Time) error { return c.setDeadline(&c.rd, t) }

// SetWriteDeadline makes writes fail from time t on, as [Conn.SetReadDeadline].
func (c *Conn) SetWriteDeadline(t time.Time) error { return c.setDeadline(&c.wr, t) }

func (c *Conn) setDeadline(h *half, t time.Time) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if isClosed(c.done) {
		return c.fail("set deadline", net.ErrClosed)
	}
	h.until = t
	h.deadline.set(t)
	if h.poll == nil || c.bridged.Load() { // unclaim will set it
		return nil
	}
	return c.fail("set deadline", h.poll.File.SetReadDeadline(t))
}

// Stats returns the counts so far, also after Close. Those of an isolated Conn are
// its child's, and follow with a moment's delay.
func (c *Conn) Stats() Stats {
	rd, wr := c.rd.count.Totals(), c.wr.count.Totals()
	if child, ok := c.plug.(interface {
		Totals() (up, down relay.Totals)
	}); ok {
		up, down := child.Totals()
		wr = relay.Totals{Out: up.Out, Bytes: up.Bytes, Drops: wr.Drops}
		wr.Add(relay.Totals{Drops: up.Drops})
		rd.Add(relay.Totals{Drops: down.Drops})
	}
	return Stats{
		RxFrames: rd.Out, RxBytes: rd.Bytes, RxDrops: rd.Dropped(),
		TxFrames: wr.Out, TxBytes: wr.Bytes, TxDrops: wr.Dropped(),
	}
}

// fail is the way of an error to the caller.
func (c *Conn) fail(op string, err error) error {
	if err == nil || err == io.EOF { //nolint:errorlint // bare, as io.Reader demands
		return err
	}
	return &OpError{Op: op, VNL: c.vnl, Err: publicError(err)}
}
