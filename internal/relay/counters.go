package relay

import (
	"fmt"
	"strings"
	"sync/atomic"
)

// A Reason says why a frame was dropped.
type Reason int

// The reasons, in the order in which they are printed.
const (
	Runt    Reason = iota // shorter than an Ethernet header
	Giant                 // longer than the receiver can take
	Full                  // the receiver was slower than the sender
	Refused               // the receiver answered with an error
	Down                  // there was no receiver: the backend was not open
	Stalled               // the relay did not move, so its supervisor emptied the socket
	Closing               // still in hand when the relay ended
	reasons
)

var reasonNames = [reasons]string{"runt", "giant", "full", "refused", "down", "stalled", "closing"}

// String returns the reason's name in one word.
func (r Reason) String() string { return reasonNames[r] }

// Counters counts the frames of one direction. They live in memory that a
// supervising process can share: one relay writes, anybody may read at any
// time. At rest, In == Out + all Drops.
type Counters struct {
	In    atomic.Uint64 // frames that came from the sender
	Out   atomic.Uint64 // frames that the receiver took
	Bytes atomic.Uint64 // bytes of the frames that the receiver took
	Drops [reasons]atomic.Uint64
}

// Dropped counts n frames as dropped for reason r.
func (c *Counters) Dropped(r Reason, n int) {
	if n > 0 {
		c.Drops[r].Add(uint64(n))
	}
}

// Sent counts n frames of together bytes bytes as delivered.
func (c *Counters) Sent(n int, bytes uint64) {
	if n > 0 {
		c.Out.Add(uint64(n))
		c.Bytes.Add(bytes)
	}
}

// Totals is what Counters held at one moment.
type Totals struct {
	In, Out, Bytes uint64
	Drops          [reasons]uint64
}

// Totals reads the counters.
func (c *Counters) Totals() (t Totals) {
	t.In, t.Out, t.Bytes = c.In.Load(), c.Out.Load(), c.Bytes.Load()
	for i := range c.Drops {
		t.Drops[i] = c.Drops[i].Load()
	}
	return t
}

// Add adds u to t.
func (t *Totals) Add(u Totals) {
	t.In += u.In
	t.Out += u.Out
	t.Bytes += u.Bytes
	for i, n := range u.Drops {
		t.Drops[i] += n
	}
}

// Dropped sums the drops of all reasons.
func (t *Totals) Dropped() (n uint64) {
	for _, d := range t.Drops {
		n += d
	}
	return n
}

// String formats the totals as in "120 frames (9.8 kB), 3 dropped (2 full, 1 runt)".
func (t *Totals) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d frames (%s), %d dropped", t.Out, size(t.Bytes), t.Dropped())
	sep := " ("
	for i, n := range t.Drops {
		if n > 0 {
			fmt.Fprintf(&b, "%s%d %s", sep, n, Reason(i))
			sep = ", "
		}
	}
	if sep == ", " {
		b.WriteByte(')')
	}
	return b.String()
}

func size(n uint64) string {
	switch {
	case n < 1000:
		return fmt.Sprintf("%d B", n)
	case n < 1000*1000:
		return fmt.Sprintf("%.1f kB", float64(n)/1e3)
	case n < 1000*1000*1000:
		return fmt.Sprintf("%.1f MB", float64(n)/1e6)
	}
	return fmt.Sprintf("%.1f GB", float64(n)/1e9)
}
