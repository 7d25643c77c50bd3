package rig

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// Kernel is the path of the UML kernel of a version, "6.1", "6.12" or "7", that
// ci/kernels has fetched.
func Kernel(t testing.TB, version string) string {
	t.Helper()
	return cached(t, version, "linux")
}

// Cache is the directory that ci/kernels fetches into.
func Cache(t testing.TB) string {
	t.Helper()
	if dir := os.Getenv("UMLVDE_CACHE"); dir != "" {
		return dir
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, "umlvde")
}

// cached is the path of a file that ci/kernels has fetched.
func cached(t testing.TB, version, file string) string {
	t.Helper()
	path := filepath.Join(Cache(t), "kernels", version, file)
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("no kernel %s (run: make kernels): %v", version, err)
	}
	return path
}

// A UML is a running UML guest, whose root is the host's, read-only. Its init
// is a shell that does what Do says.
type UML struct {
	*Console
	Dir string // its temporary directory
}

// initScript makes a shell of a UML kernel's init. When the kernel is killed,
// what ran in the guest may go on as a process of the host (its tracer is
// gone), so before it does what only a guest should, the script makes sure that
// it is in one.
const initScript = `#!/bin/sh
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/run TMPDIR=/run
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t tmpfs tmp /run
stty -echo 2>/dev/null
ip link set lo up
halt() {
	grep -q "init=$0" /proc/cmdline || exit
	echo "$1" >/proc/sysrq-trigger
	sleep 60
}
` + serveScript + `
halt o
`

// Boot starts a UML kernel by the program and arguments in before, if any
// ("umlvde", "run"), with the kernel's arguments, such as vec0:..., and waits
// until its init runs. Env is added to its environment, where the program is
// found first in PATH as vde_plug. Nothing of it is left after the test.
func Boot(t testing.TB, kernel string, before, args, env []string) *UML {
	t.Helper()
	dir := TempDir(t)
	script := filepath.Join(dir, "init")
	if err := os.WriteFile(script, []byte(initScript), 0o755); err != nil { //nolint:gosec // it has to be executable
		t.Fatal(err)
	}
	argv := append([]string(nil), before...)
	argv = append(argv, kernel, "mem=128M", "root=/dev/root", "rootfstype=hostfs", "rootflags=/", "ro", "init="+script,
		"con=null", "con0=fd:0,fd:1", "quiet", "uml_dir="+dir)
	cmd := exec.Command(argv[0], append(argv[1:], args...)...)
	cmd.Env = append(os.Environ(), "PATH="+BinDir()+":"+os.Getenv("PATH"), "TMPDIR="+dir, "HOME="+dir)
	cmd.Env = append(cmd.Env, env...)
	u := &UML{openConsole(t, cmd), dir}
	u.waitLine("guest is up", 30*time.Second)
	return u
}

// Panic makes the kernel panic.
func (u *UML) Panic() {
	u.t.Helper()
	u.Tell("halt c")
}

// PowerOff ends the guest as an administrator would and returns the kernel's
// exit status.
func (u *UML) PowerOff() int {
	u.t.Helper()
	u.Tell("halt o")
	return u.Proc.Wait(10 * time.Second)
}
