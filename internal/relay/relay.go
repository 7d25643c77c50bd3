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
	// Recv replaces the frames of b by those that are ready, at least one, up to
	// b's Room. If there are more and it brings less than mmsg.Max, r of Fds is
	// readable: a port that keeps frames inside minds no Room. It does not
	// wait: unix.EAGAIN says that there is none. io.EOF says that the other
	// side is gone for good; any other error ends the port. Lengths are not
	// checked: that is the relay's work.
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
	// something to say. -1 stands for none; without w, Send is tried again.
	Fds() (r, w, ctl int)

	// Check is called when ctl is readable; io.EOF or another error ends
	// the port.
	Check() error

	// Pumps says that the port does its work inside Recv, for others too
	// (it hosts a hub), so Recv must be called even while its frames can
	// not be delivered.
	Pumps() bool

	// CallsC says that Recv and Send call C, which handles each frame apart.
	CallsC() bool
}

// A Monitor is how a supervisor sees the relay without asking it. Busy is 1
// while the relay's thread is doing anything but waiting for frames, asleep or
// not, and Progress grows with each round; both may live in shared memory.
type Monitor struct {
	Progress *atomic.Uint64
	Busy     *atomic.Uint32
	// Wake, if not nil, is called each time the relay has waited, before it
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
	alone    *loner // nil: there are others in the process
	stop     int    // eventfd
	stopped  atomic.Bool
}

// direction is one way of the cable.
type direction struct {
	src, dst Port
	batch    *mmsg.Batch // frames read from src that dst has not taken yet
	limit    int         // the longest frame dst takes, bytes
	lossy    bool        // src is read even when dst is full
	due      bool        // there may be something to do
	dry      bool        // src had nothing when it was last asked
	singles  int         // how many times in a row one frame came, and no more
	callsC   bool        // src or dst does, so large frames go on in portions
	size     int         // of the last frames, on the average, bytes; 0 if not callsC
	futile   int         // wake-ups of src in a row that brought no frame, and left it readable
	hup      bool        // the last poll found src hung up
	count    *Counters
}

// New makes a relay. upLimit and downLimit are the longest frames, in bytes,
// that the network and the guest can take; up and down count the frames of
// either direction. Close releases what it holds; the ports stay the caller's.
func New(guest, network Port, upLimit, downLimit int, up, down *Counters, mon Monitor) (*Relay, error) {
	stop, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("eventfd: %w", err)
	}
	ub, err := mmsg.NewBatch()
	if err != nil {
		_ = unix.Close(stop)
		return nil, err
	}
	db, err := mmsg.NewBatch()
	if err != nil {
		ub.Free()
		_ = unix.Close(stop)
		return nil, err
	}
	callsC := guest.CallsC() || network.CallsC()
	return &Relay{
		up:   direction{src: guest, dst: network, batch: ub, limit: min(upLimit, mmsg.FrameCap), lossy: true, callsC: callsC, count: up},
		down: direction{src: network, dst: guest, batch: db, limit: min(downLimit, mmsg.FrameCap), lossy: network.Pumps(), callsC: callsC, count: down},
		mon:  mon,
		stop: stop,
	}, nil
}

// Patient makes the relay let the guest's frames wait in its port while the
// network is full, instead of dropping them. It is for a cable without a guest
// that would stand still, and must be called before Run.
func (r *Relay) Patient() { r.up.lossy = r.up.src.Pumps() }

// Alone tells the relay that its process has little else to do: Run may keep its
// turn in Go's scheduler through short sleeps, and use a CPU that is free to look
// for frames for a moment instead of sleeping. Other goroutines get their turn
// within some 10 ms. It must be called by the goroutine that will call Run, which
// it frees from its thread, if it was locked to one.
//
// If no port calls C, the scheduler is left one turn to give, so it has no other
// thread to wake up. From a call of C, however, its watchdog would then take that
// turn away after 20 us.
func (r *Relay) Alone() (err error) {
	if r.alone, err = newLoner(); err != nil {
		return err
	}
	runtime.UnlockOSThread()
	turns := 1
	if r.up.callsC {
		turns = 2
	}
	runtime.GOMAXPROCS(turns)
	return nil
}

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
	if r.alone != nil {
		r.alone.close()
	}
}

