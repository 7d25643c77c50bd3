package conformance

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/umlvde/umlvde/internal/leak"
	"github.com/umlvde/umlvde/internal/rig"
	"github.com/umlvde/umlvde/libvdeplug"
	"golang.org/x/sys/unix"
)

// A trap is something that a plugin does to its caller.
type trap struct {
	plugin  string
	does    string // what the plugin does
	defence string // what umlvde does about it
	test    func(t *testing.T)
}

// traps are the known ones that a test of their own is for; others are shown by
// the rows of the table and by TestWrong.
var traps = []trap{
	{"vde", "blocks for ever in open, and leaves a socket there, if the switch has no such port", "other tries beside it, an end after 30 s, and what it left is removed", noSuchPort},
	{"vde, hub", "cuts paths of sockets that are too long", "they are refused, and the longest that fit work", longPaths},
	{"tap", "says nothing when the interface is deleted", "the link is reported as down, and up again when there is one", tapDeleted},
	{"pcap", "keeps its descriptor readable while the interface is down", "that costs no time", pcapDown},
	{"udp", "fails in receiving and sending as long as nobody listens", "those errors pass", udpRefused},
	{"slirp", "takes a message of 0 bytes for its end and one of 8 bytes for a pointer", "no frame shorter than 14 bytes gets there", slirpShort},
	{"slirp", "waits for the caller to read while that waits for it", "nobody waits: frames are dropped", slirpFlood},
	{"slirp", "is silent about ports that it cannot forward", "they are tried before, and the link is reported as down", slirpPortTaken},
	{"cmd", "loses the frames' boundaries if a frame comes in pieces", "commands are served without the plugin", cmdPieces},
	{"cmd", "sends back what it is given once the command has ended, and waits for a command that does not end", "the same", cmdEnds},
	{"hub", "spins if a client hangs up before it has said what it wants", "it is asked less and less often", hubSpin},
	{"hub", "writes to clients that are gone (SIGPIPE)", "the signal is ignored", hubVanish},
	{"hub", "works for its clients only while its host receives", "it receives, whether the guest takes the frames or not", hubPumped},
	{"vxvde", "leaks a descriptor in close", "it is closed before", vxvdeLeak},
	{"vxlan", "has one struct msghdr for all connections of a process", "they take turns in sending", vxlanTogether},
	{"vlan", "returns the buffer's length for that of a tagged frame", "the frame's own is looked up in the socket before", vlanLength},
	{"vlan", "writes beyond its memory if the last tag of a list has one digit", "a separator is put behind the list", vlanOneDigit},
	{"vlan", "changes the tag in the caller's memory", "it gets a copy", vlanBuffer},
	{"vlan", "crashes by a tagged frame with no room for the tag", "frames under 18 bytes do not get there", vlanShort},
	{"agno", "crashes by the first bytes of a frame that somebody recorded", "frames under 46 bytes do not get there", agnoShort},
	{"agno", "writes up to 14 bytes beyond the caller's memory", "there is room for them", agnoLong},
	{"agno", "hides the end of the other network and spins", "the end is seen before agno sees it", agnoEnd},
	{"vdesl", "spins when the line is hung up", "that is the end of the link, which is tried again", vdeslHangUp},
	{"vdesl", "waits for the rest of a frame", "the guest goes on meanwhile", vdeslRest},
}

func TestTraps(t *testing.T) {
	for _, c := range traps {
		t.Run(c.plugin+" "+c.does, c.test)
	}
}

// served is a helper that serves a VNL, without a row.
func served(t *testing.T, vnl string, start func(*place)) (*place, *rig.Guest) {
	t.Helper()
	p := newPlace(t, &row{vnl: vnl, start: start})
	g := p.helper()
	g.WaitLine("link up", soon)
	return p, g
}

// stays expects that no worker has ended since the link came up.
func stays(t *testing.T, g *rig.Guest) {
	t.Helper()
	for _, line := range g.Lines() {
		if strings.Contains(line, "link down") {
			t.Errorf("it did not stay up: %s", line)
		}
	}
}

// lazy expects a helper's processes to use little time while f runs, 300 ms.
func lazy(t *testing.T, g *rig.Guest) {
	t.Helper()
	pids := append(g.Children(), g.Pid())
	used := func() (sum time.Duration) {
		for _, pid := range pids {
			text, err := os.ReadFile(fmt.Sprintf("/proc/%d/schedstat", pid))
			if err != nil {
				continue // it has ended
			}
			var ns int64
			_, err = fmt.Sscan(string(text), &ns)
			must(t, err)
			sum += time.Duration(ns)
		}
		return sum
	}
	before := used()
	time.Sleep(300 * time.Millisecond) // what is measured
	if d := used() - before; d > 100*time.Millisecond {
		t.Errorf("it used %v of CPU time in 300 ms", d)
	}
}

