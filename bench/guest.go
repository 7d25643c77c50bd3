package main

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/umlvde/umlvde/internal/rig"
)

// A guest is a running UML kernel, whose root is the host's, read-only.
type guest struct {
	proc  *process
	in    *os.File
	lines chan string
	id    int
}

// guestInit does what it reads, line by line, and tells the exit status of
// each. What runs in a guest goes on as a process of the host when its kernel
// is killed, so it looks whether it is in one before it halts.
const guestInit = `#!/bin/sh
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/run TMPDIR=/run
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t tmpfs tmp /run
stty -echo 2>/dev/null
ip link set lo up
echo "guest is up"
while read -r id line; do
	eval "$line" </dev/null
	echo "guest did $id: $?"
done
grep -q "init=$0" /proc/cmdline || exit
echo o >/proc/sysrq-trigger
sleep 60
`

// kernel is the path of the UML kernel with transport=vde that ci/kernels fetches.
func kernel() (string, error) {
	cache := os.Getenv("UMLVDE_CACHE")
	if cache == "" {
		dir, err := os.UserCacheDir()
		if err != nil {
			return "", err
		}
		cache = filepath.Join(dir, "umlvde")
	}
	path := filepath.Join(cache, "kernels", "6.12", "linux")
	if _, err := os.Stat(path); err != nil {
		return "", fmt.Errorf("%w (run: make kernels)", err)
	}
	return path, nil
}

// boot starts a guest whose vec0 is vnl, and whose helper is the vde_plug in
// the directory first of the PATH.
func boot(kernel, dir, first, vnl string) (_ *guest, err error) {
	if dir, err = os.MkdirTemp(dir, "g"); err != nil {
		return nil, err
	}
	script := filepath.Join(dir, "init")
	if err = os.WriteFile(script, []byte(guestInit), 0o755); err != nil { //nolint:gosec // it has to be executable
		return nil, err
	}
	cmd := exec.Command(kernel, "mem=128M", "root=/dev/root", "rootfstype=hostfs", "rootflags=/", "ro", "init="+script,
		"con=null", "con0=fd:0,fd:1", "quiet", "uml_dir="+dir, "vec0:transport=vde,vnl="+vnl)
	cmd.Env = append(os.Environ(), "PATH="+first+":"+os.Getenv("PATH"), "TMPDIR="+dir, "HOME="+dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	stdin, in, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer stdin.Close()
	out, stdout, err := os.Pipe()
	if err != nil {
		in.Close()
		return nil, err
	}
	defer stdout.Close()
	cmd.Stdin, cmd.Stdout = stdin, stdout
	g := &guest{in: in, lines: make(chan string, 1000)}
	if g.proc, err = start(cmd, -1); err != nil {
		in.Close()
		out.Close()
		return nil, err
	}
	go func() {
		defer close(g.lines)
		defer out.Close()
		for s := bufio.NewScanner(out); s.Scan(); {
			g.lines <- strings.TrimRight(s.Text(), "\r")
		}
	}()
	if _, err = g.until("guest is up", 30*time.Second); err != nil {
		g.end()
		return nil, err
	}
	return g, nil
}

// until returns what the guest prints before a line that begins with mark, and
// the rest of that line.
func (g *guest) until(mark string, within time.Duration) (text []string, err error) {
	timeout := time.After(within)
	for {
		select {
		case line, ok := <-g.lines:
			if !ok {
				return nil, fmt.Errorf("the guest has ended: %q", text)
			}
			if rest, ok := strings.CutPrefix(line, mark); ok {
				return append(text, rest), nil
			}
			text = append(text, line)
		case <-timeout:
			return nil, fmt.Errorf("the guest did not print %q within %v, but %q", mark, within, text)
		}
	}
}

// do runs a shell command in the guest and returns what it printed.
func (g *guest) do(within time.Duration, command string) (string, error) {
	g.id++
	if _, err := fmt.Fprintf(g.in, "%d %s\n", g.id, command); err != nil {
		return "", fmt.Errorf("the guest's console: %w", err)
	}
	text, err := g.until(fmt.Sprintf("guest did %d: ", g.id), within)
	if err != nil {
		return "", fmt.Errorf("%s: %w", command, err)
	}
	last := len(text) - 1
	printed := strings.Join(text[:last], "\n")
	if text[last] != "0" {
		return "", fmt.Errorf("in the guest, %q ended with %s: %s", command, text[last], printed)
	}
	return printed, nil
}

// end switches the guest off.
func (g *guest) end() {
	g.in.Close() // its init halts it
	session := g.proc.pid()
	g.proc.end(3 * time.Second)
	for _, pid := range rig.Session(session) { // threads of the kernel outlive it, if it was killed
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
}
