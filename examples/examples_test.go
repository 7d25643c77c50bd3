// Package examples runs the programs below it with real switches and guests.
package examples

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/umlvde/umlvde/adapters/gopacketio"
	"github.com/umlvde/umlvde/internal/rig"
	"github.com/umlvde/umlvde/libvdeplug"
)

// bin is where the examples are.
var bin string

type run func() int

func (r run) Run() int { return r() }

func TestMain(m *testing.M) {
	os.Exit(rig.Main(run(func() int {
		dir, err := os.MkdirTemp("", "examples")
		if err == nil {
			defer os.RemoveAll(dir)
			bin = dir
			var out []byte
			args := []string{"build", "-o", dir + "/"}
			if rig.Race {
				args = append(args, "-race")
			}
			if out, err = exec.Command("go", append(args, "./...")...).CombinedOutput(); err != nil {
				err = fmt.Errorf("building the examples: %w\n%s", err, out)
			}
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return m.Run()
	})))
}

const soon = 30 * time.Second

// start starts an example and waits until it has said that it is ready.
func start(t *testing.T, ready, name string, args ...string) *rig.Proc {
	t.Helper()
	p := rig.Start(t, exec.Command(filepath.Join(bin, name), args...))
	p.WaitLine(ready, soon)
	return p
}

// interrupt ends an example as a user does.
func interrupt(t *testing.T, p *rig.Proc) {
	t.Helper()
	p.Signal(os.Interrupt)
	if status := p.Wait(soon); status != 0 {
		t.Errorf("%s ended with %d", filepath.Base(p.Cmd.Path), status)
	}
}

// newSwitch starts a switch and returns its VNL.
func newSwitch(t *testing.T) (string, *rig.Proc) {
	t.Helper()
	dir := filepath.Join(rig.TempDir(t), "s")
	p := rig.Switch(t, dir)
	return "vde://" + dir, p
}

// guest boots a guest that is plugged in.
func guest(t *testing.T, vnl string) *rig.UML {
	t.Helper()
	u := rig.Boot(t, rig.Kernel(t, "6.12"), nil, []string{"vec0:transport=vde,vnl=" + vnl}, nil)
	u.Must(soon, "ip link set vec0 up")
	return u
}

// greeted has a guest, as 10.0.0.7, fetch the page of webserver, which may not be
// ready at once.
func greeted(t *testing.T, u *rig.UML) {
	t.Helper()
	u.Must(soon, "ip addr replace 10.0.0.7/24 dev vec0")
	page := u.Must(soon, "for i in 1 2 3 4 5; do busybox wget -q -O - http://10.0.0.1/ && break; sleep 0.2; done")
	if !strings.Contains(page, "Hello, 10.0.0.7:") {
		t.Errorf("the page is %q", page)
	}
}

// dhcp has a guest get an address from a DHCP server, and returns it.
func dhcp(t *testing.T, u *rig.UML) string {
	t.Helper()
	script := filepath.Join(u.Dir, "udhcpc")
	text := "#!/bin/sh\n[ \"$1\" != bound ] || { ip addr add $ip/$mask dev $interface; [ -z \"$router\" ] || ip route add default via $router; }\n"
	if err := os.WriteFile(script, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	u.Must(soon, "busybox udhcpc -i vec0 -n -q -f -t 10 -T 1 -s "+script)
	// Debian 13 has colours on a terminal, which the guest's console is.
	m := regexp.MustCompile(`inet ([0-9.]+)/`).FindStringSubmatch(u.Must(soon, "ip -color=never -4 addr show dev vec0"))
	if m == nil {
		t.Fatal("the guest has no address")
	}
	return m[1]
}

func ping(u *rig.UML, address string) {
	u.Must(soon, "for i in 1 2 3 4 5; do busybox ping -c 2 -W 1 "+address+" && break; done")
}

// An example that is interrupted unplugs: a hub of its own leaves nothing behind.
func TestInterrupt(t *testing.T) {
	for name, networks := range map[string]int{"webserver": 1, "dhcpd": 1, "sniff": 1, "gvproxy": 1, "cable": 2} {
		for _, signal := range []os.Signal{os.Interrupt, syscall.SIGTERM} {
			t.Run(fmt.Sprint(name, " ", signal), func(t *testing.T) {
				dir := rig.TempDir(t)
				var vnls []string
				for n := range networks {
					vnls = append(vnls, fmt.Sprintf("hub://%s/%d", dir, n))
				}
				p := start(t, "serving|listening|joining", name, vnls...)
				p.Signal(signal)
				if status := p.Wait(soon); status != 0 {
					t.Errorf("it ended with %d", status)
				}
				if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
					t.Errorf("left behind: %v, %v", left, err)
				}
			})
		}
	}
}

// An example that is interrupted while it waits for a switch ends as well.
func TestInterruptOpen(t *testing.T) {
	for _, name := range []string{"webserver", "dhcpd", "sniff", "gvproxy", "cable"} {
		t.Run(name, func(t *testing.T) {
			dir := rig.TempDir(t)
			silent, err := net.Listen("unix", filepath.Join(dir, "ctl"))
			if err != nil {
				t.Fatal(err)
			}
			defer silent.Close()
			args := []string{"vde://" + dir}
			if name == "cable" {
				args = append(args, "null://")
			}
			p := rig.Start(t, exec.Command(filepath.Join(bin, name), args...))
			asked, err := silent.Accept()
			if err != nil {
				t.Fatal(err)
			}
			defer asked.Close()
			interrupt(t, p)
		})
	}
}

// Without a VNL, an example does not go to the default network.
func TestUsage(t *testing.T) {
	for _, name := range []string{"webserver", "dhcpd", "sniff", "gvproxy", "cable"} {
		t.Run(name, func(t *testing.T) {
			p := start(t, "usage: "+name+" .*VNL$", name)
			if status := p.Wait(soon); status != 1 {
				t.Errorf("it ended with %d", status)
			}
		})
	}
}

func TestWebserver(t *testing.T) {
	vnl, sw := newSwitch(t)
	p := start(t, "serving http://10.0.0.1/ on", "webserver", vnl)
	u := guest(t, vnl)
	greeted(t, u)
	ping(u, "10.0.0.1")
	sw.Signal(syscall.SIGKILL)
	p.WaitLine("the network has ended: EOF", soon)
	if status := p.Wait(soon); status != 1 {
		t.Errorf("it ended with %d", status)
	}
}

func TestWebserverOutlivesItsSwitch(t *testing.T) {
	t.Setenv("PATH", rig.BinDir()+":"+os.Getenv("PATH"))
	vnl, sw := newSwitch(t)
	p := start(t, "serving http://10.0.0.1/ on", "webserver", "-outlive", vnl)
	u := guest(t, vnl)
	greeted(t, u)
	sw.Signal(syscall.SIGKILL)
	p.WaitLine("no network: .*EOF", soon)
	sw.Wait(soon)
	rig.Switch(t, strings.TrimPrefix(vnl, "vde://"))
	p.WaitLine("network again", soon)
	u.Proc.WaitLine("link up again", soon)
	greeted(t, u)
	interrupt(t, p)
}

func TestDhcpd(t *testing.T) {
	vnl, sw := newSwitch(t)
	p := start(t, "serving 10.7.0.0/29 on", "dhcpd", "-network", "10.7.0.0/29", vnl)
	a, b := guest(t, vnl), guest(t, vnl)
	if got := dhcp(t, a); got != "10.7.0.2" {
		t.Errorf("the first guest is %s", got)
	}
	if got := dhcp(t, b); got != "10.7.0.3" {
		t.Errorf("the second guest is %s", got)
	}
	ping(b, "10.7.0.2")
	ping(b, "10.7.0.1")
	a.Must(soon, "ip addr flush dev vec0")
	if got := dhcp(t, a); got != "10.7.0.2" {
		t.Errorf("then the first guest is %s", got)
	}
	for n := 4; n <= 7; n++ { // there are addresses up to 6
		a.Must(soon, fmt.Sprintf("ip addr flush dev vec0; ip link set vec0 down; ip link set vec0 address 02:00:00:00:00:0%d up", n))
		if n < 7 {
			if got := dhcp(t, a); got != fmt.Sprint("10.7.0.", n) {
				t.Errorf("a guest is %s, not 10.7.0.%d", got, n)
			}
			continue
		}
		if out, status := a.Do(soon, "busybox udhcpc -i vec0 -n -q -f -t 2 -T 1 -s /bin/true"); status == 0 {
			t.Errorf("one too many got an address: %s", out)
		}
	}
	p.WaitLine("no address is left for 02:00:00:00:00:07", soon)
	sw.Signal(syscall.SIGKILL)
	p.WaitLine("the network has ended: EOF", soon)
	if status := p.Wait(soon); status != 1 {
		t.Errorf("it ended with %d", status)
	}
}

// dhcpRequest is a frame in which a client takes a server's offer.
func dhcpRequest(t *testing.T, client byte, server net.IP) []byte {
	t.Helper()
	mac := net.HardwareAddr{2, 0, 0, 0, 0, client}
	ip := &layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolUDP, SrcIP: net.IPv4zero, DstIP: net.IPv4bcast}
	udp := &layers.UDP{SrcPort: 68, DstPort: 67}
	buf := gopacket.NewSerializeBuffer()
	err := errors.Join(udp.SetNetworkLayerForChecksum(ip),
		gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true},
			&layers.Ethernet{SrcMAC: mac, DstMAC: layers.EthernetBroadcast, EthernetType: layers.EthernetTypeIPv4}, ip, udp,
			&layers.DHCPv4{
				Operation: layers.DHCPOpRequest, HardwareType: layers.LinkTypeEthernet, ClientHWAddr: mac, Options: layers.DHCPOptions{
					layers.NewDHCPOption(layers.DHCPOptMessageType, []byte{byte(layers.DHCPMsgTypeRequest)}),
					layers.NewDHCPOption(layers.DHCPOptServerID, server.To4()),
				},
			}))
	if err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// Who takes the offer of another server gets no answer and no address.