func noSuchPort(t *testing.T) {
	p := newPlace(t, &row{vnl: "vde://{dir}/s[99]", start: vdeSwitch})
	g := p.helper()
	g.WaitLine("link down: the plugin does not return from opening it; trying again", soon)
	for until := time.Now().Add(4 * time.Second); time.Now().Before(until); time.Sleep(10 * time.Millisecond) { // a few tries
		if !g.Send(rig.Frame(60, 0), 250*time.Millisecond) {
			t.Fatal("the guest's socket was not read for 250 ms")
		}
	}
	rig.Eventually(t, recovery, "the tries have left no sockets but the first one's and the last one's", func() bool {
		left, err := filepath.Glob(p.dir + "/s/.*-*")
		must(t, err)
		return len(left) <= 2
	})
}

func longPaths(t *testing.T) {
	for _, c := range []struct {
		vnl   string
		bytes int
		start func(*place)
	}{{"hub://{dir}/", 103, nil}, {"vde://{dir}/", 92, nil}} {
		p := newPlace(t, &row{})
		path := filepath.Join(p.dir, strings.Repeat("x", c.bytes-len(p.dir)-1))
		if strings.HasPrefix(c.vnl, "vde") {
			rig.Switch(t, path)
		}
		p.row.vnl = c.vnl + filepath.Base(path)
		g := p.helper()
		g.WaitLine("link up", soon)
		far := cPlug(p.far, "vde://"+path)
		if c.bytes > 92 {
			far = guest(p.far, rig.HelperConfig{VNL: "hub://" + path + "x"})
			far.WaitLine("the path is too long: it has 104 bytes, and may have 103", soon)
			continue
		}
		settle(t, ways(g, far), soon)
	}
}

func tapDeleted(t *testing.T) {
	p, g := served(t, "tap://tap0", tap)
	p.near.Sh("ip link del tap0")
	g.WaitLine("link down: .*the interface was deleted", soon)
	g.WaitLine("link up again", soon) // root may make one
	p.near.Sh("ip link set tap0 up")
	settle(t, ways(g, openInterfaceIn(p.near, "tap0")), soon)
}

func pcapDown(t *testing.T) {
	p, g := served(t, "pcap://veth0", veth)
	p.near.Sh("ip link set veth0 down")
	lazy(t, g)
	p.near.Sh("ip link set veth0 up")
	settle(t, ways(g, openInterfaceIn(p.near, "veth1")), soon)
}

func udpRefused(t *testing.T) {
	p, g := served(t, "udp://127.0.0.1:5001->127.0.0.1:5002", nil)
	for range 20 {
		g.Send(rig.Frame(60, 0), time.Second)
		time.Sleep(5 * time.Millisecond) // the error comes by ICMP
	}
	settle(t, ways(g, cPlug(p.far, "udp://127.0.0.1:5002->127.0.0.1:5001")), soon)
	stays(t, g)
}

// arp asks who has slirp's address and waits for the answer.
func arp(t *testing.T, g *rig.Guest) {
	t.Helper()
	request := make([]byte, 60)
	copy(request, "\xff\xff\xff\xff\xff\xff\x02\x00\x00\x00\x00\x0a\x08\x06\x00\x01\x08\x00\x06\x04\x00\x01"+
		"\x02\x00\x00\x00\x00\x0a\x0a\x00\x02\x0f\x00\x00\x00\x00\x00\x00\x0a\x00\x02\x02")
	g.Discard()
	for until := time.Now().Add(soon); time.Now().Before(until); {
		g.Send(request, time.Second)
		if f := g.Recv(100 * time.Millisecond); len(f) >= 42 && f[12] == 8 && f[13] == 6 && f[21] == 2 {
			return
		}
	}
	t.Fatal("slirp does not answer")
}

func slirpShort(t *testing.T) {
	_, g := served(t, "slirp://", nil)
	for n := 1; n < 14; n++ {
		g.Send(make([]byte, n), time.Second)
	}
	_ = unix.Sendto(g.Fd, nil, unix.MSG_DONTWAIT, nil) // an empty message, which is no frame
	arp(t, g)
	stays(t, g)
}

