package relay_test

import (
	"bytes"
	"slices"
	"testing"

	"github.com/umlvde/umlvde/internal/mmsg"
	"github.com/umlvde/umlvde/internal/relay"
	"github.com/umlvde/umlvde/internal/rig"
)

// sparse has its first frames come one by one, and all others at once.
type sparse struct {
	*fake
	singles int
	rooms   []int // what was asked for
}

func (s *sparse) Recv(b *mmsg.Batch) error {
	s.rooms = append(s.rooms, b.Room())
	s.perCall = b.Room()
	if len(s.rooms) <= s.singles {
		s.perCall = 1
	}
	return s.fake.Recv(b)
}

// TestSingles has frames that come one by one, which are soon asked for one by one,
// and then a crowd, which is soon taken in batches again, in order.
func TestSingles(t *testing.T) {
	const singles, crowd = 100, 640
	network := &sparse{fake: newFake(t), singles: singles}
	var want, got [][]byte
	for i := range uint32(singles + crowd) {
		want = append(want, rig.Frame(60, i))
	}
	network.inbox = slices.Clone(want)
	signal(t, network.event) // readable for ever
	guest := newFake(t)
	guest.send = func(b *mmsg.Batch, c *relay.Counters) error {
		for i := range b.Len() {
			got = append(got, bytes.Clone(b.Frame(i)))
		}
		return take(b, c)
	}
	r := start(t, guest, network)
	rig.Eventually(t, soon, "all frames pass", func() bool { return r.down.Out.Load() == singles+crowd })
	r.Stop()
	if err := r.end(t); err != relay.ErrStopped { //nolint:errorlint // it is bare
		t.Fatal(err)
	}
	if !slices.EqualFunc(got, want, bytes.Equal) {
		t.Error("the frames came altered, or in another order")
	}
	ones := 0
	for _, room := range network.rooms[singles/2 : singles] {
		if room == 1 {
			ones++
		}
	}
	if ones < singles/2*4/5 {
		t.Errorf("of the last %d single frames only %d were asked for alone", singles/2, ones)
	}
	calls := 0 // for the crowd
	for left := crowd; left > 0; calls++ {
		left -= network.rooms[singles+calls]
	}
	if most := crowd/mmsg.Max + 20; calls > most {
		t.Errorf("%d frames took %d calls, not %d at most", crowd, calls, most)
	}
}

// TestPortions has a network that calls C, to which few large frames go at a time,
// or many small ones.
func TestPortions(t *testing.T) {
	for size, most := range map[int]int{60: mmsg.Max, 1514: 21, upLimit: 3} {
		guest := &sparse{fake: newFake(t)}
		for i := range uint32(3 * mmsg.Max) {
			guest.inbox = append(guest.inbox, rig.Frame(size, i))
		}
		signal(t, guest.event) // readable for ever
		network := newFake(t)
		network.callsC = true
		var batches []int
		network.send = func(b *mmsg.Batch, c *relay.Counters) error {
			batches = append(batches, b.Len())
			return take(b, c)
		}
		r := start(t, guest, network)
		rig.Eventually(t, soon, "all frames pass", func() bool { return r.up.Out.Load() == 3*mmsg.Max })
		r.Stop()
		if err := r.end(t); err != relay.ErrStopped { //nolint:errorlint // it is bare
			t.Fatal(err)
		}
		if batches = batches[1:]; slices.Max(batches) != most { // the first one tells the size
			t.Errorf("%d bytes: up to %d frames at a time, not %d", size, slices.Max(batches), most)
		}
	}
}
