package main

import (
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"github.com/umlvde/umlvde/internal/rig"
	"github.com/umlvde/umlvde/libvdeplug/faultplug"
)

// UML passes on what its user wrote, right or wrong. A guest whose options are wrong
// has no network and is told why, but its socket is read until it ends.
func TestGuestOutlivesAWrongOption(t *testing.T) {
	for _, tc := range []struct {
		name, vnl, says string
		args            []string
	}{
		{"mode", "slirp://", `UML: slirp://: no network: .*"rw" is not an octal mode`, []string{"--descr", "UML", "--mod2", "rw"}},
		{"port", "slirp://", `UML: slirp://: no network: .*"x" is not a port`, []string{"--descr", "UML", "--port2", "x"}},
		{"VNL like an option", "-x", "UML: -x: no network: unknown shorthand flag", []string{"--descr", "UML"}},
		{"VNL like a question", "-h", "UML: -h: no network: a VNL does not begin with -", []string{"--descr", "UML"}},
		{"no descriptor", "seqpacket://x", `UML: seqpacket://x: no network: seqpacket://x: "x" is not the number`, []string{"--descr", "UML"}},
		{"closed descriptor", "seqpacket://99", "UML: seqpacket://99: no network: seqpacket://99: descriptor 99 is not open", []string{"--descr", "UML"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			g := rig.StartHelper(t, rig.HelperConfig{Args: tc.args, VNL: tc.vnl})
			g.WaitLine("^vde_plug: "+tc.says, 5*time.Second)
			for range 10000 { // more than the socket holds
				if !g.Send(rig.Frame(60, 0), 5*time.Second) {
					t.Fatal("the guest stands still")
				}
			}
			g.Close()
			if code := g.Wait(5 * time.Second); code != exitUsage {
				t.Errorf("exit status %d", code)
			}
		})
	}
}

// Who asks for a daemon, which UML does not, is told that there is none.
func TestDaemonWithAWrongDescriptor(t *testing.T) {
	g := rig.StartHelper(t, rig.HelperConfig{Args: []string{"-d"}, VNL: "seqpacket://99"})
	g.WaitLine("^vde_plug: seqpacket://99: descriptor 99 is not open", 5*time.Second)
	if code := g.Wait(5 * time.Second); code != exitUsage {
		t.Errorf("exit status %d", code)
	}
}

// A wrong option in a kernel: its card stays up, and nothing spins.
func TestKernelWithAWrongOption(t *testing.T) {
	u := asHelper(t, "6.12", "vec0:transport=vde,vnl=slirp://,mode=rw")
	address(u, 15)
	u.Proc.WaitLine(`vde_plug: UML: slirp://: no network: .*"rw" is not an octal mode`, 5*time.Second)
	before, start := cpuTime(t, u.Proc.Pid()), time.Now()
	u.Do(bootTime, "busybox ping -c 2 -W 1 10.0.2.2") // nobody answers
	if used, took := cpuTime(t, u.Proc.Pid())-before, time.Since(start); used > took/2 {
		t.Errorf("the guest used %v of CPU in %v", used, took)
	}
	u.PowerOff()
}

// A cable whose plugin does not return from being opened says so, also if it is to
// be a daemon, and a signal ends it; the daemon ends with who waits for it.
func TestCableSaysWhatItWaitsFor(t *testing.T) {
	net := faultplug.New(t)
	net.Set(t, faultplug.OpenBlock)
	for _, args := range [][]string{nil, {"-d"}} {
		cmd := exec.Command(rig.VdePlug(), append(args, net.VNL(), "null://")...)
		cmd.Env = append(os.Environ(), net.Env())
		p := rig.Start(t, cmd)
		p.WaitLine("^vde_plug: "+net.VNL()+": the plugin does not return from opening it; waiting$", 10*time.Second)
		daemons := p.Children()
		p.Signal(syscall.SIGTERM)
		p.Wait(5 * time.Second)
		for _, pid := range daemons {
			rig.Eventually(t, 5*time.Second, "the daemon ends", func() bool { return !rig.Alive(pid) })
		}
		if len(daemons) != len(args) {
			t.Errorf("%d daemons, with %q", len(daemons), args)
		}
	}
}

// A signal ends a cable even while a plugin does not return from a call.
func TestSignalWhileAPluginIsStuck(t *testing.T) {
	pidfile := rig.TempDir(t) + "/pid"
	net := faultplug.New(t)
	net.Set(t, faultplug.SendBlock)
	cmd := exec.Command(rig.VdePlug(), "-v", "-p", pidfile, net.VNL())
	cmd.Env = append(os.Environ(), net.Env())
	r, in, err := os.Pipe()
	must(t, err)
	defer in.Close()
	cmd.Stdin = r
	p := rig.Start(t, cmd)
	r.Close()
	p.WaitLine("are joined", 5*time.Second)
	_, err = in.Write(framed(rig.Frame(60, 1)))
	must(t, err)
	emptied(t, in)
	p.Signal(syscall.SIGTERM)
	if code := p.Wait(10 * time.Second); code != 0 {
		t.Errorf("exit status %d", code)
	}
	if _, err := os.Stat(pidfile); err == nil {
		t.Error("the pidfile is left")
	}
}