func slirpFlood(t *testing.T) {
	_, g := served(t, "slirp://", nil)
	request := make([]byte, 60)
	copy(request, "\xff\xff\xff\xff\xff\xff\x02\x00\x00\x00\x00\x0a\x08\x06\x00\x01\x08\x00\x06\x04\x00\x01"+
		"\x02\x00\x00\x00\x00\x0a\x0a\x00\x02\x0f\x00\x00\x00\x00\x00\x00\x0a\x00\x02\x02")
	for until := time.Now().Add(time.Second); time.Now().Before(until); {
		if !g.Send(request, 250*time.Millisecond) { // and no answer is read
			t.Fatal("the guest's socket was not read for 250 ms")
		}
	}
	arp(t, g)
	stays(t, g)
}

func slirpPortTaken(t *testing.T) {
	p := newPlace(t, &row{vnl: "slirp:///tcpfwd=5555:10.0.2.15:22"})
	l, err := listenIn(p.near, "0.0.0.0:5555")
	must(t, err)
	g := p.helper()
	g.WaitLine("link down: port 5555 cannot be forwarded: .*address already in use; trying again", soon)
	l.Close()
	g.WaitLine("link up again", recovery)
}

func cmdPieces(t *testing.T) {
	p := newPlace(t, &row{vnl: "cmd://sh {dir}/script"})
	script := new(strings.Builder)
	for number := range uint32(3) {
		f := frame(nearMAC, farMAC, 100, number)
		stream := append(binary.BigEndian.AppendUint16(nil, uint16(len(f))), f...)
		for _, piece := range [][]byte{stream[:1], stream[1:3], stream[3:]} {
			for _, b := range piece {
				fmt.Fprintf(script, "printf '\\%03o'\n", b)
			}
			script.WriteString("sleep 0.05\n")
		}
	}
	script.WriteString("cat >/dev/null\n")
	must(t, os.WriteFile(filepath.Join(p.dir, "script"), []byte(script.String()), 0o600))
	g := p.helper()
	for number := range uint32(3) {
		if got := g.Recv(soon); !bytes.Equal(got, frame(nearMAC, farMAC, 100, number)) {
			t.Fatalf("frame %d came as %x", number, got)
		}
	}
}

func cmdEnds(t *testing.T) {
	_, g := served(t, "cmd://sh -c 'sleep 0.1; exit 3'", nil)
	g.WaitLine(`link down: the command ended \(exit status 3\)`, soon)
	for number := range uint32(50) {
		g.Send(rig.Frame(60, number), time.Second)
	}
	if f := g.Recv(300 * time.Millisecond); f != nil {
		t.Errorf("a frame came back: %x", f)
	}
	_, g = served(t, "cmd://sleep 1000", nil)
	g.Close()
	g.Wait(2 * time.Second)
}

// dial connects to the socket of a hub or switch, as a client does before it
// says what it wants.
func dial(t *testing.T, path string) net.Conn {
	t.Helper()
	var c net.Conn
	rig.Eventually(t, soon, "the hub accepts", func() (ok bool) { // its queue is short
		var err error
		c, err = net.Dial("unix", path)
		return err == nil
	})
	return c
}

func hubSpin(t *testing.T) {
	p, g := served(t, "hub://{dir}/h", nil)
	dial(t, p.dir+"/h/ctl").Close()
	time.Sleep(50 * time.Millisecond) // until it has noticed
	lazy(t, g)
	settle(t, ways(g, cPlug(p.far, "vde://"+p.dir+"/h")), soon)
	stays(t, g)
}

func hubVanish(t *testing.T) {
	p, g := served(t, "hub://{dir}/h", nil)
	for range 20 {
		request := make([]byte, 12+110) // struct request_v3 of libvdeplug_vde.c
		binary.NativeEndian.PutUint32(request, 0xfeedface)
		binary.NativeEndian.PutUint32(request[4:], 3)
		binary.NativeEndian.PutUint16(request[12:], unix.AF_UNIX)
		copy(request[14:], p.dir+"/none")
		c := dial(t, p.dir+"/h/ctl")
		_, err := c.Write(request)
		must(t, err)
		c.Close()
	}
	settle(t, ways(g, cPlug(p.far, "vde://"+p.dir+"/h")), soon)
	stays(t, g)
}

