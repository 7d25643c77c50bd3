// Package faultplug builds, for tests, a VDE plugin that misbehaves on request:
// its calls block, fail, crash or lie. It is written in C and is found and loaded
// like any other, so what a program does about it is what it does about
// a plugin that is broken. It needs a C compiler and the C library's headers (in
// Debian: gcc and libvdeplug-dev).
//
//	network := faultplug.New(t)
//	name, value, _ := strings.Cut(network.Env(), "=")
//	t.Setenv(name, value)
//	conn, err := libvdeplug.Open(network.VNL(), nil)
//	...
//	network.Set(t, faultplug.RecvFail) // from now on
//
// A plugin that crashes takes its process along, and one that blocks keeps the
// thread that called it for ever. Where the program is to survive that, it has
// a process between them: umlvde, or the Isolation of libvdeplug. Otherwise the
// test starts a process of its own.
package faultplug

import (
	_ "embed"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

//go:embed testdata/fault.c
var source []byte

// A Fault is a misbehaviour: a call of the plugin and what goes wrong in it.
type Fault string

// The faults; testdata/fault.c says what each does.
const (
	OpenBlock  Fault = "open-block"
	OpenCrash  Fault = "open-crash"
	OpenFail   Fault = "open-fail"
	SendBlock  Fault = "send-block"
	SendCrash  Fault = "send-crash"
	SendFail   Fault = "send-fail"
	RecvBlock  Fault = "recv-block"
	RecvCrash  Fault = "recv-crash"
	RecvFail   Fault = "recv-fail"
	RecvLie    Fault = "recv-lie"
	RecvEmpty  Fault = "recv-empty"
	CloseBlock Fault = "close-block"
	CloseCrash Fault = "close-crash"
)

// A Net is a network that sends every frame back, until told otherwise.
type Net struct {
	dir string // where the faults are asked for
	lib string // where the plugin is
}

// New builds the plugin with the host's C compiler.
func New(t testing.TB) *Net {
	t.Helper()
	dir, err := os.MkdirTemp("", "fault")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	n := &Net{dir: filepath.Join(dir, "f"), lib: filepath.Join(dir, "lib")}
	for _, d := range []string{n.dir, n.lib} {
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	src := filepath.Join(dir, "fault.c")
	if err := os.WriteFile(src, source, 0o600); err != nil {
		t.Fatal(err)
	}
	cc := exec.Command("gcc", "-Wall", "-shared", "-fPIC", "-o", filepath.Join(n.lib, "libvdeplug_fault.so"), src)
	if out, err := cc.CombinedOutput(); err != nil {
		t.Fatalf("building the fault plugin: %v\n%s", err, out)
	}
	return n
}

// VNL names the network.
func (n *Net) VNL() string { return "fault://" + n.dir }

// Env is the environment variable with which the library finds the plugin; it
// finds no other then.
func (n *Net) Env() string { return "VDEPLUGIN_PATH=" + n.lib }

// Set makes a call go wrong from now on.
func (n *Net) Set(t testing.TB, f Fault) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(n.dir, string(f)), nil, 0o600); err != nil {
		t.Fatal(err)
	}
}

// Clear ends a fault. A call that blocks already goes on blocking.
func (n *Net) Clear(t testing.TB, f Fault) {
	t.Helper()
	if err := os.Remove(filepath.Join(n.dir, string(f))); err != nil {
		t.Fatal(err)
	}
}
