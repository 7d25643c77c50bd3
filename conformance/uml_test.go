package conformance

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/umlvde/umlvde/internal/rig"
)

const bootTime = 30 * time.Second

// kernels are the UML kernels that the rows are tried with.
var kernels = []string{"6.1", "6.12", "7"}

// taught are the plugins whose throughput is looked at with a real guest, too.
var taught = []string{"vde", "tap", "slirp", "cmd", "vxvde"}

// guestRows are the rows that a UML guest has a device for: the first of each
// plugin that needs nothing but a VNL.
func guestRows() (list []*row) {
	var seen []string
	for _, r := range rows {
		if slices.Contains(seen, r.plugin) || r.plugin == "null" || r.plugin == "seqpacket" {
			continue
		}
		seen = append(seen, r.plugin)
		list = append(list, r)
	}
	return list
}

// TestKernels boots each kernel with a device for each plugin, and pings what is
// at the other end.
func TestKernels(t *testing.T) {
	for _, version := range kernels {
		t.Run(version, func(t *testing.T) {
			hosts := lan(t, 2)
			var devices []string
			var places []*place
			for i, r := range guestRows() {
				p := &place{t: t, row: r, dir: rig.TempDir(t), near: hosts[0], far: hosts[0], parts: make(map[string]any)}
				if r.hosts > 0 {
					p.far = hosts[1]
				}
				if r.start != nil {
					r.start(p)
				}
				places = append(places, p)
				vnl := p.fill(r.vnl)
				if version != "6.1" { // the kernel itself starts the helper
					vnl = strings.NewReplacer("=", "%3D", ",", "%2C", " ", "%20").Replace(vnl)
				}
				devices = append(devices, fmt.Sprintf("vec%d:transport=vde,vnl=%s", i, vnl))
			}
			var before []string
			if version == "6.1" {
				before = []string{rig.Umlvde(), "run", "--"}
			}
			var u *rig.UML
			hosts[0].Do(func() { u = rig.Boot(t, rig.Kernel(t, version), before, devices, nil) })
			for i, p := range places {
				u.Must(bootTime, fmt.Sprintf("ip link set vec%d up", i)) // and the helper starts
				server, address := p.other(i)
				own := fmt.Sprintf("10.50.%d.1", i)
				if p.row.plugin == "slirp" {
					own = "10.0.2.15"
				}
				u.Must(bootTime, fmt.Sprintf("ip addr add %s/24 dev vec%d", own, i))
				u.Must(bootTime, fmt.Sprintf("for i in 1 2 3 4 5 6 7 8; do busybox ping -c 2 -i 0.1 -W 1 %s && break; done", address))
				if version == "6.12" && slices.Contains(taught, p.row.plugin) {
					t.Logf("%s: TCP out of the guest %.0f Mbit/s", p.row.vnl, tcp(t, u, server, address))
				}
			}
			if code := u.PowerOff(); code != 0 {
				t.Errorf("exit status %d", code)
			}
		})
	}
}

// other makes the other end of the guest's device i: where it is and its
// address.
func (p *place) other(i int) (*rig.Namespace, string) {
	p.t.Helper()
	address := fmt.Sprintf("10.50.%d.2", i)
	switch p.row.plugin {
	case "slirp":
		return p.near, "10.0.2.2"
	case "tap":
		p.near.Sh("ip addr add " + address + "/24 dev tap0")
		return p.near, address
	case "pcap":
		n := rig.NewNamespace(p.t)
		p.near.Sh("ip link set veth1 netns " + n.Path())
		n.Sh("ip link set veth1 up; ip addr add " + address + "/24 dev veth1")
		return n, address
	}
	var g *rig.Guest
	if strings.HasPrefix(p.row.far, "vde://{dir}/h") || strings.Contains(p.row.far, "{vde://{dir}/h}") {
		rig.Eventually(p.t, bootTime, "the guest's helper hosts the network", func() (ok bool) {
			p.near.Do(func() { ok = rig.Listens(p.t, filepath.Join(p.dir, "h", "ctl")) })
			return ok
		})
	}
	if p.row.cFloods || p.row.plugin == "udp" { // with which the C vde_plug ends if nobody is there yet
		g = guest(p.far, rig.HelperConfig{VNL: p.fill(p.row.far)})
	} else {
		g = cPlug(p.far, p.fill(p.row.far))
	}
	return newStack(p, g, address+"/24").ns, address
}

// tcp is how fast the guest sends to a server in a namespace, in Mbit/s.
func tcp(t *testing.T, u *rig.UML, n *rig.Namespace, address string) float64 {
	t.Helper()
	var server *rig.Proc
	out, err := os.Create(filepath.Join(rig.TempDir(t), "out"))
	must(t, err)
	defer out.Close()
	n.Do(func() {
		cmd := exec.Command("iperf3", "-s", "-1", "-f", "m", "--forceflush")
		cmd.Stdout = out
		server = rig.Start(t, cmd)
	})
	rig.Eventually(t, soon, "iperf3 listens", func() bool {
		text, err := os.ReadFile(out.Name())
		must(t, err)
		return strings.Contains(string(text), "listening")
	})
	u.Must(bootTime, fmt.Sprintf("iperf3 -c %s -t 1", address))
	server.Wait(bootTime)
	text, err := os.ReadFile(out.Name())
	must(t, err)
	m := regexp.MustCompile(`([\d.]+) Mbits/sec +receiver`).FindSubmatch(text)
	if m == nil {
		t.Fatalf("iperf3 received nothing:\n%s", text)
	}
	mbit, err := strconv.ParseFloat(string(m[1]), 64)
	must(t, err)
	if mbit < floor {
		t.Errorf("only %.0f Mbit/s", mbit)
	}
	return mbit
}

// TestThreeHosts has three hosts on a cloud: each hears the others' broadcasts,
// and only the one that is meant what is for it.
func TestThreeHosts(t *testing.T) {
	for _, vnl := range []string{"vxvde://239.9.9.9", "vxvde://ff05::99/if=eth0/v6", "vxvde:///grp=7"} {
		t.Run(vnl, func(t *testing.T) {
			var g []*rig.Guest
			for _, host := range lan(t, 3) {
				g = append(g, guest(host, rig.HelperConfig{VNL: vnl}))
				g[len(g)-1].WaitLine("link up", soon)
			}
			third := [6]byte{2, 0, 0, 0, 0, 0xc}
			settle(t, ways(g[0], g[1]), soon)
			settle(t, [2]*way{
				{from: g[0], to: g[2], fromMAC: nearMAC, toMAC: third, number: 1 << 20},
				{from: g[2], to: g[0], fromMAC: third, toMAC: nearMAC, number: 1 << 21},
			}, soon)
			for _, g := range g {
				g.Discard()
			}
			sent := frame(nearMAC, farMAC, 100, 7) // from the second to the first
			g[1].Send(sent, time.Second)
			if got := ours(g[0], soon); string(got) != string(sent) {
				t.Errorf("the first host got %x", got)
			}
			if got := ours(g[2], 100*time.Millisecond); got != nil {
				t.Errorf("the third host got what was for the first: %x", got)
			}
			sent = frame(broadcast, third, 100, 8)
			g[2].Send(sent, time.Second)
			for i := range 2 {
				if got := ours(g[i], soon); string(got) != string(sent) {
					t.Errorf("host %d did not get a broadcast, but %x", i+1, got)
				}
			}
		})
	}
}
