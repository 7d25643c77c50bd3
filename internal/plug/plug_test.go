package plug

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/umlvde/umlvde/internal/leak"
	"github.com/umlvde/umlvde/internal/mmsg"
	"github.com/umlvde/umlvde/internal/relay"
	"github.com/umlvde/umlvde/internal/rig"
	"golang.org/x/sys/unix"
)

// TestEveryPlugin sees that each plugin on this machine is one that the table
// knows, or that this package serves itself.
func TestEveryPlugin(t *testing.T) {
	lib, err := Load("")
	must(t, err)
	for _, p := range Plugins(lib) {
		if _, known := table[p.Name]; !known && p.Name != "cmd" && p.Name != "seqpacket" {
			t.Errorf("%s is installed and nothing is known about it", p.Path)
		}
	}
}

// TestDriven checks which way each kind of plug is driven.
func TestDriven(t *testing.T) {
	dir := rig.TempDir(t)
	sw := filepath.Join(dir, "s")
	rig.Switch(t, sw)
	key := filepath.Join(dir, "key")
	must(t, os.WriteFile(key, []byte(strings.Repeat("0", 32)), 0o600))
	for _, c := range []struct {
		vnl      string
		want     string
		parallel bool
		outlet   bool // it tells when there is room
	}{
		{sw, "*plug.sockPlug", true, true},
		{"vde://" + sw, "*plug.sockPlug", true, true},
		{"ptp://" + dir + "/p", "*plug.ptpPlug", true, true},
		{"udp://127.0.0.1:0->127.0.0.1:9", "*plug.sockPlug", true, true},
		{"slirp://", "*plug.sockPlug", true, true},
		{"null://", "*plug.libPlug", true, false},
		{"hub://" + dir + "/h", "*plug.libPlug", false, false},
		{"switch://" + dir + "/i", "*plug.libPlug", false, false},
		{"vlan://5{vde://" + sw + "}", "*plug.nestedPlug", false, true},
		{"agno://" + key + "{vde://" + sw + "}", "*plug.nestedPlug", false, true},
		{"cmd://cat", "*plug.cmdPlug", true, true},
	} {
		t.Run(ParseVNL(c.vnl).Plugin, func(t *testing.T) {
			p := open(t, c.vnl)
			if got := fmt.Sprintf("%T", p); got != c.want || p.Parallel() != c.parallel {
				t.Errorf("%s is a %s, parallel %v", c.vnl, got, p.Parallel())
			}
			if _, w, _ := p.Fds(); (w >= 0) != c.outlet || w >= 0 && !mmsg.Writable(w) {
				t.Errorf("%s: descriptor %d is to tell when there is room", c.vnl, w)
			}
			if err := p.Recv(newBatch(t)); !errors.Is(err, unix.EAGAIN) && !strings.HasPrefix(c.vnl, "slirp") {
				t.Errorf("%s: Recv of nothing: %v", c.vnl, err)
			}
		})
	}
}

func TestCarry(t *testing.T) {
	dir := rig.TempDir(t)
	sw := "vde://" + filepath.Join(dir, "s")
	rig.Switch(t, filepath.Join(dir, "s"))
	key := filepath.Join(dir, "key")
	must(t, os.WriteFile(key, []byte(strings.Repeat("0", 32)), 0o600))
	for name, vnls := range map[string][2]string{
		"vde": {sw, sw},
		"ptp": {"ptp://" + dir + "/p", "ptp://" + dir + "/p"},
		// Not on a switch, which drops tagged frames and cuts those that agno made longer.
		"vlan": {"vlan://5{ptp://" + dir + "/v}", "vlan://5{ptp://" + dir + "/v}"},
		"agno": {"agno://" + key + "{ptp://" + dir + "/a}", "agno://" + key + "{ptp://" + dir + "/a}"},
		"cmd":  {"cmd://vde_plug " + sw, "cmd://vde_plug " + sw},
	} {
		t.Run(name, func(t *testing.T) {
			a, b := open(t, vnls[0]), open(t, vnls[1])
			if name == "cmd" {
				ready(t, a, b)
			}
			carry(t, a, b, 1)
			carry(t, b, a, 2)
			batch := newBatch(t)
			for _, room := range []int{mmsg.Max, 1, 7} {
				var frames [][]byte
				for i := range uint32(50) {
					frames = append(frames, rig.Frame(100, i))
				}
				send(t, a, frames...)
				for next := uint32(0); next < 50; {
					r, _, _ := b.Fds()
					if !rig.Poll(r, unix.POLLIN, soon) {
						t.Fatalf("room for %d: nothing shows that there are more than %d frames", room, next)
					}
					batch.Limit(room)
					if err := b.Recv(batch); err != nil {
						if !errors.Is(err, unix.EAGAIN) {
							t.Fatal(err)
						}
						batch.Clear()
					}
					for i := range batch.Len() {
						if n := rig.Number(batch.Frame(i)); n != next {
							t.Fatalf("frame %d came as number %d", n, next)
						}
						next++
					}
				}
			}
		})
	}
}

