package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/umlvde/umlvde/internal/rig"
)

const bootTime = 30 * time.Second

// asHelper boots a kernel that starts the program as vde_plug by itself.
func asHelper(t *testing.T, version string, vecs ...string) *rig.UML {
	t.Helper()
	return rig.Boot(t, rig.Kernel(t, version), nil, vecs, nil)
}

// underRun boots a kernel by umlvde run.
func underRun(t *testing.T, version string, vecs ...string) *rig.UML {
	t.Helper()
	return rig.Boot(t, rig.Kernel(t, version), []string{rig.Umlvde(), "run", "-v", "--"}, vecs, nil)
}

// behindScript is asHelper with a script as vde_plug, which waits for the program.
func behindScript(t *testing.T, version string, vecs ...string) *rig.UML {
	t.Helper()
	dir := rig.TempDir(t)
	must(t, os.WriteFile(dir+"/vde_plug", []byte("#!/bin/sh\n"+rig.VdePlug()+" \"$@\"\n:\n"), 0o700))
	return rig.Boot(t, rig.Kernel(t, version), nil, vecs, []string{"PATH=" + dir + ":" + os.Getenv("PATH")})
}

// address brings vec0 up with the address 10.0.2.n.
func address(u *rig.UML, n int) {
	u.Must(bootTime, fmt.Sprintf("ip link set vec0 up && ip addr add 10.0.2.%d/24 dev vec0", n))
}

func ping(u *rig.UML, n int) {
	u.Must(bootTime, fmt.Sprintf("for i in 1 2 3 4 5; do busybox ping -c 2 -i 0.1 -W 1 10.0.2.%d && break; done", n))
}

// Each kernel reaches slirp and, on a switch, each other.
func TestKernelsReachSlirpAndEachOther(t *testing.T) {
	sw := rig.TempDir(t) + "/s"
	rig.Switch(t, sw)
	var guests []*rig.UML
	for i, k := range []struct {
		version string
		boot    func(*testing.T, string, ...string) *rig.UML
	}{{"6.1", underRun}, {"6.12", asHelper}, {"7", asHelper}, {"6.12", underRun}, {"7", underRun}} {
		u := k.boot(t, k.version, "vec0:transport=vde,vnl=slirp://", "vec1:transport=vde,vnl=vde://"+sw)
		address(u, 15)
		ping(u, 2)
		u.Must(bootTime, fmt.Sprintf("ip addr flush dev vec0; ip link set vec0 down; ip link set vec1 up; ip addr add 10.0.2.%d/24 dev vec1", 101+i))
		guests = append(guests, u)
	}
	for _, u := range guests {
		for i := range guests {
			ping(u, 101+i)
		}
	}
	for _, u := range guests {
		if code := u.PowerOff(); code != 0 {
			t.Errorf("exit status %d", code)
		}
	}
}

// A guest whose switch is not there boots, idles, and has its network as soon
// as the switch is started.
func TestGuestGetsTheSwitchThatComesLater(t *testing.T) {
	sw := rig.TempDir(t) + "/s"
	u := asHelper(t, "6.12", "vec0:transport=vde,vnl=vde://"+sw)
	address(u, 1)
	u.Proc.WaitLine("link down: no switch there", 5*time.Second)
	before := cpuTime(t, u.Proc.Pid())
	time.Sleep(5 * time.Second) // what is measured
	used := cpuTime(t, u.Proc.Pid()) - before
	t.Logf("the idle guest used %v of CPU in 5 s", used)
	if used > 250*time.Millisecond {
		t.Errorf("more than 5 %%")
	}
	start := time.Now()
	rig.Switch(t, sw)
	u.Proc.WaitLine("link up again", time.Second)
	t.Logf("the link was up %v after the switch was started", time.Since(start))
	far := rig.StartHelper(t, rig.HelperConfig{VNL: "vde://" + sw})
	u.Tell("busybox arping -c 3 -I vec0 10.0.2.99")
	for f := far.Recv(5 * time.Second); ; f = far.Recv(5 * time.Second) {
		if f == nil {
			t.Fatal("no frame of the guest came over the switch")
		}
		if len(f) >= 42 && f[12] == 8 && f[13] == 6 {
			break
		}
	}
}

// cpuTime is what a process has used.
func cpuTime(t *testing.T, pid int) time.Duration {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/schedstat", pid))
	if err != nil {
		t.Fatal(err)
	}
	var ns int64
	if _, err := fmt.Sscan(string(text), &ns); err != nil {
		t.Fatal(err)
	}
	return time.Duration(ns)
}

