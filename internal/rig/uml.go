package rig

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Kernel is the path of the UML kernel of a version, "6.1", "6.12" or "7", that
// ci/kernels has fetched.
func Kernel(t testing.TB, version string) string {
	t.Helper()
	cache := os.Getenv("UMLVDE_CACHE")
	if cache == "" {
		dir, err := os.UserCacheDir()
		if err != nil {
			t.Fatal(err)
		}
		cache = filepath.Join(dir, "umlvde")
	}
	path := filepath.Join(cache, "kernels", version, "linux")
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("no UML kernel %s (run: make kernels): %v", version, err)
	}
	return path
}

// A UML is a running UML guest, whose root is the host's, read-only. Its init
// is a shell that does what Do says.
type UML struct {
	t     testing.TB
	Cmd   *exec.Cmd
	Proc  *Proc
	Dir   string // its temporary directory
	in    *os.File
	mu    sync.Mutex
	lines []string
	more  chan struct{}
	seen  int
	id    int
}

// initScript answers each line of its input with its output and a line that
// tells its exit status. When a UML kernel is killed, what ran in the guest may
// go on as a process of the host (its tracer is gone), so before it does what
// only a guest should, the script makes sure that it is in one.
const initScript = `#!/bin/sh
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/run
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
echo "guest is up"
while read -r id line; do
	eval "$line" </dev/null
	echo "guest did $id: $?"
done
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
	r, in, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	argv := append([]string(nil), before...)
	argv = append(argv, kernel, "mem=128M", "root=/dev/root", "rootfstype=hostfs", "rootflags=/", "ro", "init="+script,
		"con=null", "con0=fd:0,fd:1", "quiet", "uml_dir="+dir)
	cmd := exec.Command(argv[0], append(argv[1:], args...)...)
	cmd.Env = append(os.Environ(), "PATH="+BinDir()+":"+os.Getenv("PATH"), "TMPDIR="+dir, "HOME="+dir)
	cmd.Env = append(cmd.Env, env...)
	cmd.Stdin = r
	out, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout = w
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	u := &UML{t: t, Cmd: cmd, Dir: dir, in: in, more: make(chan struct{})}
	read := make(chan struct{})
	u.Proc = Start(t, cmd)
	t.Cleanup(func() {
		in.Close()
		killSession(u.Cmd.Process.Pid) // its threads, which up to 6.12 outlive it
		<-read
		if t.Failed() {
			u.mu.Lock()
			defer u.mu.Unlock()
			t.Logf("the guest said:\n%s", strings.Join(u.lines, "\n"))
		}
	})
	r.Close()
	w.Close()
	go func() {
		defer close(read)
		defer out.Close()
		for in := bufio.NewScanner(out); in.Scan(); {
			u.mu.Lock()
			u.lines = append(u.lines, strings.TrimRight(in.Text(), "\r"))
			close(u.more)
			u.more = make(chan struct{})
			u.mu.Unlock()
		}
	}()
	u.waitLine("guest is up", 30*time.Second)
	return u
}

// waitLine waits for a line of the console that matches and returns the lines
// since the last call, without the last one.
func (u *UML) waitLine(pattern string, within time.Duration) (between []string, match []string) {
	u.t.Helper()
	re := regexp.MustCompile(pattern)
	timeout := time.After(within)
	from := u.seen
	for {
		u.mu.Lock()
		for u.seen < len(u.lines) {
			u.seen++
			if m := re.FindStringSubmatch(u.lines[u.seen-1]); m != nil {
				between = append(between, u.lines[from:u.seen-1]...)
				u.mu.Unlock()
				return between, m
			}
		}
		more := u.more
		u.mu.Unlock()
		select {
		case <-more:
		case <-timeout:
			u.t.Fatalf("the guest printed no line like %q within %v", pattern, within)
		}
	}
}

// Do runs a shell command in the guest, waits for its end and returns what it
// printed and its exit status.
func (u *UML) Do(within time.Duration, command string) (output string, status int) {
	u.t.Helper()
	u.Tell(command)
	between, m := u.waitLine(fmt.Sprintf(`guest did %d: (\d+)$`, u.id), within)
	if _, err := fmt.Sscan(m[1], &status); err != nil {
		u.t.Fatal(err)
	}
	return strings.Join(between, "\n"), status
}

// Must is Do of a command that has to succeed.
func (u *UML) Must(within time.Duration, command string) string {
	u.t.Helper()
	out, status := u.Do(within, command)
	if status != 0 {
		u.t.Fatalf("in the guest, %q ended with %d:\n%s", command, status, out)
	}
	return out
}

// Panic makes the kernel panic.
func (u *UML) Panic() {
	u.t.Helper()
	u.Tell("halt c")
}

// Tell gives the guest a command without waiting for its end.
func (u *UML) Tell(command string) {
	u.t.Helper()
	u.id++
	if _, err := fmt.Fprintf(u.in, "%d %s\n", u.id, command); err != nil {
		u.t.Fatal(err)
	}
}

// PowerOff ends the guest as an administrator would and returns the kernel's
// exit status.
func (u *UML) PowerOff() int {
	u.t.Helper()
	u.Tell("halt o")
	return u.Proc.Wait(10 * time.Second)
}

// killSession kills all processes of a session, by their ids, until there is
// none: one may be about to start another.
func killSession(sid int) {
	for range 100 {
		pids := Session(sid)
		if len(pids) == 0 {
			return
		}
		for _, pid := range pids {
			_ = syscall.Kill(pid, syscall.SIGKILL) // it may have ended
		}
		time.Sleep(5 * time.Millisecond) // there is no event for the end of processes of others
	}
}

// Session lists the living processes of a session.
func Session(sid int) (pids []int) {
	stats, _ := filepath.Glob("/proc/[0-9]*/stat") // the pattern is good
	for _, path := range stats {
		text, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		_, rest, _ := strings.Cut(string(text), ") ")
		var state string
		var pid, ppid, pgrp, session int
		if _, err := fmt.Sscan(rest, &state, &ppid, &pgrp, &session); err != nil || session != sid || state == "Z" {
			continue
		}
		if _, err := fmt.Sscanf(filepath.Base(filepath.Dir(path)), "%d", &pid); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}
