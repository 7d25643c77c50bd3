package conformance

import (
	"errors"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/umlvde/umlvde/internal/rig"
	"golang.org/x/sys/unix"
)

// TestReturn has everything go and come back: the far end, the network between,
// the near end. The link recovers by itself; of what was killed nothing is left
// that blocks the next start; in the end nothing is left at all.
func TestReturn(t *testing.T) {
	for _, r := range rows {
		if r.alone != nil {
			continue
		}
		t.Run(r.name(), func(t *testing.T) {
			p := newPlace(t, r)
			made := p.files()
			peers := r.peers()
			last := peers[len(peers)-1] // umlvde, if it is a plug: it goes on by itself
			far := last.open(p)         // this time first
			g := p.helper()
			g.WaitLine("link up", soon)
			settle(t, ways(g, far), soon)

			for _, kind := range peers {
				if farGuest, ok := far.(*rig.Guest); ok {
					kill(farGuest)
					if kind.name == cPeer { // which gives up if ptp's near end has not noticed
						rig.Eventually(t, recovery, "the near end has noticed that the far one is gone", func() bool {
							g.Send(frame(farMAC, nearMAC, 60, 0), time.Second)
							return !taken(p, "p") && !taken(p, "p+")
						})
					}
					far = kind.open(p)
					t.Logf("frames flowed %v after the far end was back: %s", settle(t, ways(g, far), recovery), kind.name)
				}
			}
			if r.peer != nil {
				r.peer(p)
				t.Logf("frames flowed %v after the network was back", settle(t, ways(g, far), recovery))
			}

			kill(g)
			left := slices.DeleteFunc(p.files(), func(f string) bool { return slices.Contains(made, f) })
			if !slices.Equal(left, r.remains) {
				t.Errorf("what was killed left %q, not %q", left, r.remains)
			}
			g = p.helper()
			g.WaitLine("link up", recovery)
			t.Logf("frames flowed %v after the near end was back", settle(t, ways(g, far), recovery))

			for _, e := range []end{far, g} {
				if e, ok := e.(*rig.Guest); ok {
					e.Close()
					e.Wait(soon)
				}
			}
			if left := p.files(); !slices.Equal(left, made) {
				t.Errorf("in the directory were %q, and are %q", made, left)
			}
		})
	}
}

// taken reports whether an end of a ptp:// is connected to another one, which may
// be dead: until the next frame towards that it refuses everybody else.
func taken(p *place, name string) bool {
	p.t.Helper()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	must(p.t, err)
	defer unix.Close(fd)
	return errors.Is(unix.Connect(fd, &unix.SockaddrUnix{Name: filepath.Join(p.dir, name)}), unix.EPERM)
}
