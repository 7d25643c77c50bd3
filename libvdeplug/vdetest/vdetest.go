// Package vdetest makes networks in memory, for tests of programs that use
// a [libvdeplug.Conn]: a cable with two ends and a switch. They need neither the
// C library nor root, nor even Linux.
//
//	server, client := vdetest.Pair()
//
// A [Conn] has the methods of a libvdeplug.Conn, without those that are about its
// socket, and does what that does, errors included; the tests of this package run
// on both. A program that is to be given one or the other takes a [net.Conn] or,
// for batches, an interface of its own.
//
// There are no goroutines, and all waiting is for channels. So a Conn works in
// a bubble of testing/synctest, where an hour's deadline costs no time.
//
// Package faultplug is for the other kind of test: what a program does when
// a plugin blocks, lies or crashes.
package vdetest

import (
	"sync"
	"time"
)

const (
	// maxBatch is how many frames a ReadBatch returns at most, as of a libvdeplug.Conn.
	maxBatch = 64
	// queueLen is how many frames may wait for a reader.
	queueLen = 256
)

// A medium is a cable or a switch: what its Conns share.
type medium struct {
	mu      sync.Mutex
	changed chan struct{} // closed when something changes; nil if nobody waits; guarded by mu
}

// notify wakes all who wait. The caller holds mu, as that of wait.
func (m *medium) notify() {
	if m.changed != nil {
		close(m.changed)
		m.changed = nil
	}
}

// wait gives mu away until something has changed or the deadline, if there is
// one, has come.
func (m *medium) wait(deadline time.Time) {
	if m.changed == nil {
		m.changed = make(chan struct{})
	}
	changed := m.changed
	m.mu.Unlock()
	defer m.mu.Lock()
	if deadline.IsZero() {
		<-changed
		return
	}
	timer := time.NewTimer(time.Until(deadline))
	defer timer.Stop()
	select {
	case <-changed:
	case <-timer.C:
	}
}

// Pair returns the two ends of a cable, on which no frame is lost: when 256 wait
// to be read, a Write waits too. When one end is closed, the other reads what is
// left and then [io.EOF].
func Pair() (a, b *Conn) {
	m := new(medium)
	a, b = &Conn{name: "vdetest://pair/a", medium: m}, &Conn{name: "vdetest://pair/b", medium: m}
	for _, ends := range [][2]*Conn{{a, b}, {b, a}} {
		near, far := ends[0], ends[1]
		near.carry = far.push
		near.unplug = func() { far.ended = true }
	}
	return a, b
}
