package relay

import (
	"time"

	"golang.org/x/sys/unix"
)

// spinner decides how long the relay looks for more before it goes to sleep. To
// sleep and to be woken up takes longer than most answers do, so after a frame
// it looks again for a moment, if that has paid lately; it lets others run
// meanwhile, so it costs nothing where they need the CPU.
type spinner struct {
	idle  time.Time     // since when there is nothing to do; zero while there is
	bound time.Duration // how long to look; learned
}

const (
	// maxSpin is the longest look. An answer that takes longer is slept for.
	maxSpin = 50 * time.Microsecond
	// minSpin is where looking is given up, until an answer was quick again.
	minSpin = 4 * time.Microsecond
)

// active says that something was moved.
func (s *spinner) active() { s.idle = time.Time{} }

// again reports whether to look once more instead of sleeping.
func (s *spinner) again() bool {
	now := time.Now()
	if s.idle.IsZero() {
		s.idle = now
	}
	if now.Sub(s.idle) >= s.bound {
		return false
	}
	_, _, _ = unix.RawSyscall(unix.SYS_SCHED_YIELD, 0, 0, 0) // cannot fail
	return true
}

// slept learns from how long nothing was to be done in all.
func (s *spinner) slept() {
	if time.Since(s.idle) < maxSpin {
		s.bound = maxSpin
	} else if s.bound /= 2; s.bound < minSpin {
		s.bound = 0
	}
	s.idle = time.Time{}
}
