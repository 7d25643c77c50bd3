package conformance

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/umlvde/umlvde/internal/rig"
)

// A row is a VNL and what is expected of it.
type row struct {
	plugin string // the heading in docs/plugs.md
	vnl    string // "{dir}" stands for a directory of the test's own
	what   string // for docs/plugs.md
	env    string // of the helper: NAME=VALUE

	hosts int                          // network namespaces on one bridge; 0: both ends are in the same one
	start func(p *place)               // makes what has to be there: a switch, a tap
	far   string                       // the VNL of the other end, which the C vde_plug and umlvde take in turn
	open  func(p *place) end           // or the other end, if it is no plug
	alone func(p *place, g *rig.Guest) // all of the test, where there is no far end for the others
	peer  func(p *place)               // makes the network, not its far end, go and come back

	largest int      // the longest frame that passes, bytes
	lossy   bool     // frames may get lost
	cFloods bool     // the C vde_plug reaches all stations, but no single one
	slow    bool     // no throughput to speak of
	remains []string // what SIGKILL leaves in {dir}
}

// name is for the test's output.
func (r *row) name() string {
	if r.vnl == "" {
		return r.what
	}
	return r.vnl
}

// A place is where a row is tried.
type place struct {
	t         testing.TB
	row       *row
	dir       string
	near, far *rig.Namespace
	inherit   []*os.File     // descriptors 4, ... of the helper
	parts     map[string]any // what start has made and peer needs
}

func newPlace(t testing.TB, r *row) *place {
	t.Helper()
	p := &place{t: t, row: r, dir: rig.TempDir(t), parts: make(map[string]any)}
	if r.hosts > 0 {
		hosts := lan(t, r.hosts)
		p.near, p.far = hosts[0], hosts[1]
	} else {
		p.near = rig.NewNamespace(t)
		p.far = p.near
	}
	if r.start != nil {
		r.start(p)
	}
	return p
}

// fill replaces the placeholders of a VNL.
func (p *place) fill(text string) string {
	return strings.NewReplacer("{dir}", p.dir, "{umlvde}", rig.Umlvde()).Replace(text)
}

// helper starts umlvde at the near end.
func (p *place) helper() *rig.Guest {
	p.t.Helper()
	c := rig.HelperConfig{VNL: p.fill(p.row.vnl), Files: p.inherit}
	if p.row.env != "" {
		c.Env = []string{p.fill(p.row.env)}
	}
	return guest(p.near, c)
}

// A peer is a kind of far end.
type peer struct {
	name string
	open func(p *place) end
}

// The names of peers.
const (
	cPeer  = "the C vde_plug"
	umlvde = "umlvde"
)

// peers are the far ends that a row is tried with.
func (r *row) peers() []peer {
	if r.open != nil {
		return []peer{{"the network itself", r.open}}
	}
	return []peer{
		{cPeer, func(p *place) end { return cPlug(p.far, p.fill(r.far)) }},
		{umlvde, func(p *place) end {
			return guest(p.far, rig.HelperConfig{VNL: p.fill(r.far), Args: []string{"-v", "--descr", "far"}})
		}},
	}
}

var isFd = regexp.MustCompile(`^fd\d+$`)

// files lists what is in the directory, the contents of directories too, but
// not what is the vde_switch's own.
func (p *place) files() (names []string) {
	err := filepath.WalkDir(p.dir, func(path string, _ os.DirEntry, err error) error {
		if name := filepath.Base(path); name == "s" {
			return filepath.SkipDir
		} else if isFd.MatchString(name) {
			path = filepath.Join(filepath.Dir(path), "fdN")
		}
		if err == nil && path != p.dir {
			names = append(names, strings.TrimPrefix(path, p.dir+"/"))
		}
		return nil
	})
	must(p.t, err)
	return names
}

// floor is the least throughput that a network may have at its best, in Mbit/s. It
// finds what is broken, not what is slow: the machine may be busy, and with the
// race detector all of this is.
const floor = 2

// TestTraffic sends frames of all sizes both ways, and many of them.
func TestTraffic(t *testing.T) {
	for _, r := range rows {
		if r.alone != nil {
			t.Run(r.name(), func(t *testing.T) {
				p := newPlace(t, r)
				g := p.helper()
				g.WaitLine("link up", soon)
				r.alone(p, g)
			})
			continue
		}
		for _, far := range r.peers() {
			t.Run(r.name()+" with "+far.name, func(t *testing.T) {
				p := newPlace(t, r)
				g := p.helper()
				g.WaitLine("link up", soon)
				other := far.open(p)
				w := ways(g, other)
				if r.cFloods && far.name == cPeer {
					w[1].toMAC = broadcast
				}
				settle(t, w, soon)
				for _, w := range w {
					carry(t, w, 60, 61, 590, 1514)
				}
				if far.name != umlvde { // which gives its guest no more than its MTU allows
					carry(t, w[0], r.largest)
				}
				if r.slow {
					return
				}
				var mbit [2]float64
				for i, w := range w {
					w.lossy = r.lossy
					var err error
					for limit := respite(); (mbit[i] < floor || err != nil) && limit.Left() > 0; {
						mbit[i], err = rate(t, w, 1514, 100*time.Millisecond)
					}
					if mbit[i] < floor || err != nil {
						t.Errorf("only %.1f Mbit/s; errors: %v", mbit[i], err)
					}
				}
				t.Logf("from the guest %.0f, to the guest %.0f Mbit/s", mbit[0], mbit[1])
			})
		}
	}
}