func hubPumped(t *testing.T) {
	p, g := served(t, "hub://{dir}/h", nil)
	a, b := cPlug(p.far, "vde://"+p.dir+"/h"), cPlug(p.far, "vde://"+p.dir+"/h")
	w := ways(a, b)
	settle(t, w, soon)
	for range 3 { // the guest takes none of these
		for _, w := range w {
			_, err := rate(t, w, 1514, 100*time.Millisecond)
			must(t, err)
		}
	}
	stays(t, g)
}

// open opens a VNL in this process.
func open(t *testing.T, n *rig.Namespace, vnl string) (c *libvdeplug.Conn) {
	t.Helper()
	n.Do(func() {
		var err error
		c, err = libvdeplug.Open(vnl, nil)
		must(t, err)
	})
	return c
}

func vxvdeLeak(t *testing.T) {
	host := lan(t, 1)[0]
	open(t, host, "vxvde://239.9.9.9").Close() // what is made once
	before := leak.OpenFiles()
	for range 5 {
		open(t, host, "vxvde://239.9.9.9").Close()
	}
	if after := leak.OpenFiles(); len(after) != len(before) {
		t.Errorf("before: %v, after: %v", before, after)
	}
}

func vxlanTogether(t *testing.T) {
	hosts := lan(t, 2)
	var pairs [4][2]*libvdeplug.Conn
	for i := range pairs {
		for j := range hosts {
			pairs[i][j] = open(t, hosts[j], fmt.Sprintf("vxlan://239.9.9.%d/port=%d/if=eth0", 20+i, 4800+i))
			defer pairs[i][j].Close()
		}
	}
	var senders sync.WaitGroup
	for i, pair := range pairs {
		senders.Add(1)
		go func() {
			defer senders.Done()
			for n := range uint32(5000) {
				if _, err := pair[0].Write(frame(broadcast, nearMAC, 100+400*i, n)); err != nil {
					t.Error(err)
				}
			}
		}()
	}
	var receivers sync.WaitGroup
	for i, pair := range pairs {
		must(t, pair[1].SetReadDeadline(time.Now().Add(time.Second)))
		receivers.Add(1)
		go func() {
			defer receivers.Done()
			buf := make([]byte, 2000)
			got, last := 0, -1
			for ; ; got++ {
				n, err := pair[1].Read(buf)
				if err != nil {
					break
				}
				f := buf[:n]
				number := int(binary.BigEndian.Uint32(f[14:]))
				if number <= last {
					t.Errorf("frame %d came after frame %d", number, last)
					return
				}
				last = number
				if n != 100+400*i || !bytes.Equal(f, frame(broadcast, nearMAC, n, binary.BigEndian.Uint32(f[14:]))) {
					t.Errorf("a frame of the other network, or of none: %d bytes", n)
					return
				}
			}
			if got < 200 {
				t.Errorf("only %d of 5000 frames came", got)
			}
		}()
	}
	senders.Wait()
	receivers.Wait()
}

// tagged puts a VLAN tag into a frame.
func tagged(f []byte, vid uint16) []byte {
	tag := binary.BigEndian.AppendUint16([]byte{0x81, 0}, vid)
	return slices.Concat(f[:12], tag, f[12:])
}

// onHub is a helper on a hub inside of which another one is hosted, and a plain
// guest on the same hub.
func onHub(t *testing.T, vnl string, start func(*place)) (p *place, g, plain *rig.Guest) {
	t.Helper()
	p, g = served(t, vnl, start)
	plain = guest(p.far, rig.HelperConfig{VNL: "vde://" + p.dir + "/h"})
	plain.WaitLine("link up", soon)
	return p, g, plain
}

func vlanLength(t *testing.T) {
	for vnl, tag := range map[string]func([]byte) []byte{
		"vlan://5/x{hub://{dir}/h}":               func(f []byte) []byte { return f },
		"vlan://5/x{vlan://6/x/q{hub://{dir}/h}}": func(f []byte) []byte { return slices.Concat(f[:12], []byte{0x88, 0xa8, 0, 6}, f[12:]) },
	} {
		_, g, plain := onHub(t, vnl, nil)
		for _, size := range []int{60, 61, 1000, 1514} {
			inside := tagged(frame(nearMAC, farMAC, size, 1), 10)
			plain.Send(tag(inside), time.Second)
			if got := g.Recv(soon); !bytes.Equal(got, inside) {
				t.Errorf("%s: a tagged frame of %d bytes came as %d", vnl, len(inside), len(got))
			}
			g.Send(inside, time.Second)
			if got := plain.Recv(soon); !bytes.Equal(got, tag(inside)) {
				t.Errorf("%s: a tagged frame of %d bytes went as %d", vnl, len(inside), len(got))
			}
		}
	}
}

