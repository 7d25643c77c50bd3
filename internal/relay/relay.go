// Package relay moves Ethernet frames between two ports, a guest's and a
// network's, in batches, on one operating system thread. It knows neither UML
// nor VDE.
//
// The guest comes first: the guest's port is always read, whatever the
// network's port does; frames that the network does not take are dropped and
// counted, as a cable would.
package relay

import (
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync/atomic"

	"github.com/umlvde/umlvde/internal/mmsg"
	"golang.org/x/sys/unix"
)

// MinFrame is the shortest frame that is relayed, in bytes: an Ethernet
// header. Some backends take shorter messages for something else (slirp takes
// 8 bytes for a pointer).
const MinFrame = 14

// A Port is one end of a cable. Its methods are called from one thread, except
// where an implementation promises more, and keep no memory of a batch.
type Port interface {
	// Recv replaces the frames of b by those that are ready, at least one.
	// It does not wait: unix.EAGAIN says that there is none. io.EOF says
	// that the other side is gone for good; any other error ends the port.
	// Lengths are not checked: that is the relay's work.
	Recv(b *mmsg.Batch) error

	// Send hands over the frames of b in order, removes them from b and
	// counts them in c, either as sent or as refused. It does not wait:
	// unix.EAGAIN says that the frames left in b found no room. Any other
	// error ends the port. Every frame has at least MinFrame bytes.
	Send(b *mmsg.Batch, c *Counters) error

	// Unsent says that the port holds part of a frame that Send has counted;
	// another Send, even of an empty batch, will pass it on.
	Unsent() bool

	// Fds names the descriptors to poll: r is readable when Recv has work, w
	// is writable when Send may go on, ctl becomes readable when Check has
	// something to say. -1 stands for none.
	Fds() (r, w, ctl int)

	// Check is called when ctl is readable; io.EOF or another error ends
	// the port.
	Check() error

	// Pumps says that the port does its work inside Recv, for others too
	// (it hosts a hub), so Recv must be called even while its frames can
	// not be delivered.
	Pumps() bool
}

// A Monitor is how a supervisor sees the relay without asking it. Busy is 1
// while the relay's thread is doing anything but sleeping, and Progress grows
// with each round; both may live in shared memory.
type Monitor struct {
	Progress *atomic.Uint64
	Busy     *atomic.Uint32
	// Wake, if not nil, is called each time the relay wakes up, before it
	// enters a port.
	Wake func()
}

// ErrGuestGone is what every GuestError is.
var ErrGuestGone = errors.New("the guest has closed its end")

// A GuestError is what Run returns when the guest's port has ended, because of
// Err: io.EOF if it was closed.
type GuestError struct{ Err error }

func (e *GuestError) Error() string { return "the guest's end: " + e.Err.Error() }

// Unwrap returns the cause.
func (e *GuestError) Unwrap() error { return e.Err }

// Is makes the error an ErrGuestGone.
func (e *GuestError) Is(target error) bool { return target == ErrGuestGone }

// ErrStopped is what Run returns after Stop.
var ErrStopped = errors.New("stopped")

// A Relay joins the port of a guest and the port of a network.
type Relay struct {
	up, down direction
	mon      Monitor
	stop     int // eventfd
	stopped  atomic.Bool
}

// direction is one way of the cable.
type direction struct {
	src, dst Port
	batch    *mmsg.Batch // frames read from src that dst has not taken yet
	limit    int         // the longest frame dst takes, bytes
	lossy    bool        // src is read even when dst is full
	futile   int         // wake-ups of src without a frame, in a row
	hup      bool        // the last poll found src hung up
	count    *Counters
}

// New makes a relay. upLimit and downLimit are the longest frames, in bytes,
// that the network and the guest can take; up and down count the frames of
// either direction. Close releases what it holds; the ports stay the caller's.
func New(guest, network Port, upLimit, downLimit int, up, down *Counters, mon Monitor) (*Relay, error) {
	var ub, db *mmsg.Batch
	stop, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err == nil {
		ub, err = mmsg.NewBatch()
	}
	if err == nil {
		db, err = mmsg.NewBatch()
	}
	if err != nil {
		return nil, err
	}
	return &Relay{
		up:   direction{src: guest, dst: network, batch: ub, limit: min(upLimit, mmsg.FrameCap), lossy: true, count: up},
		down: direction{src: network, dst: guest, batch: db, limit: min(downLimit, mmsg.FrameCap), lossy: network.Pumps(), count: down},
		mon:  mon,
		stop: stop,
	}, nil
}

// Patient makes the relay let the guest's frames wait in its port while the
// network is full, instead of dropping them. It is for a cable without a guest
// that would stand still, and must be called before Run.
func (r *Relay) Patient() { r.up.lossy = r.up.src.Pumps() }

// Stop makes Run return. It may be called from any goroutine until Close.
func (r *Relay) Stop() {
	r.stopped.Store(true)
	one := [8]byte{1}
	_, _ = unix.Write(r.stop, one[:]) // fails only when it has been said 2^64 times
}

// Close frees the relay after Run has returned.
func (r *Relay) Close() {
	r.up.batch.Free()
	r.down.batch.Free()
	_ = unix.Close(r.stop)
}