// Run moves frames until the guest's port ends (GuestError), the network's
// port ends (its error) or Stop is called (ErrStopped).
//
// A batch that was not full has emptied its source, so the next thing to do is
// one poll of both ports: it sleeps, if nothing came meanwhile, or says which of
// them to ask. Only while full batches come are the ports asked without it.
func (r *Relay) Run() error {
	defer r.up.abandon()
	defer r.down.abandon()
	r.mon.Busy.Store(1) // also before it has slept for the first time
	r.up.due, r.down.due = true, true
	for !r.stopped.Load() {
		if r.alone != nil && (r.up.due || r.down.due) {
			r.alone.clock.quiet = false
		}
		upMore, gone, lost := r.up.step()
		if gone != nil {
			return &GuestError{gone}
		}
		if lost != nil {
			return lost
		}
		downMore, lost, gone := r.down.step()
		if lost != nil {
			return lost
		}
		r.mon.Progress.Add(1)
		if gone != nil { // it cannot be written to; what it has left is read all the same
			if r.up.dry || r.up.stuck() {
				return &GuestError{gone}
			}
			upMore = true
		}
		switch {
		case upMore || downMore:
			r.up.due, r.down.due = true, true
			continue
		case r.up.hup && r.up.dry: // all that was left has been read
			return &GuestError{io.EOF}
		case r.down.hup && r.down.dry:
			return io.EOF
		}
		if err := r.wait(); err != nil {
			return err
		}
	}
	return ErrStopped
}

// step moves at most mmsg.Max frames, if there may be one. more says that src may
// have others at once. recv and send are what ended the source or the destination.
func (d *direction) step() (more bool, recv, send error) {
	d.dry = false
	if !d.due {
		return false, nil, nil
	}
	d.due = false
	if d.waiting() {
		if err := d.flush(); err != nil {
			return false, nil, err
		}
		left := d.batch.Len()
		if left > 0 && !d.lossy {
			return false, nil, nil
		}
		if left > 0 && !readable(d.src) {
			d.dry = true
			return false, nil, nil
		}
		d.count.Dropped(Full, left) // in favour of newer ones
	}
	for moved := 0; ; {
		n, more, recv, send := d.move()
		if moved += n; !more || moved >= mmsg.Max {
			return more, recv, send
		}
	}
}

// move takes one batch from src to dst. more says that src may have another one,
// and that dst took all of this.
func (d *direction) move() (came int, more bool, recv, send error) {
	room := d.expect()
	d.batch.Limit(room)
	if err := d.src.Recv(d.batch); err != nil {
		d.batch.Clear()
		if err == unix.EAGAIN { //nolint:errorlint // the Port contract: bare
			d.dry = true
			if d.futile > 0 && !readable(d.src) { // it did something: a hub for its clients, for instance
				d.futile = 0
			}
			return 0, false, nil, nil
		}
		return 0, false, err, nil
	}
	d.futile = 0
	came = d.batch.Len()
	if d.singles++; came > 1 {
		d.singles = 0
	}
	if d.callsC {
		d.size = int(d.batch.Bytes(came)) / came
	}
	d.count.In.Add(uint64(came))
	runts, giants := d.batch.Screen(MinFrame, d.limit)
	d.count.Dropped(Runt, runts)
	d.count.Dropped(Giant, giants)
	if d.batch.Len() > 0 {
		send = d.flush()
	}
	full := came == mmsg.Max || came == room && room > 1
	return came, full && send == nil && d.batch.Len() == 0, nil, send
}

// expect says how many frames to ask src for. To ask for more than there are is a
// call in vain, which is felt where frames come one by one, each after the answer
// to the last one. And where it takes C some time to get at frames, or rid of
// them, the other ends had better not wait for many.
func (d *direction) expect() int {
	switch {
	case d.singles >= maxSingles && d.singles%doubt != 0:
		return 1
	case d.size > 0:
		return min(max(2, portion/d.size), mmsg.Max)
	}
	return mmsg.Max
}