// While a guest floods a network that does not take its frames, a busy loop in
// it goes on as fast as with one that takes them all.
func TestGuestIsNotSlowedByABackendThatIsStuck(t *testing.T) {
	tool := rig.GuestTool(t)
	sw := rig.TempDir(t) + "/s"
	stopped := rig.Switch(t, sw)
	vnls := []string{"null://", "vde://" + sw, "cmd://sleep 60"}
	rates := make(map[string][]float64)
	for round := range 3 {
		for _, vnl := range vnls {
			u := asHelper(t, "6.12", `vec0:transport="vde,vnl=`+vnl+`"`)
			address(u, 1)
			ups := rig.Children(u.Proc.Pid())
			rig.Eventually(t, 5*time.Second, "the helper has a worker", func() bool {
				ups = rig.Children(u.Proc.Pid())
				return slices.ContainsFunc(ups, func(pid int) bool { return len(rig.Children(pid)) > 0 })
			})
			if round == 0 || vnl == vnls[1] {
				stopped.Signal(syscall.SIGSTOP)
			}
			u.Must(bootTime, tool+" flood vec0 & sleep 0.3")
			start := time.Now()
			u.Must(bootTime, tool+" spin 300")
			rates[vnl] = append(rates[vnl], 300/time.Since(start).Seconds())
			stopped.Signal(syscall.SIGCONT)
			u.PowerOff()
		}
	}
	base := median(rates[vnls[0]])
	for _, vnl := range vnls[1:] {
		ratio := median(rates[vnl]) / base
		t.Logf("%s: a busy loop keeps %.0f %% of its rate with null:// (%.0f million a second; of %.0f)", vnl, 100*ratio, rates[vnl], rates[vnls[0]])
		if ratio < 0.5 { // frozen, not just noisy
			t.Errorf("%s slows the guest down to %.0f %%", vnl, 100*ratio)
		}
	}
}

func median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	return v[len(v)/2]
}

// However a kernel ends, and however often its link goes down and up, nothing
// of its helpers is left a second later.
func TestNothingIsLeftOfAGuest(t *testing.T) {
	for _, tc := range []struct {
		name    string
		version string
		boot    func(*testing.T, string, ...string) *rig.UML
		end     func(*testing.T, *rig.UML)
	}{
		{"SIGKILL of 6.12", "6.12", asHelper, func(t *testing.T, u *rig.UML) { u.Proc.Signal(syscall.SIGKILL) }},
		{"SIGKILL of 6.1 under run", "6.1", underRun, func(t *testing.T, u *rig.UML) { u.Proc.Signal(syscall.SIGKILL) }},
		{"SIGKILL of 7", "7", asHelper, func(t *testing.T, u *rig.UML) { u.Proc.Signal(syscall.SIGKILL) }},
		{"SIGTERM", "6.12", asHelper, func(t *testing.T, u *rig.UML) { u.Proc.Signal(syscall.SIGTERM) }},
		{"panic", "6.12", asHelper, func(t *testing.T, u *rig.UML) { u.Panic() }},
		{"panic of 7 under run", "7", underRun, func(t *testing.T, u *rig.UML) { u.Panic() }},
		{"power off", "7", asHelper, func(t *testing.T, u *rig.UML) { u.PowerOff() }},
		{"power off under run", "6.1", underRun, func(t *testing.T, u *rig.UML) { u.PowerOff() }},
		{"50 times down and up", "6.12", asHelper, downAndUp},
		{"50 times down and up under run", "6.1", underRun, downAndUp},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := rig.TempDir(t)
			u := tc.boot(t, tc.version, "vec0:transport=vde,vnl=hub://"+dir+"/hub,descr=left-"+filepath.Base(dir))
			address(u, 1)
			rig.Eventually(t, 5*time.Second, "the hub is open", func() bool {
				_, err := os.Stat(dir + "/hub/ctl")
				return err == nil
			})
			tc.end(t, u)
			u.Proc.Wait(10 * time.Second)
			var left []string
			defer func() {
				if t.Failed() {
					t.Logf("left: %q", left)
				}
			}()
			rig.Eventually(t, time.Second, "nothing is left", func() bool {
				hub, _ := filepath.Glob(dir + "/*")
				sockets, _ := filepath.Glob(filepath.Join(u.Dir, "umlvde-*"))
				left = append(hub, sockets...)
				for _, pid := range helpers(u) {
					left = append(left, fmt.Sprintf("process %d", pid))
				}
				return len(left) == 0
			})
		})
	}
}

func downAndUp(t *testing.T, u *rig.UML) {
	u.Must(2*time.Minute, "i=0; while [ $i -lt 50 ]; do ip link set vec0 down; ip link set vec0 up || break; i=$((i+1)); done; [ $i = 50 ]")
	rig.Eventually(t, 2*time.Second, "only the last link is served", func() bool { return len(helpers(u)) <= 2 })
	u.PowerOff()
}

