package conformance

import (
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/umlvde/umlvde/internal/leak"
	"github.com/umlvde/umlvde/internal/rig"
	"golang.org/x/sys/unix"
)

var update = flag.Bool("update", false, "write docs/plugs.md")

// insideEnv says to the test program that it has a network and a directory of
// its own.
const insideEnv = "CONFORMANCE_INSIDE"

// TestMain runs the tests in a network namespace and a temporary directory of
// their own, so that all that they leave in either can be seen.
func TestMain(m *testing.M) {
	flag.Parse()
	if os.Getenv(insideEnv) == "" {
		os.Exit(outside())
	}
	os.Exit(rig.Main(inside{m}))
}

// outside starts the test program again, inside, and looks at what it leaves.
func outside() int {
	dir, err := os.MkdirTemp("/tmp", "cf") // a short name: sockets are in it
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), insideEnv+"=1", "TMPDIR="+dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Run(); err != nil {
		fmt.Fprintf(os.Stderr, "the tests in their own network namespace (they must run as root): %v\n", err)
		return 1
	}
	if left, _ := filepath.Glob(dir + "/*"); len(left) > 0 {
		fmt.Fprintf(os.Stderr, "the tests have left files: %q\n", left)
		return 1
	}
	return 0
}

// inside runs the tests proper.
type inside struct{ m *testing.M }

func (i inside) Run() int {
	// What a test has started and not ended becomes a child of this process.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if err := loopback(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if err := openHome(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer home.Close()
	code := leak.Main(i.m)
	if left := leftovers(); code == 0 && len(left) > 0 {
		fmt.Fprintf(os.Stderr, "the tests have left:\n%s\n", strings.Join(left, "\n"))
		return 1
	}
	return code
}

// leftovers lists the processes, the network interfaces and the sockets with a
// name or a port of the tests' namespace.
func leftovers() (left []string) {
	for deadline := time.Now().Add(2 * time.Second); ; time.Sleep(10 * time.Millisecond) { // no event tells of all of them
		left = nil
		for _, pid := range rig.Children(os.Getpid()) {
			text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)) // it may be ending
			left = append(left, fmt.Sprintf("process %d: %s", pid, strings.ReplaceAll(string(text), "\x00", " ")))
		}
		ifs, err := net.Interfaces()
		if err != nil {
			return []string{err.Error()}
		}
		for _, i := range ifs {
			if i.Name != "lo" {
				left = append(left, "interface "+i.Name)
			}
		}
		for table, column := range map[string]int{"unix": 7, "udp": 1, "udp6": 1, "tcp": 1, "tcp6": 1, "raw": 1, "packet": 0} {
			left = append(left, sockets(table, column)...)
		}
		if len(left) == 0 || time.Now().After(deadline) {
			return left
		}
	}
}

// sockets lists the sockets of a table in /proc/net that have a word in column;
// connections that TCP still remembers do not count.
func sockets(table string, column int) (list []string) {
	text, err := os.ReadFile("/proc/net/" + table)
	if err != nil {
		return []string{err.Error()}
	}
	for _, line := range strings.Split(string(text), "\n")[1:] {
		f := strings.Fields(line)
		if len(f) <= column || strings.HasPrefix(table, "tcp") && f[3] == "06" { // TCP_TIME_WAIT
			continue
		}
		list = append(list, table+" socket "+f[column])
	}
	return list
}
