//go:build linux

package libvdeplug

import (
	"sync"
	"sync/atomic"
	"time"
)

// lock is a mutex that a caller can stop waiting for. Its waiters get it in the
// order in which they came: receiving from a full channel lets the first of
// its blocked senders in.
type lock chan struct{}

func newLock() lock { return make(lock, 1) }

func (l lock) unlock() { <-l }

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
