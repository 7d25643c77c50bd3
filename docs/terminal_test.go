package docs

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/umlvde/umlvde/internal/rig"
)

const (
	// patience is how long a command, or the start of a guest, may take.
	patience = 60 * time.Second
	// soon is how long what a command has caused may need to print something.
	soon = 10 * time.Second
)

// A sandbox is a machine of its own, as far as namespaces go, with a user.
type sandbox struct {
	t         testing.TB
	init      int // its first process
	terminals map[string]*terminal
}

func openSandbox(t testing.TB) *sandbox {
	t.Helper()
	initramfs := rig.Initramfs(t, "exec sh\n")
	cmd := exec.Command("testdata/sandbox", rig.BinDir(), rig.Cache(t), rig.CloudKernel(t), initramfs)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWNET}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { in.Close() })
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	cmd.Stdout = w
	p := rig.Start(t, cmd)
	w.Close()
	if line, err := bufio.NewReader(r).ReadString('\n'); line != "ready\n" {
		t.Fatalf("the sandbox: %q, %v: %s", line, err, p.Lines())
	}
	return &sandbox{t, p.Pid(), make(map[string]*terminal)}
}

// A terminal has a shell, which may be of root, and then perhaps a guest's.
type terminal struct {
	t     testing.TB
	in    io.Writer
	lines chan string
	asked int
}

// terminal opens the one with a name, unless it is open.
func (s *sandbox) terminal(name string) *terminal {
	s.t.Helper()
	if t := s.terminals[name]; t != nil {
		return t
	}
	user := []string{"setpriv", "--reuid=1000", "--regid=1000", "--clear-groups", "env", "-i", "USER=lab", "HOME=/home/lab"}
	if name == "root" {
		user = []string{"env", "-i", "USER=root", "HOME=/tmp"}
	}
	args := append([]string{"--target", fmt.Sprint(s.init), "--mount", "--pid", "--net", "--"}, user...)
	args = append(args, "PATH=/mnt/bin:/usr/sbin:/usr/bin:/sbin:/bin", "GORACE=atexit_sleep_ms=0", "bash", "-c", "cd /tmp; exec bash --norc --noediting -i")
	cmd := exec.Command("nsenter", args...)
	in, err := cmd.StdinPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { in.Close() })
	out, w, err := os.Pipe()
	if err != nil {
		s.t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = w, w
	term := &terminal{t: s.t, in: in, lines: make(chan string, 10000)}
	shell := rig.Start(s.t, cmd)
	s.t.Cleanup(func() {
		_ = syscall.Kill(s.init, syscall.SIGKILL) // and all else in the sandbox, of which nsenter takes leave
		shell.Wait(soon)
	})
	w.Close()
	go func() { // ends when all in the sandbox has ended
		defer out.Close()
		for b := bufio.NewReader(out); ; {
			line, err := b.ReadString('\n')
			if err != nil {
				close(term.lines)
				return
			}
			term.lines <- strings.TrimRight(line, "\r\n")
		}
	}()
	s.terminals[name] = term
	term.ask(true)
	return term
}

var answer = regexp.MustCompile(`^(.*)answer (\d+)$`)

// ask waits until the shell answers, and returns what else was printed before.
// A shell that comes to be is asked until it does.
func (t *terminal) ask(again bool) (output []string) {
	t.t.Helper()
	var tick <-chan time.Time
	if again {
		ticker := time.NewTicker(200 * time.Millisecond)
		defer ticker.Stop()
		tick = ticker.C
	}
	first := t.asked + 1
	t.question(again)
	for timeout := time.After(patience); ; {
		select {
		case line, ok := <-t.lines:
			if !ok {
				t.t.Fatalf("the terminal has ended; it said:\n%s", strings.Join(output, "\n"))
			}
			m := answer.FindStringSubmatch(line)
			if m == nil {
				output = append(output, line)
				continue
			}
			if m[1] != "" {
				output = append(output, m[1]) // without a newline at its end
			}
			var n int
			if _, err := fmt.Sscan(m[2], &n); err == nil && n >= first {
				return output
			}
		case <-tick:
			t.question(true)
		case <-timeout:
			t.t.Fatalf("the shell does not answer; it said:\n%s", strings.Join(output, "\n"))
		}
	}
}

// question has the shell print the answer. The quotes keep its echo from being
// taken for that. A new shell is quiet from now on.
func (t *terminal) question(fresh bool) {
	t.asked++
	quiet := ""
	if fresh {
		quiet = "stty -echo 2>/dev/null; PS1=; PS2=; "
	}
	fmt.Fprintf(t.in, "%secho an''swer %d\n", quiet, t.asked)
}

// noise says that a line is there only because a test types into a pipe: echoes
// and answers of questions, a prompt, a shell that misses its terminal.
func noise(line string) bool {
	return strings.Contains(line, "an''swer") || answer.MatchString(line) || line == "# " || strings.Contains(line, "] tcsetattr: ")
}

// run types the command of a step and returns what is printed, and what had been
// since the last one; it waits for what the document expects.
func (t *terminal) run(st *step, newShell bool) (output []string) {
	t.t.Helper()
	fmt.Fprintln(t.in, st.command)
	for _, line := range t.ask(newShell) {
		if !strings.Contains(line, "an''swer") && line != st.command && line != "# " { // echoes of what was typed
			output = append(output, line)
		}
	}
	wait := soon
	if *update {
		wait = 2 * time.Second
	}
	for timeout := time.After(wait); !same(st.output, output); {
		select {
		case line := <-t.lines:
			if !noise(line) {
				output = append(output, line)
			}
		case <-timeout:
			return output
		}
	}
	return output
}
