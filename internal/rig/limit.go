package rig

import (
	"fmt"
	"os"
	"time"
)

// A Limit ends a wait for something that has been promised within some time, or
// that hangs. What the machine was short of CPUs meanwhile does not count, up to
// four times as much: that is not the program's to promise. A machine that is not
// busy gives no respite.
type Limit struct {
	within  time.Duration
	start   time.Time
	stalled time.Duration // at the start
}

// NewLimit starts a limit.
func NewLimit(within time.Duration) Limit {
	return Limit{within, time.Now(), stalled()}
}

// Left is how long to wait before asking again; it is over if that is not
// positive.
func (l Limit) Left() time.Duration {
	took := time.Since(l.start)
	if took < l.within {
		return l.within - took
	}
	return l.within + min(stalled()-l.stalled, 4*l.within) - took
}

// Await waits until c is closed and reports whether it was in time.
func (l Limit) Await(c <-chan struct{}) bool {
	for {
		select {
		case <-c:
			return true
		case <-time.After(l.Left()):
			if l.Left() <= 0 {
				return false
			}
		}
	}
}

// stalled is how long, since the machine's start, there has been somebody who
// waited for a CPU; 0 if the kernel does not count that (CONFIG_PSI).
func stalled() time.Duration {
	text, err := os.ReadFile("/proc/pressure/cpu")
	if err != nil {
		return 0
	}
	var avg float64
	var us int64
	if _, err := fmt.Sscanf(string(text), "some avg10=%f avg60=%f avg300=%f total=%d", &avg, &avg, &avg, &us); err != nil {
		return 0
	}
	return time.Duration(us) * time.Microsecond
}