// Run moves frames until the guest's port ends (GuestError), the network's
// port ends (its error) or Stop is called (ErrStopped). It keeps the calling
// goroutine on one thread meanwhile.
func (r *Relay) Run() error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer r.up.abandon()
	defer r.down.abandon()
	r.mon.Busy.Store(1) // also before it has slept for the first time
	for !r.stopped.Load() {
		sent, gone, lost := r.up.step()
		if gone != nil {
			return &GuestError{gone}
		}
		if lost != nil {
			return lost
		}
		received, lost, gone := r.down.step()
		if lost != nil {
			return lost
		}
		r.mon.Progress.Add(1)
		if sent {
			r.up.futile = 0
		}
		if received {
			r.down.futile = 0
		}
		switch { // in any case, all that was left has been read
		case sent:
			continue
		case gone != nil: // cannot be written to
			return &GuestError{gone}
		case received:
			continue
		case r.up.hup:
			return &GuestError{io.EOF}
		case r.down.hup:
			return io.EOF
		}
		if err := r.wait(); err != nil {
			return err
		}
	}
	return ErrStopped
}

// step moves at most one batch and reports whether it moved anything. recv
// and send are what ended the source or the destination.
func (d *direction) step() (moved bool, recv, send error) {
	if held := d.batch.Len(); held > 0 || d.dst.Unsent() {
		if err := d.flush(); err != nil {
			return false, nil, err
		}
		left := d.batch.Len()
		if left > 0 && (!d.lossy || !readable(d.src)) {
			return left < held, nil, nil
		}
		d.count.Dropped(Full, left) // in favour of newer ones
	}
	if err := d.src.Recv(d.batch); err != nil {
		d.batch.Clear()
		if err == unix.EAGAIN { //nolint:errorlint // the Port contract: bare
			return false, nil, nil
		}
		return false, err, nil
	}
	d.count.In.Add(uint64(d.batch.Len()))
	runts, giants := d.batch.Screen(MinFrame, d.limit)
	d.count.Dropped(Runt, runts)
	d.count.Dropped(Giant, giants)
	if d.batch.Len() == 0 {
		return true, nil, nil
	}
	return true, nil, d.flush()
}

// flush sends what the batch holds as far as dst takes it.
func (d *direction) flush() error {
	err := d.dst.Send(d.batch, d.count)
	if err == unix.EAGAIN { //nolint:errorlint // the Port contract: bare
		return nil
	}
	return err
}

// waiting says that there is something that dst had no room for.
func (d *direction) waiting() bool { return d.batch.Len() > 0 || d.dst.Unsent() }

// abandon counts the frames in hand when the relay ends.
func (d *direction) abandon() {
	d.count.Dropped(Closing, d.batch.Len())
	d.batch.Clear()
}

// readable reports whether p has frames now.
func readable(p Port) bool {
	fd, _, _ := p.Fds()
	return mmsg.Readable(fd)
}

// maxFutile is how often in a row a port may claim to be readable and then have
// nothing (a hub whose client hung up, a closed serial line do so for ever)
// before it is asked only every futilePause.
const maxFutile = 64

const futilePause = 1e6 // ns

// wait sleeps until there is something to do.
func (r *Relay) wait() error {
	gr, gw, gctl := r.up.src.Fds()
	nr, nw, nctl := r.up.dst.Fds()
	set := [...]unix.PollFd{
		pollFd(gr, unix.POLLIN),
		pollFd(nr, unix.POLLIN),
		pollFd(-1, unix.POLLOUT), // the network, if it was full
		pollFd(-1, unix.POLLOUT), // the guest, if it was full
		pollFd(gctl, unix.POLLIN),
		pollFd(nctl, unix.POLLIN),
		pollFd(r.stop, unix.POLLIN),
	}
	var timeout *unix.Timespec
	if r.up.waiting() {
		set[2].Fd = int32(nw)
		if !r.up.lossy {
			set[0].Fd = -1
		}
	}
	if r.down.waiting() {
		set[3].Fd = int32(gw)
		if !r.down.lossy {
			set[1].Fd = -1
		}
	}
	for i, d := range []*direction{&r.up, &r.down} {
		if d.futile >= maxFutile {
			set[i].Fd, timeout = -1, &unix.Timespec{Nsec: futilePause} // a new one: the kernel writes to it
		}
	}
	r.mon.Busy.Store(0)
	_, err := unix.Ppoll(set[:], timeout, nil)
	r.mon.Busy.Store(1)
	if r.mon.Wake != nil {
		r.mon.Wake()
	}
	switch {
	case err == unix.EINTR:
		return nil
	case err != nil:
		return fmt.Errorf("ppoll: %w", err)
	case set[6].Revents != 0:
		return ErrStopped
	case set[4].Revents != 0:
		if err := r.up.src.Check(); err != nil {
			return &GuestError{err}
		}
	case set[5].Revents != 0:
		return r.up.dst.Check()
	}
	for i, d := range []*direction{&r.up, &r.down} {
		d.hup = set[i].Revents&unix.POLLHUP != 0
		switch {
		case set[i].Revents != 0:
			d.futile++
		case d.futile >= maxFutile && !readable(d.src):
			d.futile = 0
		}
	}
	return nil
}

func pollFd(fd int, events int16) unix.PollFd {
	return unix.PollFd{Fd: int32(fd), Events: events}
}