func TestUDP(t *testing.T) {
	p, q := freePort(t), freePort(t)
	a := open(t, fmt.Sprintf("udp://127.0.0.1:%d->127.0.0.1:%d", p, q))
	if n := send(t, a, rig.Frame(60, 0)); n.Out != 1 {
		t.Errorf("the first frame, to nobody: %v", n.String())
	}
	b := open(t, fmt.Sprintf("udp://127.0.0.1:%d->127.0.0.1:%d", q, p))
	// ICMP has told a that nobody was there, which must not end it.
	rig.Eventually(t, soon, "a frame arrives", func() bool {
		send(t, a, rig.Frame(60, 1))
		return b.Recv(newBatch(t)) == nil
	})
	carry(t, b, a, 2)
}

// TestPtpReturns has one end of a cable go away and come back.
func TestPtpReturns(t *testing.T) {
	vnl := "ptp://" + filepath.Join(rig.TempDir(t), "p")
	a := open(t, vnl)
	if n := send(t, a, rig.Frame(60, 0), rig.Frame(60, 0)); n.Drops[relay.Refused] != 2 {
		t.Errorf("alone: %v", n.String())
	}
	for i := range uint32(3) {
		b, err := Open(ParseVNL(vnl), Options{})
		must(t, err)
		carry(t, a, b, 10+i)
		carry(t, b, a, 20+i)
		must(t, b.Close())
		if n := send(t, a, rig.Frame(60, 0), rig.Frame(60, 0)); n.Drops[relay.Refused] != 2 {
			t.Errorf("alone again: %v", n.String())
		}
	}
}

// TestPtpReset has one end of a cable disconnect from the other with a frame unread,
// of which the kernel tells the other when it sends the next one (ECONNRESET): the
// cable is still good.
func TestPtpReset(t *testing.T) {
	vnl := "ptp://" + filepath.Join(rig.TempDir(t), "p")
	a, b := open(t, vnl), open(t, vnl)
	carry(t, a, b, 1)
	send(t, b, rig.Frame(60, 2))
	data, _, _ := a.Fds()
	if errno := mmsg.Disconnect(data); errno != 0 {
		t.Fatal(errno)
	}
	if n := send(t, b, rig.Frame(60, 3)); n.Drops[relay.Refused] != 1 {
		t.Errorf("it has sent %v", n.String())
	}
	carry(t, b, a, 4)
}

// TestPtpLastWords has one end of a cable send frames and leave: they arrive, though
// the other end learns first that it has gone, and then hears its successor, to
// which it has sent nothing.
func TestPtpLastWords(t *testing.T) {
	vnl := "ptp://" + filepath.Join(rig.TempDir(t), "p+") // as the second end of another cable would be named
	a := open(t, vnl)
	b, err := Open(ParseVNL(vnl), Options{})
	must(t, err)
	carry(t, a, b, 1)
	carry(t, b, a, 2)
	send(t, b, rig.Frame(60, 3), rig.Frame(60, 4), rig.Frame(60, 5))
	must(t, b.Close())
	_, _, ctl := a.Fds()
	poll(t, ctl, unix.POLLIN)
	if _, err := Open(ParseVNL(vnl), Options{}); !errors.Is(err, unix.EPERM) || !strings.Contains(err.Error(), "has not noticed") {
		t.Errorf("while the other end is still connected to the one before: %v", err)
	}
	must(t, a.Check())
	for number := uint32(3); number <= 5; {
		for _, f := range receive(t, a) {
			if rig.Number(f) != number {
				t.Errorf("frame %d came as %d", number, rig.Number(f))
			}
			number++
		}
	}
	carry(t, open(t, vnl), a, 6)
}