const (
	// maxSingles is after how many single frames in a row only one is asked for.
	maxSingles = 4
	// doubt is how often more are asked for all the same: each so many times.
	doubt = 16
	// portion is how many bytes of frames are moved at a time where C is called.
	portion = 32 << 10
)

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

// stuck says that src is not read until dst has room.
func (d *direction) stuck() bool { return !d.lossy && d.waiting() }

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

// futilePause is how long to wait where no descriptor tells how long.
const futilePause = 1e6 // ns

// wait sleeps until there is something to do, and finds out what.
func (r *Relay) wait() error {
	gr, gw, gctl := r.up.src.Fds()
	nr, nw, nctl := r.up.dst.Fds()
	set := [8]unix.PollFd{ // one is the loner's
		pollFd(gr, unix.POLLIN),
		pollFd(nr, unix.POLLIN),
		pollFd(r.stop, unix.POLLIN),
	}
	polled := set[:3] // the fewer they are, the shorter it takes
	add := func(fd int, events int16) (at int) {
		if fd < 0 {
			return -1
		}
		polled = append(polled, pollFd(fd, events))
		return len(polled) - 1
	}
	sleep := int64(-1)
	outlet := [2]int{-1, -1} // where polled tells that a full destination has room
	var paused [2]bool       // nothing tells when to go on
	for i, d := range []*direction{&r.up, &r.down} {
		waiting := d.waiting()
		if waiting {
			outlet[i] = add([2]int{nw, gw}[i], unix.POLLOUT)
			paused[i] = outlet[i] < 0
		}
		switch {
		case waiting && !d.lossy: // it is stuck
			set[i].Fd = -1
		case d.futile >= maxFutile:
			set[i].Fd, paused[i] = -1, true
		}
		if paused[i] {
			sleep = futilePause
		}
	}
	ctls := len(polled)
	add(gctl, unix.POLLIN)
	add(nctl, unix.POLLIN)
	err := r.sleep(polled, sleep)
	switch {
	case errors.Is(err, unix.EINTR):
		return nil
	case err != nil:
		return fmt.Errorf("ppoll: %w", err)
	case set[2].Revents != 0:
		return ErrStopped
	}
	for _, p := range polled[ctls:] {
		switch {
		case p.Revents == 0:
		case int(p.Fd) == gctl:
			if err := r.up.src.Check(); err != nil {
				return &GuestError{err}
			}
		default:
			if err := r.up.dst.Check(); err != nil {
				return err
			}
		}
	}
	for i, d := range []*direction{&r.up, &r.down} {
		d.hup = set[i].Revents&unix.POLLHUP != 0
		room := outlet[i] >= 0 && polled[outlet[i]].Revents != 0
		d.due = set[i].Revents != 0 || room || paused[i]
		if set[i].Revents != 0 {
			d.futile++
		}
	}
	return nil
}

// sleep waits until a descriptor of set has events, for ns nanoseconds, or
// without an end if ns < 0.
func (r *Relay) sleep(set []unix.PollFd, ns int64) (err error) {
	r.mon.Busy.Store(0)
	switch {
	case r.alone == nil:
		err = poll(set, ns)
	case !r.alone.spin(set): // which is as good as sleep: on a busy machine a yield may take long
		err = r.alone.sleep(set, ns)
	}
	r.mon.Busy.Store(1)
	if r.mon.Wake != nil {
		r.mon.Wake()
	}
	return err
}

func poll(set []unix.PollFd, ns int64) error {
	var timeout *unix.Timespec
	if ns >= 0 {
		t := unix.NsecToTimespec(ns)
		timeout = &t
	}
	_, err := unix.Ppoll(set, timeout, nil)
	return err
}

func pollFd(fd int, events int16) unix.PollFd {
	return unix.PollFd{Fd: int32(fd), Events: events}
}
