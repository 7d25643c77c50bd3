package main

import (
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/umlvde/umlvde/internal/rig"
	"github.com/umlvde/umlvde/libvdeplug/faultplug"
	"golang.org/x/sys/unix"
)

// tally is what the helper says at its end about one direction.
type tally struct {
	frames, dropped int
	reasons         map[string]int
}

// tallies reads the counters that a helper with -v prints at the end.
func tallies(t *testing.T, g *rig.Guest) (up, down tally) {
	t.Helper()
	one := `(\d+) frames \([^)]*\), (\d+) dropped(?: \(([^)]*)\))?`
	m := g.WaitLine(`guest to network `+one+`; network to guest `+one, 5*time.Second)
	return parseTally(t, m[1:4]), parseTally(t, m[4:7])
}

func parseTally(t *testing.T, m []string) tally {
	t.Helper()
	a := tally{atoi(t, m[0]), atoi(t, m[1]), make(map[string]int)}
	sum := 0
	for _, part := range strings.Split(m[2], ", ") {
		if n, name, ok := strings.Cut(part, " "); ok {
			a.reasons[name] = atoi(t, n)
			sum += a.reasons[name]
		}
	}
	if sum != a.dropped {
		t.Errorf("%d dropped, but the reasons sum up to %d", a.dropped, sum)
	}
	return a
}

func atoi(t *testing.T, s string) int {
	t.Helper()
	n, err := strconv.Atoi(s)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// memoryLimit is what guardian and worker together may ever have resident.
func memoryLimit() int {
	if rig.Race {
		return 400 << 10 // the race detector's own
	}
	return 32 << 10
}

// peakKB sums the peak memory of the guardian and its workers.
func peakKB(t *testing.T, g *rig.Guest) int {
	t.Helper()
	sum := rig.PeakKB(t, g.Pid())
	for _, pid := range g.Children() {
		sum += rig.PeakKB(t, pid)
	}
	return sum
}

// A guest may send anything: frames of every wrong size, in any number. All of
// them are delivered or counted, and the memory stays bounded.
func TestHostileGuest(t *testing.T) {
	for _, vnl := range []string{"null://", "slirp://", "hub://" + rig.TempDir(t) + "/hub"} {
		t.Run(strings.SplitN(vnl, ":", 2)[0], func(t *testing.T) {
			g := rig.StartHelper(t, rig.HelperConfig{VNL: vnl})
			g.WaitLine("link up", 5*time.Second)
			sent := 0
			send := func(f []byte) {
				if !g.Send(f, time.Second) {
					t.Fatal("the guest's socket was not read for 1 s")
				}
				sent++
			}
			if err := unix.SetsockoptInt(g.Fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, 1<<20); err != nil {
				t.Fatal(err) // UML's own buffer takes no message of 64 kB
			}
			for range 20 {
				for n := range 14 {
					if n > 0 { // an empty message is no frame
						send(make([]byte, n))
					} else if err := unix.Sendto(g.Fd, nil, unix.MSG_DONTWAIT, nil); err != nil && err != unix.EAGAIN {
						t.Fatal(err)
					}
				}
				for _, n := range []int{1566, 1567, 4096, 9000, 9234, 9235, 65535, 65600, 65601, 200000} {
					send(rig.Frame(n, 0))
				}
			}
			for i := range 100_000 {
				send(rig.Frame(60, uint32(i)))
				if i%1000 == 0 {
					g.Discard()
				}
			}
			kb := peakKB(t, g)
			if kb > memoryLimit() {
				t.Errorf("guardian and worker needed %d kB", kb)
			}
			g.Close()
			g.Wait(2 * time.Second)
			up, _ := tallies(t, g)
			if up.frames+up.dropped < sent {
				t.Errorf("sent %d frames, of which %d were delivered and %d counted as dropped", sent, up.frames, up.dropped)
			}
			if up.reasons["runt"] < 20*13 || up.reasons["giant"] < 20*2 {
				t.Errorf("the wrong sizes were not noticed: %v", up.reasons)
			}
			t.Logf("%d sent: %+v; %d kB resident together at most", sent, up, kb)
		})
	}
}

// A network may send anything, too.
func TestHostileNetwork(t *testing.T) {
	net := faultplug.New(t) // sends everything back
	g := rig.StartHelper(t, rig.HelperConfig{VNL: net.VNL(), Env: []string{net.Env()}})
	g.WaitLine("link up", 5*time.Second)
	if err := unix.SetsockoptInt(g.Fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, 1<<20); err != nil {
		t.Fatal(err)
	}
	sent, came := 0, 0
	for round := range 500 {
		for _, n := range []int{14, 60, 1514, 1566, 1567, 9000, 9233, 9234, 65535} {
			if !g.Send(rig.Frame(n, uint32(round)), time.Second) {
				t.Fatal("the guest's socket was not read for 1 s")
			}
			sent++
		}
		for f := g.Recv(0); f != nil; f = g.Recv(0) {
			if len(f) < 14 || len(f) > 1566 {
				t.Fatalf("the guest was given a frame of %d bytes", len(f))
			}
			came++
		}
	}
	for f := g.Recv(100 * time.Millisecond); f != nil; f = g.Recv(100 * time.Millisecond) {
		came++
	}
	if kb := peakKB(t, g); kb > memoryLimit() {
		t.Errorf("guardian and worker needed %d kB", kb)
	}
	g.Close()
	g.Wait(2 * time.Second)
	_, down := tallies(t, g)
	if down.frames != came || down.reasons["giant"] == 0 || came == 0 {
		t.Errorf("%d frames came, %+v", came, down)
	}
	t.Logf("%d sent, %d came back: %+v", sent, came, down)
}