func TestSeqpacket(t *testing.T) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET, 0)
	must(t, err)
	a := open(t, fmt.Sprintf("seqpacket://%d", pair[0]))
	b, err := Open(ParseVNL(fmt.Sprintf("seqpacket://%d", pair[1])), Options{})
	must(t, err)
	for _, fd := range pair {
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
			t.Errorf("descriptor %d would be inherited: %v", fd, err)
		}
	}
	carry(t, a, b, 1)
	send(t, a, rig.Frame(60, 2))
	send(t, b, rig.Frame(60, 3), rig.Frame(60, 4))
	must(t, b.Close()) // with a frame unread, which gives ECONNRESET first
	var got []uint32
	for {
		frames, err := tryReceive(t, a)
		for _, f := range frames {
			got = append(got, rig.Number(f))
		}
		if err != nil {
			if !errors.Is(err, io.EOF) {
				t.Error(err)
			}
			break
		}
	}
	if !slices.Equal(got, []uint32{3, 4}) {
		t.Errorf("before the end came %v", got)
	}
	batch, c := newBatch(t), relay.Counters{}
	batch.Append(rig.Frame(60, 5))
	if err := a.Send(batch, &c); !errors.Is(err, io.EOF) {
		t.Errorf("Send to nobody: %v", err)
	}

	stream, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	must(t, err)
	defer unix.Close(stream[0])
	defer unix.Close(stream[1])
	pipe, w, err := os.Pipe()
	must(t, err)
	defer pipe.Close()
	defer w.Close()
	for arg, want := range map[string]error{
		"":                                 unix.EINVAL,
		"-1":                               unix.EINVAL,
		"3x":                               unix.EINVAL,
		"99999":                            unix.EBADF,
		fmt.Sprint(stream[0]):              unix.ESOCKTNOSUPPORT,
		fmt.Sprint(int(pipeFd(t, pipe))):   unix.ENOTSOCK,
		"99999999999999999999999999999999": unix.EINVAL,
	} {
		if _, err := Open(ParseVNL("seqpacket://"+arg), Options{}); !errors.Is(err, want) {
			t.Errorf("seqpacket://%s: %v, want %v", arg, err, want)
		}
	}
}

// TestTap writes to a tap that is down, and then up.
func TestTap(t *testing.T) {
	var p Plug
	var fd int
	rig.NewNamespace(t).Do(func() {
		var err error
		p, err = Open(ParseVNL("tap://vdetest"), Options{})
		must(t, err)
		fd, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		must(t, err)
	})
	defer unix.Close(fd)
	if _, ok := p.(*tapPlug); !ok {
		t.Errorf("it is a %T", p)
	}
	data, _, _ := p.Fds()
	if flags, err := unix.FcntlInt(uintptr(data), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
		t.Errorf("its descriptor would be inherited: %v", err)
	}
	if n := send(t, p, rig.Frame(60, 1)); n.Drops[relay.Refused] != 1 {
		t.Errorf("while it is down: %v", n.String())
	}
	ifr, err := unix.NewIfreq("vdetest")
	must(t, err)
	ifr.SetUint16(unix.IFF_UP)
	must(t, unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr))
	if n := send(t, p, rig.Frame(60, 1), make([]byte, 13), rig.Frame(1514, 2)); n.Out != 2 || n.Drops[relay.Refused] != 1 {
		t.Errorf("while it is up: %v", n.String())
	}
	must(t, p.Close())
}

func TestTapDeleted(t *testing.T) {
	b, c := newBatch(t), relay.Counters{}
	ns := rig.NewNamespace(t)
	var p Plug
	ns.Do(func() {
		var err error
		p, err = Open(ParseVNL("tap://vdetest"), Options{})
		must(t, err)
	})
	defer p.Close()
	ns.Sh("ip link delete vdetest")
	if err := p.Recv(b); !errors.Is(err, unix.EBADFD) {
		t.Errorf("Recv: %v", err)
	}
	b.Append(rig.Frame(60, 1))
	if err := p.Send(b, &c); !errors.Is(err, unix.EBADFD) || !strings.Contains(err.Error(), "deleted") {
		t.Errorf("Send: %v", err)
	}
}