func vlanOneDigit(t *testing.T) {
	for _, list := range []string{"7", "10.7", "10.8:9", "10.3-7"} {
		_, g, plain := onHub(t, "vlan://5/t="+list+"{hub://{dir}/h}", nil)
		last := uint16(list[len(list)-1] - '0')
		plain.Send(tagged(frame(nearMAC, farMAC, 60, 1), last), time.Second)
		if got := g.Recv(soon); len(got) != 64 {
			t.Errorf("t=%s: a frame of VLAN %d came as %d bytes", list, last, len(got))
		}
		stays(t, g)
	}
}

func vlanBuffer(t *testing.T) {
	p := newPlace(t, &row{})
	c := open(t, p.near, "vlan://5/t=10-20{hub://"+p.dir+"/h}")
	defer c.Close()
	f := tagged(frame(broadcast, nearMAC, 60, 1), 10)
	was := bytes.Clone(f)
	if _, err := c.Write(f); err != nil || !bytes.Equal(f, was) {
		t.Errorf("the frame has become %x: %v", f, err)
	}
}

func vlanShort(t *testing.T) {
	for _, vnl := range []string{"vlan://5{hub://{dir}/h}", "vlan://5/u=9{hub://{dir}/h}"} {
		p, g, plain := onHub(t, vnl, nil)
		for _, vid := range []uint16{5, 9} {
			whole := tagged(frame(broadcast, nearMAC, 60, 1), vid)
			for n := 14; n < 18; n++ {
				g.Send(whole[:n], time.Second)
				plain.Send(whole[:n], time.Second)
			}
		}
		far := guest(p.far, rig.HelperConfig{VNL: strings.Replace(p.fill(vnl), "hub:", "vde:", 1)})
		settle(t, ways(g, far), soon)
		stays(t, g)
	}
}

func agnoShort(t *testing.T) {
	p, g, plain := onHub(t, "agno://{dir}/key{hub://{dir}/h}", key)
	for size := 60; size < 76; size++ { // so that all lengths of padding occur
		g.Send(frame(broadcast, nearMAC, size, 1), time.Second)
		whole := plain.Recv(soon)
		if whole == nil {
			t.Fatal("no frame came out of agno")
		}
		for n := 30; n < 46; n++ {
			plain.Send(whole[:n], time.Second)
		}
	}
	far := guest(p.far, rig.HelperConfig{VNL: "agno://" + p.dir + "/key{vde://" + p.dir + "/h}"})
	settle(t, ways(g, far), soon)
	stays(t, g)
}

func agnoLong(t *testing.T) {
	p, g := served(t, "agno://{dir}/key{hub://{dir}/h}", key)
	far := cPlug(p.far, "agno://"+p.dir+"/key{vde://"+p.dir+"/h}")
	w := ways(g, far)
	settle(t, w, soon)
	for n := 9180; n <= 9260; n += 5 {
		far.Send(frame(nearMAC, farMAC, n, 1), time.Second)
	}
	settle(t, w, soon)
	stays(t, g)
}

func agnoEnd(t *testing.T) {
	_, g := served(t, "agno://{dir}/key{cmd://sh -c 'sleep 0.2; exit 3'}", key)
	g.WaitLine(`link down: the command ended \(exit status 3\)`, soon)
}

func vdeslHangUp(t *testing.T) {
	p, g := served(t, "vdesl://{dir}/a", serialLine)
	p.parts["serial"].(*serial).hangUp()
	g.WaitLine("link down", soon)
	lazy(t, g)
}

func vdeslRest(t *testing.T) {
	p, g := served(t, "vdesl://{dir}/a", serialLine)
	tty, err := os.OpenFile(filepath.Join(p.dir, "b"), os.O_WRONLY|unix.O_NOCTTY, 0)
	must(t, err)
	_, err = tty.Write([]byte{0x20, 0, 1, 2, 3}) // 8 kB are to come
	must(t, err)
	tty.Close()
	for until := time.Now().Add(2 * time.Second); time.Now().Before(until); {
		if !g.Send(rig.Frame(60, 0), 250*time.Millisecond) {
			t.Fatal("the guest's socket was not read for 250 ms")
		}
	}
	settle(t, ways(g, cPlug(p.far, "vdesl://"+p.dir+"/b")), soon)
}
