package relay

import (
	"time"

	"github.com/umlvde/umlvde/internal/mmsg"
	"golang.org/x/sys/unix"
)

const (
	// spinFor is how long a relay looks again and again before it sleeps. To be
	// woken up takes about as long on some machines, virtual ones above all.
	spinFor = 200 * time.Microsecond

	// worthwhile is how soon the last frames must have ended a sleep for another
	// spin to be tried: their sender may have had to wake up, too.
	worthwhile = 500 * time.Microsecond

	// maxSkips is how many sleeps go without a try, at most, after tries in vain;
	// maxCrowd how many after CPUs were found to be scarce more often than not.
	maxSkips, maxCrowd = 16, 256

	// others is how long a yield takes at least if somebody else runs meanwhile, or
	// an interrupt comes.
	others = 5 * time.Microsecond

	// plentyFor is how long the load is not looked up after CPUs were idle.
	plentyFor = time.Millisecond
)

// A spinner decides whether it is worthwhile to look for frames for a moment
// before going to sleep, and does it. It learns from what came of the last
// times, costs nothing at idle, and gives way to whoever needs the CPU.
type spinner struct {
	load   load
	skips  int       // sleeps to go without a try
	vain   int       // what skips becomes after the next try in vain
	crowd  int       // what it was when CPUs were scarce; halved each time they are not
	slept  time.Time // when the last sleep began
	brief  bool      // it was short
	lookUp time.Time // when to look up the load again

	switches int64 // ru_nivcsw, of getrusage(2), when it was last looked at
}

// spin polls set until it has events, which it reports, or a sleep is better.
func (s *spinner) spin(set []unix.PollFd) bool {
	if s.skips > 0 {
		s.skips--
		return false
	}
	if !s.brief {
		return false
	}
	begin := time.Now()
	if begin.After(s.lookUp) {
		if s.load.scarce() {
			s.crowded()
			return false
		}
		s.crowd /= 2
		s.lookUp = begin.Add(plentyFor)
	}
	s.displaced()
	for now, ousted := begin, false; ; {
		if n, _ := mmsg.Poll(set, 0); n > 0 {
			s.vain = 0
			return true
		}
		switch {
		case ousted:
			s.crowded()
			return false
		case now.Sub(begin) >= spinFor:
			s.skips, s.vain = s.vain, min(2*s.vain+1, maxSkips)
			return false
		}
		_, _, _ = unix.RawSyscall(unix.SYS_SCHED_YIELD, 0, 0, 0)
		then := now
		now = time.Now()
		ousted = now.Sub(then) >= others && s.displaced()
	}
}

// crowded notes that somebody else needs the CPU.
func (s *spinner) crowded() {
	s.crowd = min(2*s.crowd+1, maxCrowd)
	s.skips = s.crowd
}

// displaced reports whether somebody else has had this CPU since the last time,
// although the relay would have used it.
func (s *spinner) displaced() bool {
	var u unix.Rusage
	if unix.Getrusage(unix.RUSAGE_THREAD, &u) != nil {
		return true
	}
	before := s.switches
	s.switches = int64(u.Nivcsw) //nolint:unconvert // 32 bits on some machines
	return s.switches != before
}
