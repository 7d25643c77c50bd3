package main

import (
	"fmt"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/umlvde/umlvde/internal/mmsg"
	"golang.org/x/sys/unix"
)

// A flow is one direction of a run. At most window frames are under way at a
// time, as with TCP, unless it is a flood: then the sender sends what its
// socket takes. A frame is under way until a later one has come.
type flow struct {
	window   int // 0: flood
	came     atomic.Uint64
	acked    atomic.Uint64 // the number that is due at the receiver
	forgiven uint64        // frames before this number are under way no more
	sleeping atomic.Bool   // the sender waits for the receiver
	event    int           // eventfd, to wake it
}

func newFlow(window int) (*flow, error) {
	fd, err := unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("eventfd: %w", err)
	}
	return &flow{window: window, event: fd}, nil
}

func (f *flow) close() { unix.Close(f.event) }

// room is how many frames the sender may send now.
func (f *flow) room(next uint64) int {
	if f.window == 0 {
		return mmsg.Max
	}
	return f.window - int(next-max(f.acked.Load(), f.forgiven))
}

// enough is the room that makes it worthwhile to send: UML's queue fills up
// while it waits.
func (f *flow) enough() int { return min(mmsg.Max, max(1, f.window/2)) }

// got tells the sender what has come.
func (f *flow) got(c *check) {
	f.came.Store(c.came)
	f.acked.Store(c.next)
	if f.sleeping.Load() && f.sleeping.CompareAndSwap(true, false) {
		_, _ = unix.Write(f.event, []byte{1, 0, 0, 0, 0, 0, 0, 0}) // wakes it in any case
	}
}

// giveUp is how long a sender waits before it takes what is under way as lost.
const giveUp = 10 * time.Millisecond

// A player is one end of a run: a thread that sends and receives, as UML does.
type player struct {
	port port
	out  *flow // nil: does not send
	in   *flow // nil: does not receive
	src  *source
	chk  check
	rx   *mmsg.Batch
	cpu  int // to run on; -1: any
	full *atomic.Bool
	stop *atomic.Bool
}

// play runs until stop is set.
func (p *player) play() error {
	if err := lockTo(p.cpu); err != nil {
		return err
	}
	for !p.stop.Load() {
		p.chk.all = p.full.Load()
		blocked, moved := false, false
		if p.out != nil {
			var err error
			if moved, blocked, err = p.sendSome(); err != nil {
				return fmt.Errorf("send: %w", err)
			}
		}
		if p.in != nil {
			got, err := p.receive()
			if err != nil {
				return fmt.Errorf("receive: %w", err)
			}
			moved = moved || got
		}
		if !moved {
			p.wait(blocked)
		}
	}
	return nil
}

// sendSome sends a batch if the window has room for it.
func (p *player) sendSome() (moved, blocked bool, err error) {
	if p.src.batch.Len() == 0 {
		room := p.out.room(p.src.next)
		if p.out.window > 0 && room < p.out.enough() {
			return false, false, nil
		}
		p.src.fill(room)
	}
	held := p.src.batch.Len()
	err = p.port.send(p.src.batch)
	left := p.src.batch.Len()
	if err == unix.EAGAIN { //nolint:errorlint // the port contract: bare
		err = nil
	}
	return left < held, left > 0, err
}

// receive takes what has come.
func (p *player) receive() (bool, error) {
	if err := p.port.recv(p.rx); err != nil {
		if err == unix.EAGAIN { //nolint:errorlint // the port contract: bare
			return false, nil
		}
		return false, err
	}
	for i := range p.rx.Len() {
		p.chk.frame(p.rx.Frame(i))
	}
	p.in.got(&p.chk)
	return true, nil
}

// wait sleeps until there is something to do.
func (p *player) wait(blocked bool) {
	set := [2]unix.PollFd{{Fd: int32(p.port.fd())}, {Fd: -1, Events: unix.POLLIN}}
	if p.in != nil {
		set[0].Events |= unix.POLLIN
	}
	credit := false
	switch {
	case blocked:
		set[0].Events |= unix.POLLOUT
	case p.out != nil:
		credit = true
		set[1].Fd = int32(p.out.event)
		p.out.sleeping.Store(true)
		if p.out.room(p.src.next) >= p.out.enough() {
			p.out.sleeping.Store(false)
			return
		}
	}
	if set[0].Events == 0 {
		set[0].Fd = -1
	}
	before := time.Now()
	timeout := unix.NsecToTimespec(int64(giveUp))
	n, err := unix.Ppoll(set[:], &timeout, nil)
	if !credit {
		return
	}
	switch {
	case n > 0 && set[1].Revents != 0:
		var b [8]byte
		_, _ = unix.Read(p.out.event, b[:])
	case n == 0 && err == nil && time.Since(before) >= giveUp:
		p.out.forgiven = p.src.next
	}
}

// lockTo gives the goroutine a thread of its own, on one CPU, or any if cpu is
// -1; it ends with the goroutine.
func lockTo(cpu int) error {
	runtime.LockOSThread()
	return pinThread(cpu)
}

// pinThread binds the calling thread to one CPU.
func pinThread(cpu int) error {
	if cpu < 0 {
		return nil
	}
	var set unix.CPUSet
	set.Set(cpu)
	if err := unix.SchedSetaffinity(0, &set); err != nil {
		return fmt.Errorf("sched_setaffinity: %w", err)
	}
	return nil
}
