package rig

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// apartEnv tells the process that MainApart starts what it is.
const apartEnv = "UMLVDE_TEST_APART"

// MainApart is Main, in a process that has a network and mounts of its own: no
// address, port or interface is that of the host or of another test. At the end of the
// tests no process, socket, interface, mount or file of theirs may be left. It
// needs root.
func MainApart(m interface{ Run() int }) int {
	if os.Getenv(apartEnv) == "" {
		cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
		cmd.Args[0] = os.Args[0]
		cmd.Env = append(os.Environ(), apartEnv+"=1")
		cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
		return exitStatus(cmd.Run())
	}
	dir, err := os.MkdirTemp("/tmp", "vde")
	if err == nil {
		defer os.RemoveAll(dir)
		err = settle(dir)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	before, err := belongings(dir)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	code := Main(m)
	var left []string
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(10 * time.Millisecond) { // no event tells
		now, err := belongings(dir)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		if left = without(now, before); len(left) == 0 {
			return code
		}
		if time.Now().After(deadline) {
			break
		}
	}
	for _, pid := range Children(os.Getpid()) {
		_ = syscall.Kill(pid, syscall.SIGKILL) // it may have ended
	}
	fmt.Fprintf(os.Stderr, "the tests have left:\n%s\n", strings.Join(left, "\n"))
	return max(code, 1)
}

// settle prepares the process that MainApart starts.
func settle(dir string) error {
	for _, command := range []string{"mount --make-rprivate /", "ip link set lo up"} {
		argv := strings.Fields(command)
		if out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w: %s", command, err, out)
		}
	}
	// What has lost its parent becomes a child of this process.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("becoming the reaper of what tests leave: %w", err)
	}
	return os.Setenv("TMPDIR", dir) // for TempDir
}

// belongings lists what there is that a test can leave: processes, what is in
// dir, sockets and interfaces of this network namespace, mounts.
func belongings(dir string) (all []string, err error) {
	for _, pid := range Children(os.Getpid()) {
		command, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if err == nil {
			all = append(all, fmt.Sprintf("process %d: %s", pid, bytes.ReplaceAll(command, []byte{0}, []byte{' '})))
		}
	}
	files, err := filepath.Glob(dir + "/*")
	all = append(all, files...)
	for _, table := range []string{"net/unix", "net/tcp", "net/tcp6", "net/udp", "net/udp6", "net/packet", "net/raw", "net/dev", "mountinfo"} {
		text, err2 := os.ReadFile("/proc/thread-self/" + table)
		err = errors.Join(err, err2)
		for _, line := range strings.Split(strings.TrimSpace(string(text)), "\n")[1:] {
			if fields := strings.Fields(line); table == "net/dev" {
				line = fields[0] // the rest counts packets
			} else if table == "net/tcp" && fields[3] == "06" {
				continue // TIME_WAIT: only the kernel remembers it
			}
			all = append(all, table+": "+line)
		}
	}
	return all, err
}

// without is what of a is not in b.
func without(a, b []string) (rest []string) {
	had := make(map[string]bool)
	for _, s := range b {
		had[s] = true
	}
	for _, s := range a {
		if !had[s] {
			rest = append(rest, s)
		}
	}
	return rest
}

func exitStatus(err error) int {
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return max(1, exit.ExitCode())
	}
	fmt.Fprintln(os.Stderr, err)
	return 1
}
