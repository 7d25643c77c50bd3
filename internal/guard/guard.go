// Package guard keeps a UML guest's socket open and drained, whatever happens
// behind it. A guardian starts a worker process for each guest, which does the
// work on the guest's socket itself; the guardian sleeps as long as the worker
// moves. If the worker ends, or does not move while frames wait, the guardian
// empties the socket, so that the guest never freezes, and starts another.
package guard

import (
	"errors"
	"os"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// A Guardian serves any number of guests from one goroutine: only Run and the
// functions that Watch was given may touch it.
type Guardian struct {
	exe   string   // the program that workers are started from
	null  *os.File // their standard input and output
	log   *Log
	began time.Time
	loop  *loop
	links map[*Link]struct{}
	ino   *watcher
	held  bool // go on without any link
	over  bool // Stop has been called
	err   error
}

// New makes a guardian that starts its workers from this very program and
// writes what happens to log.
func New(log *Log) (*Guardian, error) {
	l, err := newLoop()
	if err != nil {
		return nil, err
	}
	ino, err := newWatcher(l)
	if err != nil {
		return nil, err
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	return &Guardian{exe: "/proc/self/exe", null: null, log: log, began: time.Now(), loop: l, links: make(map[*Link]struct{}), ino: ino}, nil
}

// Watch calls f in Run whenever fd is readable or has hung up, until Unwatch.
func (g *Guardian) Watch(fd int, f func()) error {
	return g.loop.add(fd, unix.EPOLLIN, func(uint32) { f() })
}

// Unwatch ends Watch; the caller closes fd.
func (g *Guardian) Unwatch(fd int) { g.loop.del(fd) }

// Hold makes Run go on without any guest, until Release or Stop.
func (g *Guardian) Hold() { g.held = true }

// Release ends Hold.
func (g *Guardian) Release() { g.held = false }

// Run serves the guests until none is left. Its error is that of a link that was
// to be opened at once or never (Job.Once). The process should have little else to
// do: Run frees the goroutine from its thread, and leaves Go's scheduler one turn
// to give, so that a tick of the guardian is the matter of one thread.
func (g *Guardian) Run() error {
	runtime.UnlockOSThread()
	runtime.GOMAXPROCS(1)
	for len(g.links) > 0 || g.held {
		var due time.Time
		for l := range g.links {
			if d := l.due(); !d.IsZero() && (due.IsZero() || d.Before(due)) {
				due = d
			}
		}
		if err := g.loop.once(due); err != nil {
			return err
		}
		now := time.Now()
		for l := range g.links {
			if d := l.due(); !d.IsZero() && !d.After(now) {
				l.onTime(now)
			}
		}
	}
	return g.err
}

// Stop ends all links: their workers close their plugs, with a moment to do so.
// There will be no others.
func (g *Guardian) Stop() {
	g.held, g.over = false, true
	for l := range g.links {
		l.end()
	}
}

// Tend takes over the guest's socket and serves it until the guest closes its
// end or the process behind pidfd (-1: none) ends. Both descriptors are the
// link's from now on; if there is an error, they are closed.
func (g *Guardian) Tend(guest, pidfd int, job Job) (err error) {
	l := &Link{g: g, guest: guest, pidfd: pidfd, job: job, mode: watching}
	defer func() {
		if err != nil {
			l.closeGuest()
		}
	}()
	if g.over {
		return errors.New("the guardian has been told to end")
	}
	if err := g.loop.add(guest, l.mode.events(), l.onGuest); err != nil {
		return err
	}
	if pidfd >= 0 {
		if err := g.loop.add(pidfd, unix.EPOLLIN, func(uint32) { l.guestGone() }); err != nil {
			return err
		}
	}
	g.links[l] = struct{}{}
	if job.Wrong != "" {
		g.log.Error(job, "no network: "+job.Wrong)
		l.setMode(draining)
		return nil
	}
	now := time.Now()
	l.holdFrames(now)
	l.start(now)
	return nil
}
