package conformance

import (
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/umlvde/umlvde/internal/rig"
	"golang.org/x/sys/unix"
)

// rows is the table: every VNL that VDE users are taught.
var rows = []*row{
	{plugin: "vde", vnl: "{dir}/s", what: "a vde_switch", start: vdeSwitch, peer: restartSwitch, far: "vde://{dir}/s", largest: 1514},
	{plugin: "vde", vnl: "vde://{dir}/s", what: "the same", start: vdeSwitch, peer: restartSwitch, far: "{dir}/s", largest: 1514},
	{plugin: "vde", vnl: "vde://{dir}/s[5]", what: "port 5 of it", start: vdeSwitch, peer: restartSwitch, far: "vde://{dir}/s[port=6]", largest: 1514},
	{plugin: "vde", vnl: "vde://{dir}/s[portgroup=7]", what: "a group of ports", start: vdeSwitch, peer: restartSwitch, far: "vde://{dir}/s", largest: 1514},
	{plugin: "vde", vnl: "vde://{dir}/s[mode=0770/group=root]", what: "who may use the socket", start: vdeSwitch, peer: restartSwitch, far: "vde://{dir}/s", largest: 1514},
	{plugin: "vde", vnl: "", what: "~/.vdeplug/default", env: "HOME={dir}", start: vdeplugDefault, peer: restartSwitch, far: "vde://{dir}/s", largest: 1514},
	{plugin: "vde", vnl: "", what: "~/.vde2/default.switch", env: "HOME={dir}", start: vde2Default, peer: restartSwitch, far: "vde://{dir}/s", largest: 1514},
	{plugin: "vde", vnl: "{dir}/file", what: "the VNL is in a file", start: vnlInFile, peer: restartSwitch, far: "vde://{dir}/s", largest: 1514},

	{plugin: "tap", vnl: "tap://tap0", what: "a tap interface of the host", start: tap, peer: downAndUp("tap0"), open: openInterface("tap0"), largest: 9014},
	{plugin: "pcap", vnl: "pcap://veth0", what: "any interface of the host", start: veth, peer: downAndUp("veth0"), open: openInterface("veth1"), largest: 1514},

	{plugin: "udp", vnl: "udp://127.0.0.1:5001->127.0.0.1:5002", what: "a cable over UDP", far: "udp://127.0.0.1:5002->127.0.0.1:5001", largest: 9014, lossy: true},
	{plugin: "udp", vnl: "udp://5001->localhost:5002", what: "with a name", far: "udp://localhost:5002->localhost:5001", largest: 9014, lossy: true},
	{plugin: "udp", vnl: "udp://::1:5001->::1:5002", what: "over IPv6", far: "udp://::1:5002->::1:5001", largest: 9014, lossy: true},
	{plugin: "ptp", vnl: "ptp://{dir}/p", what: "a cable between two", far: "ptp://{dir}/p", largest: 9014, remains: []string{"p", "p+"}},
	{plugin: "vxvde", vnl: "vxvde://239.9.9.9", what: "a LAN cloud over multicast", hosts: 2, far: "vxvde://239.9.9.9", lossy: true, largest: 1514},
	{plugin: "vxvde", vnl: "vxvde://239.9.9.9/port=14000/vni=7/ttl=2/if=eth0", what: "with parameters", hosts: 2, far: "vxvde://239.9.9.9/port=14000/vni=7/ttl=2/if=eth0", lossy: true, largest: 1514},
	{plugin: "vxvde", vnl: "vxvde://ff05::99/if=eth0/v6", what: "over IPv6", hosts: 2, far: "vxvde://ff05::99/if=eth0/v6", lossy: true, largest: 1514},
	{plugin: "vxlan", vnl: "vxlan://239.9.9.8", what: "a VXLAN", hosts: 2, far: "vxlan://239.9.9.8", lossy: true, cFloods: true, largest: 1514},
	{plugin: "vxlan", vnl: "vxlan://239.9.9.8/port=4800/vni=9/ttl=2/if=eth0", what: "with parameters", hosts: 2, far: "vxlan://239.9.9.8/port=4800/vni=9/ttl=2/if=eth0", lossy: true, cFloods: true, largest: 1514},

	{plugin: "hub", vnl: "hub://{dir}/h", what: "a hub that umlvde hosts", far: "vde://{dir}/h", largest: 9014, remains: []string{"h", "h/ctl", "h/fdN"}},
	{plugin: "switch", vnl: "switch://{dir}/h", what: "a switch that umlvde hosts", far: "vde://{dir}/h", largest: 9014, remains: []string{"h", "h/ctl", "h/fdN"}},
	{plugin: "multi", vnl: "multi://{dir}/h", what: "many cables to one", far: "vde://{dir}/h", largest: 9014, remains: []string{"h", "h/ctl", "h/fdN"}},
	{plugin: "bonding", vnl: "bonding://{dir}/h", what: "many cables in turn", far: "vde://{dir}/h", largest: 9014, remains: []string{"h", "h/ctl", "h/fdN"}},

	{plugin: "cmd", vnl: "cmd://vde_plug vde://{dir}/s", what: "a command's standard input and output", start: vdeSwitch, peer: restartSwitch, far: "vde://{dir}/s", largest: 1514},
	{plugin: "cmd", vnl: `cmd://sh -c 'exec vde_plug "$0"' "vde://{dir}/s"`, what: "with quotes", start: vdeSwitch, peer: restartSwitch, far: "vde://{dir}/s", largest: 1514},

	{plugin: "cmd", vnl: "cmd://ssh -F {dir}/ssh/config remote vde_plug vde://{dir}/s", what: "on another machine", start: sshd, peer: restartSwitch, far: "vde://{dir}/s", largest: 1514},
	{plugin: "cmd", vnl: "cmd://ssh -F {dir}/ssh/config remote {umlvde} vde://{dir}/s", what: "the same with umlvde there", start: sshd, peer: restartSwitch, far: "vde://{dir}/s", largest: 1514},
	{plugin: "slirp", vnl: "slirp:///tcpfwd=5555:10.0.2.15:22,5556:10.0.2.15:23/mtu=1400", what: "the host's network, as an ordinary user", alone: slirpTest},
	{plugin: "null", vnl: "null://", what: "nowhere", alone: nullTest},
	{plugin: "seqpacket", vnl: "seqpacket://4", what: "a descriptor of the program that starts umlvde", start: socketPair, open: otherSocket, largest: 9014},
	{plugin: "vdesl", vnl: "vdesl://{dir}/a", what: "a serial line", start: serialLine, peer: replug, far: "vdesl://{dir}/b[speed=115200]", largest: 1514, slow: true},

	{plugin: "vlan", vnl: "vlan://5{hub://{dir}/h}", what: "in a VLAN of another network", far: "vlan://5{vde://{dir}/h}", largest: 9000, remains: []string{"h", "h/ctl", "h/fdN"}},
	{plugin: "agno", vnl: "agno://{dir}/key{hub://{dir}/h}", what: "another network, encrypted", start: key, far: "agno://{dir}/key{vde://{dir}/h}", largest: 9000, remains: []string{"h", "h/ctl", "h/fdN"}},
	{plugin: "vlan", vnl: "vlan://5/x{agno://{dir}/key{ptp://{dir}/p}}", what: "both, a VLAN inside", start: key, far: "vlan://5/x{agno://{dir}/key{ptp://{dir}/p}}", largest: 9000, remains: []string{"p", "p+"}},
	{plugin: "agno", vnl: "agno://{dir}/key{vlan://5{udp://5001->127.0.0.1:5002}}", what: "both, a VLAN outside", start: key, far: "agno://{dir}/key{vlan://5{udp://5002->127.0.0.1:5001}}", largest: 9000, lossy: true},
}

