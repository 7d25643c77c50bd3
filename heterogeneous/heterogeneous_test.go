// Package heterogeneous tests what VDE is for: machines of all kinds on one
// network, among them UML guests that umlvde serves.
package heterogeneous

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/umlvde/umlvde/internal/rig"
)

const (
	// patience is for what may take as long as an emulated machine needs to boot.
	patience = 60 * time.Second
	soon     = 5 * time.Second
)

// stationEnv makes a station of this program.
const stationEnv = "UMLVDE_TEST_STATION"

func TestMain(m *testing.M) {
	if vnl, ip, ok := strings.Cut(os.Getenv(stationEnv), " "); ok {
		if err := stationMain(vnl, ip); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(rig.MainApart(m))
}

// A network is one that connects machines.
type network struct {
	name string
	// open makes it and returns how the guest in the middle, who may be its host,
	// is plugged in, and how the others are.
	open func(t *testing.T) (first node, others func() node)
	mtu  int // the greatest that it carries, in bytes
	// during is how long each pair talks TCP.
	during time.Duration
}

var networks = []network{
	{"vde_switch", openSwitch, 1500, 5 * time.Second},
	{"switch", hostSwitch, bigMTU, 5 * time.Second},
	{"vxvde", openCloud, bigMTU, 5 * time.Second},
}

// openSwitch starts a vde_switch.
func openSwitch(t *testing.T) (node, func() node) {
	path := filepath.Join(rig.TempDir(t), "s")
	rig.Switch(t, path)
	at := node{nil, "vde://" + path}
	return at, func() node { return at }
}

// hostSwitch is a switch in the helper of the first guest.
func hostSwitch(t *testing.T) (node, func() node) {
	path := filepath.Join(rig.TempDir(t), "s")
	return node{nil, "switch://" + path}, func() node { return node{nil, "vde://" + path} }
}

// openCloud is a vxvde network over a LAN of namespaces.
func openCloud(t *testing.T) (node, func() node) {
	lan := rig.NewLAN(t)
	next := func() node { return node{lan.Host().Enter(), "vxvde://239.1.2.3"} }
	return next(), next
}

// Machines of all kinds talk with a UML guest that umlvde serves.
func TestMachinesOfAllKindsOnOneNetwork(t *testing.T) {
	for _, nw := range networks {
		t.Run(nw.name, func(t *testing.T) {
			first, others := nw.open(t)
			guest := startUML(t, first, "7", "10.77.0.1", bigMTU)
			guest.up(t)
			if path, ok := strings.CutPrefix(first.vnl, "switch://"); ok {
				guest.awaitSwitch(t, path)
			}
			machines := make([]*machine, len(kinds))
			for i, k := range kinds {
				machines[i] = k.start(t, others(), fmt.Sprintf("10.77.0.%d", 2+i), nw.mtu)
			}
			sum := guest.serve(t)
			for i, k := range kinds {
				t.Run(k.name, func(t *testing.T) { k.check(t, guest, machines[i], nw, sum) })
			}
		})
	}
}

// checkKernel talks with a machine that has a kernel's network stack.
func checkKernel(t *testing.T, guest, m *machine, nw network, sum string) {
	m.up(t)
	theirs := m.serve(t)
	checkPings(t, guest, m, 1500, true)
	checkTCP(t, guest, m, nw.during)
	checkFiles(t, guest, m, sum, theirs)
	if !m.grows {
		if nw.mtu > 1500 {
			checkPings(t, guest, m, nw.mtu, true)
		}
		return
	}
	m.must(t, fmt.Sprintf("ip link set %s mtu %d", m.iface, bigMTU))
	checkPings(t, guest, m, bigMTU, nw.mtu == bigMTU)
	if nw.mtu == bigMTU {
		checkFiles(t, guest, m, sum, theirs)
	}
}

// checkPings sends packets as long as mtu, and short ones, either way.
func checkPings(t *testing.T, a, b *machine, mtu int, pass bool) {
	t.Helper()
	for _, way := range [][2]*machine{{a, b}, {b, a}} {
		if pass {
			way[0].must(t, fmt.Sprintf("for i in 1 2 3 4 5; do busybox ping -q -c 3 -i 0.1 -W 2 %s >/dev/null && break; done", way[1].ip))
		}
		out, status := way[0].Do(patience, fmt.Sprintf("busybox ping -c 3 -i 0.1 -W 1 -s %d %s", mtu-28, way[1].ip))
		if ok := status == 0; ok != pass {
			t.Errorf("packets of %d bytes from %s to %s: arrived: %v\n%s", mtu, way[0].ip, way[1].ip, ok, out)
		}
	}
}

// checkTCP lets a and b send to each other at once.
func checkTCP(t *testing.T, a, b *machine, during time.Duration) {
	t.Helper()
	out := a.must(t, fmt.Sprintf("iperf3 -J -i 0 -t %.0f --bidir -c %s", during.Seconds(), b.ip))
	type sum struct {
		Rate  float64 `json:"bits_per_second"`
		Again float64 `json:"retransmits"`
	}
	var got struct {
		Error string
		End   struct {
			Sent sum `json:"sum_sent"`
			To   sum `json:"sum_received"`
			From sum `json:"sum_received_bidir_reverse"`
		}
	}
	if err := json.Unmarshal([]byte(out), &got); err != nil {
		t.Fatalf("iperf3: %v: %s", err, out)
	}
	t.Logf("TCP, both ways at once: %.0f Mbit/s there, %.0f back", got.End.To.Rate/1e6, got.End.From.Rate/1e6)
	if got.Error != "" || got.End.To.Rate < 1e6 || got.End.From.Rate < 1e6 {
		t.Errorf("TCP does not flow: %s", out)
	}
}

// checkFiles fetches random bytes, either way.
func checkFiles(t *testing.T, a, b *machine, sumA, sumB string) {
	t.Helper()
	for _, way := range []struct {
		from, to *machine
		want     string
	}{{a, b, sumA}, {b, a, sumB}} {
		got := way.to.must(t, fmt.Sprintf("busybox wget -q -O - http://%s/bytes | sha256sum", way.from.ip))
		if got != way.want {
			t.Errorf("what %s got from %s has the checksum %s, want %s", way.to.ip, way.from.ip, got, way.want)
		}
	}
}

// checkStation talks with a Go program, whose packets have random contents that
// it compares.
func checkStation(t *testing.T, guest, s *machine, nw network, _ string) {
	for _, size := range []int{84, 1500, nw.mtu} {
		s.must(t, fmt.Sprintf("ping %s %d 20", guest.ip, size-28))
		guest.must(t, fmt.Sprintf("busybox ping -q -c 5 -i 0.1 -W 2 -s %d %s", size-28, s.ip))
	}
}

// checkWebserver fetches a page again and again.
func checkWebserver(t *testing.T, guest, s *machine, _ network, _ string) {
	for _, size := range []int{84, 1500} {
		guest.must(t, fmt.Sprintf("busybox ping -q -c 5 -i 0.1 -W 2 -s %d %s", size-28, s.ip))
	}
	got := guest.must(t, fmt.Sprintf("for i in 1 2 3 4 5; do busybox wget -q -O - http://%s/; done | grep -c '^Hello, %s:'", s.ip, guest.ip))
	if strings.TrimSpace(got) != "5" {
		t.Errorf("the greeting came %s times", got)
	}
}
