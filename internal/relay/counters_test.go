package relay_test

import (
	"strings"
	"testing"

	"github.com/umlvde/umlvde/internal/relay"
)

func TestTotals(t *testing.T) {
	var c relay.Counters
	c.In.Add(123)
	c.Sent(120, 9800)
	c.Sent(0, 0)
	c.Dropped(relay.Full, 2)
	c.Dropped(relay.Runt, 1)
	c.Dropped(relay.Giant, 0)
	sum := c.Totals()
	if got := sum.String(); got != "120 frames (9.8 kB), 3 dropped (1 runt, 2 full)" {
		t.Error(got)
	}
	sum.Add(c.Totals())
	if sum.In != 246 || sum.Out != 240 || sum.Bytes != 19600 || sum.Dropped() != 6 {
		t.Errorf("the sum is %+v", sum)
	}
	for _, n := range []struct {
		bytes uint64
		want  string
	}{{0, "0 B"}, {999, "999 B"}, {1e3, "1.0 kB"}, {1.5e6, "1.5 MB"}, {2e9, "2.0 GB"}} {
		u := relay.Totals{Bytes: n.bytes}
		if got := u.String(); !strings.Contains(got, "("+n.want+"), 0 dropped") || strings.HasSuffix(got, ")") {
			t.Errorf("%d bytes: %s", n.bytes, got)
		}
	}
}
