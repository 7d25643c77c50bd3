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

// serveScript answers each line of a shell's input with its output and a line
// that tells its exit status.
const serveScript = `
echo "guest is up"
while read -r id line; do
	eval "$line" </dev/null
	echo "guest did $id: $?"
done
`

// A Console is a machine of whatever kind that does what it reads, line by
// line. It is not safe for concurrent use.
type Console struct {
	t     testing.TB
	Cmd   *exec.Cmd
	Proc  *Proc
	in    *os.File
	mu    sync.Mutex
	lines []string
	more  chan struct{}
	seen  int
	id    int
	boots bool          // nobody has waited yet until it is up
	ended chan struct{} // closed when nothing more can come
}

// openConsole starts cmd, which has to speak as serveScript does, in a session
// of its own. At the end of the test that session is killed.
func openConsole(t testing.TB, cmd *exec.Cmd) *Console {
	t.Helper()
	r, in, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	out, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	cmd.Stdin, cmd.Stdout = r, w
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	c := &Console{t: t, Cmd: cmd, in: in, more: make(chan struct{}), ended: make(chan struct{})}
	c.Proc = Start(t, cmd)
	t.Cleanup(func() {
		in.Close()
		killSession(cmd.Process.Pid) // UML's threads, which up to 6.12 outlive it, and what a shell has left behind
		<-c.ended
		if t.Failed() {
			c.mu.Lock()
			defer c.mu.Unlock()
			t.Logf("%s said:\n%s", filepath.Base(cmd.Path), strings.Join(c.lines, "\n"))
		}
	})
	go func() {
		defer close(c.ended)
		defer out.Close()
		for in := bufio.NewScanner(out); in.Scan(); {
			c.mu.Lock()
			c.lines = append(c.lines, strings.TrimRight(in.Text(), "\r"))
			close(c.more)
			c.more = make(chan struct{})
			c.mu.Unlock()
		}
	}()
	return c
}

// StartProgram starts a program of the test's own that answers each line of
// its input, "ID COMMAND", with what it has to say and "guest did ID: STATUS".
func StartProgram(t testing.TB, cmd *exec.Cmd) *Console {
	t.Helper()
	return openConsole(t, cmd)
}

// StartShell starts a shell by the program and arguments in before, such as
// those of a [Namespace], and waits until it runs. Its $HOME is a directory of
// its own.
func StartShell(t testing.TB, before ...string) *Console {
	t.Helper()
	dir := TempDir(t)
	argv := append(append([]string(nil), before...), "/bin/sh", "-c", serveScript)
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin", "TMPDIR="+dir, "HOME="+dir)
	c := openConsole(t, cmd)
	c.waitLine("guest is up", 10*time.Second)
	return c
}

// waitLine waits for a line of the console that matches and returns the lines
// since the last call, without the last one.
func (c *Console) waitLine(pattern string, within time.Duration) (between []string, match []string) {
	c.t.Helper()
	re := regexp.MustCompile(pattern)
	limit := NewLimit(within)
	from := c.seen
	for {
		c.mu.Lock()
		for c.seen < len(c.lines) {
			c.seen++
			if m := re.FindStringSubmatch(c.lines[c.seen-1]); m != nil {
				between = append(between, c.lines[from:c.seen-1]...)
				c.mu.Unlock()
				return between, m
			}
		}
		more := c.more
		c.mu.Unlock()
		select {
		case <-more:
		case <-c.ended:
			if c.allSeen() {
				c.t.Fatalf("the guest has ended, and printed no line like %q", pattern)
			}
		case <-time.After(limit.Left()):
			if limit.Left() > 0 {
				continue
			}
			c.t.Fatalf("the guest printed no line like %q within %v", pattern, within)
		}
	}
}

func (c *Console) allSeen() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.seen == len(c.lines)
}

// Do runs a shell command in the guest, waits for its end and returns what it
// printed and its exit status.
func (c *Console) Do(within time.Duration, command string) (output string, status int) {
	c.t.Helper()
	c.Tell(command)
	between, m := c.waitLine(fmt.Sprintf(`guest did %d: (\d+)$`, c.id), within)
	if _, err := fmt.Sscan(m[1], &status); err != nil {
		c.t.Fatal(err)
	}
	return strings.Join(between, "\n"), status
}

// Must is Do of a command that has to succeed.
func (c *Console) Must(within time.Duration, command string) string {
	c.t.Helper()
	out, status := c.Do(within, command)
	if status != 0 {
		c.t.Fatalf("in the guest, %q ended with %d:\n%s", command, status, out)
	}
	return out
}

// Tell gives the guest a command without waiting for its end.
func (c *Console) Tell(command string) {
	c.t.Helper()
	if c.boots { // what is typed on a serial line before somebody reads is lost
		c.waitLine("guest is up", time.Minute)
		c.boots = false
	}
	c.id++
	if _, err := fmt.Fprintf(c.in, "%d %s\n", c.id, command); err != nil {
		c.t.Fatal(err)
	}
}