func TestDhcpdLeavesOthersClients(t *testing.T) {
	vnl, _ := newSwitch(t)
	start(t, "serving 10.7.0.0/29 on", "dhcpd", "-network", "10.7.0.0/29", vnl)
	c, err := libvdeplug.Open(vnl, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	handle := gopacketio.New(c)
	for n, server := range []net.IP{net.IPv4(10, 7, 0, 99), net.IPv4(10, 7, 0, 1)} {
		if err := handle.WritePacketData(dhcpRequest(t, byte(n), server)); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.SetReadDeadline(time.Now().Add(soon)); err != nil {
		t.Fatal(err)
	}
	for packet := range gopacket.NewPacketSource(handle, layers.LayerTypeEthernet).Packets() {
		if reply, ok := packet.Layer(layers.LayerTypeDHCPv4).(*layers.DHCPv4); ok {
			if reply.ClientHWAddr[5] != 1 || reply.YourClientIP.String() != "10.7.0.2" {
				t.Errorf("%v is for %v", reply.YourClientIP, reply.ClientHWAddr)
			}
			return
		}
	}
	t.Error("there is no answer")
}

func TestSniff(t *testing.T) {
	vnl, _ := newSwitch(t)
	file := filepath.Join(rig.TempDir(t), "lan.pcapng")
	printed, err := os.Create(file + ".txt")
	if err != nil {
		t.Fatal(err)
	}
	defer printed.Close()
	cmd := exec.Command(filepath.Join(bin, "sniff"), "-w", file, vnl)
	cmd.Stdout = printed
	p := rig.Start(t, cmd)
	p.WaitLine("listening on", soon)
	u := guest(t, vnl)
	u.Must(soon, "ip addr add 10.0.0.7/24 dev vec0")
	u.Do(soon, "busybox arping -c 2 -w 2 -I vec0 10.0.0.99") // nobody answers
	rig.Eventually(t, soon, "it is printed", func() bool {
		text, err := os.ReadFile(printed.Name())
		if err != nil {
			t.Fatal(err)
		}
		return regexp.MustCompile(`(?m)^\d\d:\d\d:\d\d\.\d{6} Ethernet ARP ([0-9a-f:]{17})->ff:ff:ff:ff:ff:ff, \d+ bytes$`).Match(text)
	})
	interrupt(t, p)
	out, err := exec.Command("tcpdump", "-n", "-r", file).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "ARP, Request who-has 10.0.0.99") {
		t.Errorf("tcpdump reads, %v:\n%s", err, out)
	}
}

func TestCable(t *testing.T) {
	left, _ := newSwitch(t)
	right, sw := newSwitch(t)
	start(t, "serving", "webserver", left)
	p := start(t, "joining", "cable", left, right)
	u := guest(t, right)
	greeted(t, u)
	interrupt(t, p)
	p.WaitLine("carried .*[1-9]", soon)
	p = start(t, "joining", "cable", left, right)
	sw.Signal(syscall.SIGKILL)
	if status := p.Wait(soon); status != 0 {
		t.Errorf("with a switch, it ended with %d", status)
	}
}

// TestGvproxy is also the proof that a Conn is all that AcceptBess wants.
func TestGvproxy(t *testing.T) {
	vnl, _ := newSwitch(t)
	p := start(t, "serving", "gvproxy", vnl)
	u := guest(t, vnl)
	if got := dhcp(t, u); !strings.HasPrefix(got, "192.168.127.") {
		t.Errorf("the guest is %s", got)
	}
	ping(u, "192.168.127.1")
	host := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, strings.Repeat("The host greets the guest.\n", 10000))
	}))
	defer host.Close()
	_, port, err := net.SplitHostPort(host.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	odd, err := libvdeplug.Open(vnl, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer odd.Close()
	for size := libvdeplug.MinFrameSize; size <= 1518; size++ { // frames of any size harm nothing
		frame := rig.Frame(size, 0)
		copy(frame, []string{"\x5a\x94\xef\xe4\x0c\xdd", "\xff\xff\xff\xff\xff\xff"}[size%2])
		copy(frame[12:], []string{"\x08\x00", "\x08\x06", "\x86\xdd"}[size%3])
		if _, err := odd.Write(frame); err != nil {
			t.Fatal(err)
		}
	}
	got := u.Must(soon, "busybox wget -q -O - http://192.168.127.254:"+port+"/ | busybox wc")
	if strings.Join(strings.Fields(got), " ") != "10000 50000 270000" {
		t.Errorf("of the host's page came %s", got)
	}
	interrupt(t, p)
}
