package main

import (
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/umlvde/umlvde/internal/rig"
	"github.com/umlvde/umlvde/libvdeplug/faultplug"
)

// recovery is how soon frames must flow again once a plugin behaves.
const recovery = 2 * time.Second

// A plugin may do anything in any call: the guest's socket stays open and is
// emptied meanwhile, and frames flow again soon after the plugin behaves.
func TestGuestOutlivesEveryFaultOfAPlugin(t *testing.T) {
	for _, fault := range []faultplug.Fault{
		faultplug.OpenBlock, faultplug.OpenCrash, faultplug.OpenFail,
		faultplug.SendBlock, faultplug.SendCrash, faultplug.SendFail,
		faultplug.RecvBlock, faultplug.RecvCrash, faultplug.RecvFail, faultplug.RecvLie, faultplug.RecvEmpty,
	} {
		t.Run(string(fault), func(t *testing.T) {
			net := faultplug.New(t)
			g := rig.StartHelper(t, rig.HelperConfig{VNL: net.VNL(), Env: []string{net.Env()}})
			g.Echo(5 * time.Second)
			net.Set(t, fault)
			if strings.HasPrefix(string(fault), "open") {
				killWorker(t, g)
			}
			slowest := flood(t, g, 3*time.Second, guestPatience)
			net.Clear(t, fault)
			took := g.Echo(recovery)
			t.Logf("the guest waited %v at most; frames flowed %v after the plugin behaved", slowest, took)
			end(t, g)
		})
	}
}

// A plugin that hangs in vde_close is left behind.
func TestPluginThatNeverClosesIsLeftBehind(t *testing.T) {
	net := faultplug.New(t)
	for _, fault := range []faultplug.Fault{faultplug.CloseBlock, faultplug.CloseCrash} {
		t.Run(string(fault), func(t *testing.T) {
			g := rig.StartHelper(t, rig.HelperConfig{VNL: net.VNL(), Env: []string{net.Env()}})
			g.Echo(5 * time.Second)
			net.Set(t, fault)
			defer net.Clear(t, fault)
			end(t, g)
		})
	}
}

// A network that is still being opened when the guest or the helper ends is closed
// again: a hub that was just made is removed.
func TestOpenThatIsUnderWayLeavesNothing(t *testing.T) {
	for _, tc := range []struct {
		name string
		end  func(*rig.Guest)
	}{
		{"the guest ends", func(g *rig.Guest) { g.Close() }},
		{"SIGTERM", func(g *rig.Guest) { g.Signal(syscall.SIGTERM) }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			hub := rig.TempDir(t) + "/hub"
			stale := rig.StartHelper(t, rig.HelperConfig{VNL: "hub://" + hub})
			stale.WaitLine("link up", 5*time.Second)
			stale.KillAll()
			// What was killed has left its hub, so the next one takes a moment.
			g := rig.StartHelper(t, rig.HelperConfig{VNL: "hub://" + hub})
			rig.Eventually(t, 5*time.Second, "the worker has begun", func() bool {
				return rig.Listens(t, hub+"/ctl") || slices.ContainsFunc(g.Children(), func(pid int) bool {
					return slices.Contains(slices.Collect(maps.Values(rig.OpenFiles(t, pid))), hub) // it looks what was left
				})
			})
			tc.end(g)
			if code := g.Wait(5 * time.Second); code != 0 {
				t.Errorf("exit status %d", code)
			}
			if left, _ := filepath.Glob(hub + "*"); len(left) > 0 {
				t.Errorf("left: %q", left)
			}
		})
	}
}

// Workers that are killed all the time cost frames, not the guest.
func TestGuestOutlivesItsWorkers(t *testing.T) {
	net := faultplug.New(t)
	g := rig.StartHelper(t, rig.HelperConfig{VNL: net.VNL(), Env: []string{net.Env()}})
	g.Echo(5 * time.Second)
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	kills := 0
	for until := time.Now().Add(5 * time.Second); time.Now().Before(until); {
		flood(t, g, 0, guestPatience)
		<-tick.C
		for _, pid := range g.Children() {
			if err := syscall.Kill(pid, syscall.SIGKILL); err == nil {
				kills++
			}
		}
	}
	if kills < 5 { // a machine under load takes its time to start them
		t.Fatalf("only %d workers could be killed", kills)
	}
	t.Logf("%d workers were killed; frames flowed %v after the last", kills, g.Echo(recovery))
	end(t, g)
}

// A worker that is stopped does not stop the guest.
func TestGuestOutlivesAStoppedWorker(t *testing.T) {
	net := faultplug.New(t)
	g := rig.StartHelper(t, rig.HelperConfig{VNL: net.VNL(), Env: []string{net.Env()}})
	g.Echo(5 * time.Second)
	for _, pid := range g.Children() {
		if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("the guest waited %v at most", flood(t, g, 500*time.Millisecond, guestPatience))
	g.Echo(recovery)
	end(t, g)
}

// killWorker ends the worker that is there, so that the next one meets what was
// prepared for it.
func killWorker(t *testing.T, g *rig.Guest) {
	t.Helper()
	for _, pid := range g.Children() {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	g.WaitLine("link down", 5*time.Second)
}

// guestPatience is how long a guest's frame may wait for room, whatever the network
// does. What a busy machine adds does not count (rig.Limit).
const guestPatience = 250 * time.Millisecond

// flood sends frames as fast as the helper reads them and returns the longest
// time that one had to wait for room, which is how long a guest would have been
// frozen. It fails the test if that is longer than limit.
func flood(t *testing.T, g *rig.Guest, length, limit time.Duration) (slowest time.Duration) {
	t.Helper()
	frame := rig.Frame(60, 0)
	for until := time.Now().Add(length); ; {
		for range 200 { // more than the socket holds
			start := time.Now()
			if !g.Send(frame, limit) {
				t.Fatalf("the guest's socket was not read for %v", limit)
			}
			slowest = max(slowest, time.Since(start))
		}
		g.Discard()
		if !time.Now().Before(until) {
			return slowest
		}
	}
}

// end ends the guest and expects everything to be gone soon.
func end(t *testing.T, g *rig.Guest) {
	t.Helper()
	left := g.Children()
	g.Close()
	if code := g.Wait(time.Second); code != 0 {
		t.Errorf("exit status %d", code)
	}
	for _, pid := range left {
		if rig.Alive(pid) {
			t.Errorf("process %d is left", pid)
		}
	}
}
