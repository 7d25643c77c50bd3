package main

import (
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/umlvde/umlvde/internal/rig"
)

// onSwitch starts a helper on the switch at path, and a second one that sends
// back what the first one sends.
func onSwitch(t *testing.T, path string) *rig.Guest {
	t.Helper()
	g := rig.StartHelper(t, rig.HelperConfig{VNL: "vde://" + path})
	mirror(t, path)
	return g
}

// mirror plugs a second guest into the switch at path that sends each frame
// back.
func mirror(t *testing.T, path string) {
	t.Helper()
	far := rig.StartHelper(t, rig.HelperConfig{VNL: "vde://" + path, Args: []string{"-D", "reflector"}})
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
			}
			if f := far.Recv(20 * time.Millisecond); f != nil {
				copy(f[0:6], f[6:12])
				copy(f[6:12], []byte{2, 0, 0, 0, 0, 2})
				far.Send(f, 0)
			}
		}
	}()
	t.Cleanup(func() {
		close(stop)
		<-done
	})
}

// A switch may be started after the guest: the link works within a second.
func TestLinkComesWithTheSwitch(t *testing.T) {
	path := rig.TempDir(t) + "/deep/switch"
	g := onSwitch(t, path)
	g.WaitLine(`link down: no switch there \(start one with: vde_switch -s .*/deep/switch\): no such file or directory; trying again`, 5*time.Second)
	flood(t, g, 5*time.Second, guestPatience)
	if err := os.Mkdir(strings.TrimSuffix(path, "/switch"), 0o755); err != nil {
		t.Fatal(err)
	}
	rig.Switch(t, path)
	took := g.Echo(time.Second)
	m := g.WaitLine(`link up again after (\d+\.\d) s; (\d+) frames were dropped`, time.Second)
	t.Logf("frames flowed %v after the switch was there; %s", took, m[0])
	if atoi(t, m[2]) < 1000 {
		t.Errorf("only %s frames are said to have been dropped", m[2])
	}
	end(t, g)
}

// A switch may die and come back under traffic: one line down, one line up.
func TestLinkSurvivesARestartOfTheSwitch(t *testing.T) {
	path := rig.TempDir(t) + "/s"
	sw := rig.Switch(t, path)
	g := onSwitch(t, path)
	g.Echo(5 * time.Second)
	before := len(g.Lines())
	sw.Signal(syscall.SIGKILL)
	sw.Wait(time.Second)
	g.WaitLine("link down", time.Second)
	flood(t, g, time.Second, guestPatience)
	rig.Switch(t, path)
	t.Logf("frames flowed %v after the switch was back", g.Echo(1500*time.Millisecond))
	g.WaitLine(`link up again after`, time.Second)
	if said := g.Lines()[before:]; len(said) != 2 {
		t.Errorf("%d lines were written, not 2: %q", len(said), said)
	}
	end(t, g)
}

// A switch that is stopped costs frames, not the guest, and no restart of the
// link.
func TestStoppedSwitchDoesNotStopTheGuest(t *testing.T) {
	path := rig.TempDir(t) + "/s"
	sw := rig.Switch(t, path)
	g := onSwitch(t, path)
	g.Echo(5 * time.Second)
	sw.Signal(syscall.SIGSTOP)
	slowest := flood(t, g, 5*time.Second, 100*time.Millisecond)
	sw.Signal(syscall.SIGCONT)
	took := g.Echo(recovery)
	t.Logf("the guest waited %v at most; frames flowed %v after the switch went on", slowest, took)
	end(t, g)
}

// A command that does not read costs frames, not the guest, and is not left
// behind.
func TestCommandThatNeverReadsDoesNotStopTheGuest(t *testing.T) {
	g := rig.StartHelper(t, rig.HelperConfig{VNL: "cmd://sleep 60"})
	g.WaitLine("link up", 5*time.Second)
	slowest := flood(t, g, 3*time.Second, guestPatience)
	var command []int
	for _, pid := range g.Children() {
		command = append(command, rig.Children(pid)...)
	}
	if len(command) != 1 {
		t.Errorf("%d commands are running", len(command))
	}
	end(t, g)
	for _, pid := range command {
		if rig.Alive(pid) {
			t.Errorf("the command is left: process %d", pid)
		}
	}
	up, _ := tallies(t, g)
	if up.reasons["full"] == 0 {
		t.Errorf("no frames were dropped: %+v", up)
	}
	t.Logf("the guest waited %v at most", slowest)
}

// A user whose other programs have used up the inotify instances (128 by default)
// has a helper all the same; it finds the switch a little later.
func TestLinkComesWithoutInotify(t *testing.T) {
	sw := rig.TempDir(t) + "/s"
	g := rig.StartHelper(t, rig.HelperConfig{VNL: "vde://" + sw, Program: "unshare", Args: []string{
		"--map-root-user", "sh", "-c", `echo 0 >/proc/sys/user/max_inotify_instances && exec "` + rig.VdePlug() + `" -v "$0" "$1"`,
	}})
	g.WaitLine("link down: no switch there", 5*time.Second)
	rig.Switch(t, sw)
	g.WaitLine("link up again", recovery)
	end(t, g)
}
