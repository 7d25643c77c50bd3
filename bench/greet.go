package main

import (
	"time"

	"github.com/umlvde/umlvde/internal/mmsg"
	"golang.org/x/sys/unix"
)

// greet sends frames both ways until they come through, so that switches know
// where everybody is, and a path that has to be built is.
func (l *link) greet() error {
	s, err := newStage()
	if err != nil {
		return err
	}
	defer s.free()
	run := runs.Add(1)
	const size = 100
	s.guestFrames(l, size, run)
	s.farFrames(l, size, run)
	atGuest, atFar := l.checks(size, run)
	try := func(from, to port, src *source, c *check) bool {
		src.batch.Clear()
		src.fill(1)
		_ = from.send(src.batch)          // it is tried again
		poll(to.fd(), 2*time.Millisecond) // the next recv tells
		for to.recv(s.rx[0]) == nil {
			for i := range s.rx[0].Len() {
				c.frame(s.rx[0].Frame(i))
			}
		}
		return c.came > 0
	}
	return eventually(10*time.Second, l.name+" passes frames", func() bool {
		if l.kind.loop {
			up := try(l.guest, l.guest, &s.src[0], &atGuest)
			l.passed = time.Now()
			return up
		}
		up := try(l.guest, l.far, &s.src[0], &atFar)
		if up && l.passed.IsZero() {
			l.passed = time.Now()
		}
		down := try(l.far, l.guest, &s.src[1], &atGuest)
		if !up || !down {
			return false
		}
		l.drain()
		return true
	})
}

// drain takes all frames that are still on their way, until none has come for
// a while.
func (l *link) drain() {
	b, err := mmsg.NewBatch()
	if err != nil {
		return // then the next step will not get one, either
	}
	defer b.Free()
	for last := time.Now(); time.Since(last) < 10*time.Millisecond; {
		for _, p := range []port{l.guest, l.far} {
			if p != nil && p.fd() >= 0 && p.recv(b) == nil {
				last = time.Now()
			}
		}
		time.Sleep(time.Millisecond)
	}
}

func (s *stage) free() {
	for i := range 2 {
		s.src[i].batch.Free()
		s.rx[i].Free()
	}
}

// poll waits until fd is readable, and reports whether it is.
func poll(fd int, within time.Duration) bool {
	set := [1]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	timeout := unix.NsecToTimespec(int64(within)) // the kernel takes off what it waited
	n, _ := unix.Ppoll(set[:], &timeout, nil)
	return n > 0
}