// TestInterface takes down the interface under a plug, which passes, and deletes it,
// which does not: another one of its name is not the plug's.
func TestInterface(t *testing.T) {
	for vnl, deleted := range map[string]error{
		"pcap://vde0":                          unix.ENXIO,
		"vxvde://239.0.0.9/if=vde0":            unix.ENODEV,
		"vxlan://239.0.0.9/port=14999/if=vde0": unix.ENODEV,
	} {
		ns := rig.NewNamespace(t)
		ns.Sh("ip link add vde0 type veth peer name vde1; ip address add 10.9.9.1/24 dev vde0; ip link set vde1 up; ip link set vde0 up")
		var p Plug
		ns.Do(func() { p = open(t, vnl) })
		if n := send(t, p, rig.Frame(60, 1)); n.Out != 1 {
			t.Errorf("%s: %v", vnl, n.String())
		}
		ns.Sh("ip link set vde0 down")
		if n := send(t, p, rig.Frame(60, 1)); n.Drops[relay.Refused] != 1 {
			t.Errorf("%s: while it is down: %v", vnl, n.String())
		}
		ns.Sh("ip link delete vde0")
		b, c := newBatch(t), relay.Counters{}
		b.Append(rig.Frame(60, 1))
		if err := p.Send(b, &c); !errors.Is(err, deleted) {
			t.Errorf("%s: after it was deleted: %v", vnl, err)
		}
	}
}

// TestNewAddress sends over an interface that has just been made: its address may not be
// used for a second or two, which passes.
func TestNewAddress(t *testing.T) {
	ns := rig.NewNamespace(t)
	ns.Sh("ip link add vde0 type veth peer name vde1; ip link set vde1 up; ip link set vde0 up")
	var vxvde, vxlan Plug
	ns.Do(func() {
		vxvde = open(t, "vxvde://ff05::99/if=vde0/v6")
		vxlan = open(t, "vxlan://ff05::99/port=14999/if=vde0/v6")
	})
	for _, p := range []Plug{vxvde, vxlan} {
		rig.Eventually(t, soon, "a frame goes out", func() bool { return send(t, p, rig.Frame(60, 1)).Out == 1 })
	}
}

// TestSlirp closes a slirp that has something to say.
func TestSlirp(t *testing.T) {
	for range 3 {
		p := open(t, "slirp://")
		f := rig.Frame(60, 1)
		copy(f, "\xff\xff\xff\xff\xff\xff\x02\x00\x00\x00\x00\x01\x08\x06\x00\x01\x08\x00\x06\x04\x00\x01"+
			"\x02\x00\x00\x00\x00\x01\x0a\x00\x02\x0f\x00\x00\x00\x00\x00\x00\x0a\x00\x02\x02") // who has 10.0.2.2?
		send(t, p, f)
		for answered := false; !answered; {
			for _, f := range receive(t, p) {
				answered = answered || string(f[12:14]) == "\x08\x06"
			}
		}
	}
}

// TestMulticast opens the plugins that need multicast, where nobody hears them,
// and closes them without a rest.
func TestMulticast(t *testing.T) {
	for _, vnl := range []string{"vxvde://239.0.0.9/if=lo", "vxlan://239.0.0.9/port=14999/if=lo"} {
		ns := rig.NewNamespace(t)
		before := len(leak.OpenFiles())
		var p Plug
		ns.Do(func() {
			var err error
			p, err = Open(ParseVNL(vnl), Options{})
			must(t, err)
		})
		send(t, p, rig.Frame(60, 1))
		if err := p.Recv(newBatch(t)); err != nil && !errors.Is(err, unix.EAGAIN) {
			t.Errorf("%s: %v", vnl, err)
		}
		must(t, p.Close())
		if after := len(leak.OpenFiles()); after != before {
			t.Errorf("%s: %d descriptors before, %d after", vnl, before, after)
		}
	}
}
