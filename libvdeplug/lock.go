//go:build linux

package libvdeplug

import (
	"sync"
	"sync/atomic"
	"time"
)

// lock is a mutex that a caller can stop waiting for. It is passed on to those who
// wait in the order in which they came. If nobody else wants it, it costs two
// atomic operations, a sixth of what a channel would.
type lock struct {
	state   atomic.Int32  // of lock's constants
	passed  chan struct{} // the lock itself, on its way to the first of the queue
	mu      sync.Mutex
	waiting int // how many are in the queue, but for one to whom it was passed; guarded by mu
}

const (
	lockFree   = iota
	lockHeld   // and nobody waits
	lockWanted // it is held, and somebody waits; changes only under mu
)

func newLock() *lock { return &lock{passed: make(chan struct{}, 1)} }

// try takes the lock, if it is free: true. Else the caller is in the queue, and
// must receive from passed, which makes the lock its own, or call leave.
func (l *lock) try() bool {
	if l.state.CompareAndSwap(lockFree, lockHeld) {
		return true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.state.Load() != lockWanted && !l.state.CompareAndSwap(lockHeld, lockWanted) {
		if l.state.CompareAndSwap(lockFree, lockHeld) {
			return true
		}
	}
	l.waiting++
	return false
}

// leave leaves the queue.
func (l *lock) leave() {
	l.mu.Lock()
	var ours bool
	select {
	case <-l.passed: // too late: it must be passed on
		ours = true
	default:
		l.shrink()
	}
	l.mu.Unlock()
	if ours {
		l.unlock()
	}
}

// shrink takes one out of the queue. It is called under mu.
func (l *lock) shrink() {
	if l.waiting--; l.waiting == 0 {
		l.state.Store(lockHeld)
	}
}

func (l *lock) unlock() {
	if l.state.CompareAndSwap(lockHeld, lockFree) {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.waiting == 0 { // who waited has left
		l.state.Store(lockFree)
		return
	}
	l.shrink()
	l.passed <- struct{}{} // there is room: it was received before it could be passed again
}

// deadline is a point in time that a select can wait for.
type deadline struct {
	mu    sync.Mutex
	timer *time.Timer   // closes past; nil if there is nothing to come
	past  chan struct{} // closed when the time has come
	late  atomic.Bool   // it is closed, or about to be
}

func newDeadline() deadline { return deadline{past: make(chan struct{})} }

// set moves the deadline; the zero time means never.
func (d *deadline) set(t time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.timer != nil && !d.timer.Stop() {
		<-d.past // the timer is about to close it
	}
	d.timer = nil
	over := isClosed(d.past)
	left := time.Until(t)
	switch {
	case !t.IsZero() && left <= 0:
		d.late.Store(true)
		if !over {
			close(d.past)
		}
		return
	case over:
		d.past = make(chan struct{})
		d.late.Store(false)
	}
	if !t.IsZero() {
		past := d.past
		d.timer = time.AfterFunc(left, func() {
			d.late.Store(true)
			close(past)
		})
	}
}

// passed returns a channel that is closed when the deadline has passed.
func (d *deadline) passed() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.past
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