func vdeSwitch(p *place) {
	p.t.Helper()
	p.parts["switch"] = rig.Switch(p.t, filepath.Join(p.dir, "s"))
}

func socketPair(p *place) {
	p.t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	must(p.t, err)
	p.inherit = []*os.File{os.NewFile(uintptr(pair[0]), "pair")}
	p.parts["socket"] = &raw{p.t, pair[1]}
	p.t.Cleanup(func() {
		p.inherit[0].Close()
		unix.Close(pair[1])
	})
}

func otherSocket(p *place) end { return p.parts["socket"].(*raw) }

// nullTest sends frames to nowhere, all of which are counted as delivered.
func nullTest(p *place, g *rig.Guest) {
	p.t.Helper()
	for range 1000 {
		if !g.Send(rig.Frame(60, 0), time.Second) {
			p.t.Fatal("the guest's socket was not read for 1 s")
		}
	}
	g.Close()
	g.WaitLine(`guest to network 1000 frames .*, 0 dropped; network to guest 0 frames`, soon)
}

func restartSwitch(p *place) {
	p.t.Helper()
	kill := p.parts["switch"].(*rig.Proc)
	kill.Signal(os.Kill)
	kill.Wait(soon)
	vdeSwitch(p)
}

func downAndUp(name string) func(p *place) {
	return func(p *place) {
		p.t.Helper()
		p.near.Sh("ip link set " + name + " down; ip link set " + name + " up")
	}
}

func vdeplugDefault(p *place) {
	p.t.Helper()
	vdeSwitch(p)
	must(p.t, os.Mkdir(filepath.Join(p.dir, ".vdeplug"), 0o700))
	must(p.t, os.Symlink(filepath.Join(p.dir, "s"), filepath.Join(p.dir, ".vdeplug", "default")))
}

func vde2Default(p *place) {
	p.t.Helper()
	vdeSwitch(p)
	must(p.t, os.Mkdir(filepath.Join(p.dir, ".vde2"), 0o700))
	must(p.t, os.Symlink(filepath.Join(p.dir, "s"), filepath.Join(p.dir, ".vde2", "default.switch")))
}

func vnlInFile(p *place) {
	p.t.Helper()
	vdeSwitch(p)
	must(p.t, os.WriteFile(filepath.Join(p.dir, "file"), []byte("vde://"+p.dir+"/s\n"), 0o600))
}

func tap(p *place) {
	p.t.Helper()
	p.near.Sh("ip tuntap add tap0 mode tap; ip link set tap0 mtu 9000 up")
}

func veth(p *place) {
	p.t.Helper()
	p.near.Sh("ip link add veth0 type veth peer name veth1; ip link set veth0 up; ip link set veth1 up")
}

func openInterface(name string) func(p *place) end {
	return func(p *place) end { return openInterfaceIn(p.near, name) }
}

func key(p *place) {
	p.t.Helper()
	must(p.t, os.WriteFile(filepath.Join(p.dir, "key"), []byte(strings.Repeat("07", 16)), 0o600))
}