// helpers lists the processes of this program that belong to a guest: they have
// its environment.
func helpers(u *rig.UML) (pids []int) {
	paths, _ := filepath.Glob("/proc/[0-9]*/environ") // the pattern is good
	for _, path := range paths {
		env, err := os.ReadFile(path)
		exe, _ := os.Readlink(filepath.Join(filepath.Dir(path), "exe"))
		var pid int
		if _, scan := fmt.Sscanf(path, "/proc/%d/", &pid); err != nil || scan != nil || filepath.Base(exe) != "umlvde" {
			continue // it has ended, or is another program
		}
		if strings.Contains(string(env), "TMPDIR="+u.Dir+"\x00") && rig.Alive(pid) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// Under run a VNL may hold any character, a guest may have several links, and
// the guest's exit status is the exit status.
func TestRun(t *testing.T) {
	hub := rig.TempDir(t) + "/a b"
	u := underRun(t, "6.1",
		"vec0:transport=vde,vnl=slirp:///tcpfwd=5555:10.0.2.15:22,5556:10.0.2.15:23/mtu=1400",
		"vec3:transport=vde,mac=02:00:00:00:00:33,vnl=hub://"+hub+"[mode=0700],descr=the hub, of this test")
	address(u, 15)
	ping(u, 2)
	// The program has become the kernel, so what a terminal sends reaches the guest as ever.
	if exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", u.Proc.Pid())); err != nil || exe != rig.Kernel(t, "6.1") {
		t.Errorf("run is %s, not the kernel: %v", exe, err)
	}
	u.Proc.WaitLine(regexp.QuoteMeta("UML vec0: slirp:///tcpfwd=5555:10.0.2.15:22,5556:10.0.2.15:23/mtu=1400: link up"), 5*time.Second)
	u.Must(bootTime, "ip link set vec3 up; ip link show vec3 | grep -q 02:00:00:00:00:33")
	u.Proc.WaitLine(regexp.QuoteMeta("the hub, of this test: hub://"+hub+"[mode=0700]: link up"), 5*time.Second)
	if code := u.PowerOff(); code != 0 {
		t.Errorf("exit status %d", code)
	}
	u.Proc.WaitLine("UML vec0: .*: guest to network [1-9][0-9]* frames", 5*time.Second)

	crash := underRun(t, "6.12", "vec0:transport=vde,vnl=null://")
	crash.Panic()
	with := crash.Proc.Wait(10 * time.Second)
	plain := rig.Boot(t, rig.Kernel(t, "6.12"), nil, nil, nil)
	plain.Panic()
	if without := plain.Proc.Wait(10 * time.Second); with != without {
		t.Errorf("a panic ends run with %d, and the kernel alone with %d", with, without)
	}
}

// Listen serves several guests, over and over.
func TestListen(t *testing.T) {
	dir := rig.TempDir(t)
	path := dir + "/guests"
	sw := dir + "/s"
	rig.Switch(t, sw)
	l := rig.StartListen(t, "-v", path, "vde://"+sw)
	a := rig.Boot(t, rig.Kernel(t, "6.1"), nil, []string{"vec0:transport=bess,dst=" + path}, nil)
	b := rig.Boot(t, rig.Kernel(t, "7"), nil, []string{"vec0:transport=bess,dst=" + path + ",mtu=1400"}, nil)
	address(a, 1)
	address(b, 2)
	ping(a, 2)
	b.Must(bootTime, "ip link set vec0 down; ip link set vec0 up")
	ping(b, 1)
	a.PowerOff()
	b.PowerOff()
	rig.Eventually(t, time.Second, "no worker is left", func() bool { return len(l.Children()) == 0 })
	l.Signal(syscall.SIGTERM)
	if code := l.Wait(time.Second); code != 0 {
		t.Errorf("exit status %d", code)
	}
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("the socket is left: %v", err)
	}
}

// The guest is given frames as long as its mtu= allows, and none longer, also behind
// a script.
func TestFramesAreLimitedToWhatTheGuestTakes(t *testing.T) {
	for name, boot := range map[string]func(*testing.T, string, ...string) *rig.UML{"helper": asHelper, "script": behindScript} {
		t.Run(name, func(t *testing.T) { framesAreLimited(t, boot) })
	}
}

func framesAreLimited(t *testing.T, boot func(*testing.T, string, ...string) *rig.UML) {
	sw := rig.TempDir(t) + "/h"
	hub := rig.StartHelper(t, rig.HelperConfig{VNL: "hub://" + sw})
	hub.WaitLine("link up", 5*time.Second)
	u := boot(t, "6.12", "vec0:transport=vde,vnl=vde://"+sw+",mtu=4000")
	address(u, 1)
	u.Must(bootTime, "ip link set vec0 promisc on")
	rig.Eventually(t, 10*time.Second, "the guest is on the hub", func() bool {
		u.Do(bootTime, "busybox arping -c 1 -w 1 -I vec0 10.0.2.99") // nobody answers
		return hub.Recv(time.Second) != nil
	})
	received := func() string {
		return strings.TrimSpace(u.Must(bootTime, "cat /sys/class/net/vec0/statistics/rx_packets"))
	}
	before := received()
	hub.Send(rig.Frame(4067, 0), time.Second)
	hub.Send(rig.Frame(9000, 0), time.Second)
	u.Must(bootTime, "sleep 0.3")
	if after := received(); after != before {
		t.Errorf("the guest was given frames that it cannot hold: %s, then %s", before, after)
	}
	hub.Send(rig.Frame(4014, 0), time.Second)
	rig.Eventually(t, 5*time.Second, "the guest received the frame that it can hold", func() bool { return received() != before })
}
