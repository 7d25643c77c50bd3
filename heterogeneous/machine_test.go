package heterogeneous

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"github.com/umlvde/umlvde/internal/rig"
)

// A node is where a machine is plugged into a network: a namespace, if the
// network connects namespaces, and the network's name there.
type node struct {
	before []string // what enters the namespace
	vnl    string
}

// A machine is one on the network under test.
type machine struct {
	*rig.Console
	iface string // "" if it has no kernel of its own
	ip    string
	grows bool // its MTU is 1500 until somebody sets another
}

// A kind is a kind of machine.
type kind struct {
	name string
	// start starts one in a network that carries packets as long as mtu.
	start func(t *testing.T, at node, ip string, mtu int) *machine
	// check talks with it from the guest, whose random bytes have the checksum sum.
	check func(t *testing.T, guest, m *machine, nw network, sum string)
}

// kinds are the machines that a UML guest meets. QEMU is the first, as it boots
// while the others are started.
var kinds = []kind{
	{"QEMU", startQEMU, checkKernel},
	{"UML 6.1 under run", startRun, checkKernel},
	{"UML 6.12 behind a C cable", startBehindCable, checkKernel},
	{"vdens", startVdens, checkKernel},
	{"namespace behind a tap and a C cable", behindTap(cPlug), checkKernel},
	{"namespace behind a tap and a cable of umlvde", behindTap(""), checkKernel},
	{"Go program", startStation, checkStation},
	{"Go program with gVisor's TCP", startWebserver, checkWebserver},
}

// bigMTU is what every machine here can take.
const bigMTU = 9000

// startUML boots a UML kernel whose vec0 is in the network: by the program in
// before, or by itself with umlvde as its vde_plug. Its MTU cannot grow later.
func startUML(t *testing.T, at node, version, ip string, mtu int, before ...string) *machine {
	t.Helper()
	u := rig.Boot(t, rig.Kernel(t, version), slices.Concat(at.before, before),
		[]string{fmt.Sprintf("vec0:transport=vde,vnl=%s,mtu=%d", at.vnl, mtu)}, nil)
	return &machine{u.Console, "vec0", ip, false}
}

func startRun(t *testing.T, at node, ip string, mtu int) *machine {
	t.Helper()
	return startUML(t, at, "6.1", ip, mtu, rig.Umlvde(), "run", "--")
}

func startQEMU(t *testing.T, at node, ip string, _ int) *machine {
	t.Helper()
	q := rig.StartQEMU(t, at.before, "vde,sock="+at.vnl, "02:00:00:00:01:01")
	return &machine{q.Console, "eth0", ip, true}
}

// startVdens starts a shell in a namespace that vdens, of VirtualSquare,
// connects.
func startVdens(t *testing.T, at node, ip string, _ int) *machine {
	t.Helper()
	sh := rig.StartShell(t, slices.Concat(at.before, []string{"vdens", at.vnl})...)
	return &machine{sh, "vde0", ip, true}
}

// behindTap starts a shell in a namespace with a tap interface, and a program
// as the cable between that and the network.
func behindTap(program string) func(t *testing.T, at node, ip string, mtu int) *machine {
	return func(t *testing.T, at node, ip string, _ int) *machine {
		t.Helper()
		if at.before == nil {
			at.before = rig.NewNamespace(t).Enter()
		}
		cable(t, program, at.before, "tap://tap0", at.vnl)
		sh := rig.StartShell(t, at.before...)
		return &machine{sh, "tap0", ip, true}
	}
}

// startBehindCable boots a UML kernel on a switch that umlvde serves, and the C
// vde_plug as a cable from that to the network.
func startBehindCable(t *testing.T, at node, ip string, mtu int) *machine {
	t.Helper()
	dir := filepath.Join(rig.TempDir(t), "s")
	m := startUML(t, node{at.before, "switch://" + dir}, "6.12", ip, mtu)
	m.up(t)
	m.awaitSwitch(t, dir)
	cable(t, cPlug, at.before, "vde://"+dir, at.vnl)
	return m
}

// startStation starts a Go program on package libvdeplug, which is this one.
func startStation(t *testing.T, at node, ip string, _ int) *machine {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	argv := slices.Concat(at.before, []string{self})
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), stationEnv+"="+at.vnl+" "+ip)
	return &machine{rig.StartProgram(t, cmd), "", ip, false}
}

// startWebserver starts the web server of the examples, which has gVisor's
// TCP/IP on package libvdeplug, and answers pings, too.
func startWebserver(t *testing.T, at node, ip string, _ int) *machine {
	t.Helper()
	program := filepath.Join(rig.TempDir(t), "webserver")
	build := exec.Command("go", "build", "-buildvcs=false", "-o", program, "./webserver")
	build.Dir = "../examples" // a module of its own
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building the web server: %v\n%s", err, out)
	}
	argv := slices.Concat(at.before, []string{program, "-address", ip + "/24", at.vnl})
	p := rig.Start(t, exec.Command(argv[0], argv[1:]...))
	p.WaitLine("serving http://"+ip, soon)
	return &machine{nil, "", ip, false}
}

// cPlug is the vde_plug of VirtualSquare.
const cPlug = "/usr/bin/vde_plug"

// cable starts a program, umlvde if it is "", between two networks.
func cable(t *testing.T, program string, before []string, a, b string) {
	t.Helper()
	if program == "" {
		program = rig.Umlvde()
	}
	argv := slices.Concat(before, []string{program, a, b})
	rig.Start(t, exec.Command(argv[0], argv[1:]...))
}

// awaitSwitch waits until a guest's helper serves the switch in dir.
func (m *machine) awaitSwitch(t *testing.T, dir string) {
	t.Helper()
	rig.Eventually(t, soon, "the switch is there", func() bool { return m.Proc.Listens(dir + "/ctl") })
}

// up gives the machine its address.
func (m *machine) up(t *testing.T) {
	t.Helper()
	m.must(t, fmt.Sprintf("ip link set %[1]s up && ip addr replace %[2]s/24 dev %[1]s", m.iface, m.ip))
}

// serve makes it an iperf3 server, and a web server for some random bytes, and
// returns their checksum.
func (m *machine) serve(t *testing.T) (sum string) {
	t.Helper()
	m.must(t, "mkdir $HOME/www && dd if=/dev/urandom of=$HOME/www/bytes bs=64k count=48 2>/dev/null")
	m.must(t, "busybox httpd -f -p 80 -h $HOME/www & iperf3 -s >/dev/null 2>&1 &")
	return m.must(t, "sha256sum <$HOME/www/bytes")
}

// must runs a command that has to succeed.
func (m *machine) must(t *testing.T, command string) string {
	t.Helper()
	out, status := m.Do(patience, command)
	if status != 0 {
		t.Fatalf("%q ended with %d:\n%s", command, status, out)
	}
	return out
}
