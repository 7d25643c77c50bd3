package rig

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A Proc is a process of the test's own, whose standard error is read line by
// line.
type Proc struct {
	t     testing.TB
	Cmd   *exec.Cmd
	done  chan struct{} // closed when it has ended
	mu    sync.Mutex
	more  chan struct{} // closed and replaced at each line
	lines []string
	seen  int // lines that WaitLine has passed
}

// Start starts a process. It is killed at the end of the test.
func Start(t testing.TB, cmd *exec.Cmd) *Proc {
	t.Helper()
	p := &Proc{t: t, Cmd: cmd, done: make(chan struct{}), more: make(chan struct{})}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	if cmd.Stderr == nil {
		cmd.Stderr = w
	}
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL // should the test itself be killed
	if cmd.Env == nil {
		cmd.Env = os.Environ()
	}
	cmd.Env = append(cmd.Env, "GORACE=atexit_sleep_ms=0") // else each end takes a second
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_ = w.Close()
	read := make(chan struct{})
	go func() {
		defer close(read)
		defer r.Close()
		for in := bufio.NewScanner(r); in.Scan(); {
			p.mu.Lock()
			p.lines = append(p.lines, in.Text())
			close(p.more)
			p.more = make(chan struct{})
			p.mu.Unlock()
		}
	}()
	go func() {
		_ = cmd.Wait() // cmd.ProcessState tells
		close(p.done)
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-p.done
		<-read // all that had its standard error has ended, too
		if slices.ContainsFunc(p.lines, func(l string) bool { return strings.Contains(l, "DATA RACE") }) {
			t.Error("a data race in the program")
		}
		if t.Failed() {
			t.Logf("%s said:\n%s", filepath.Base(cmd.Path), strings.Join(p.Lines(), "\n"))
		}
	})
	return p
}

// Lines returns what it has written to its standard error.
func (p *Proc) Lines() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]string(nil), p.lines...)
}

// WaitLine waits for a line that matches and comes after the one that the last
// WaitLine found, and returns the match and its groups.
func (p *Proc) WaitLine(pattern string, within time.Duration) []string {
	p.t.Helper()
	re := regexp.MustCompile(pattern)
	limit := NewLimit(within)
	for {
		p.mu.Lock()
		for p.seen < len(p.lines) {
			p.seen++
			if m := re.FindStringSubmatch(p.lines[p.seen-1]); m != nil {
				p.mu.Unlock()
				return m
			}
		}
		more := p.more
		p.mu.Unlock()
		if !limit.Await(more) {
			p.t.Fatalf("no line like %q within %v", pattern, within)
		}
	}
}

// Wait waits for the end of the process and returns its exit status, -1 after a
// signal.
func (p *Proc) Wait(within time.Duration) int {
	p.t.Helper()
	if !NewLimit(within).Await(p.done) {
		p.t.Fatalf("%s has not ended within %v", p.Cmd.Path, within)
	}
	return p.Cmd.ProcessState.ExitCode()
}

// Signal sends it a signal.
func (p *Proc) Signal(s os.Signal) {
	p.t.Helper()
	if err := p.Cmd.Process.Signal(s); err != nil {
		p.t.Fatal(err)
	}
}

// Pid is its process id.
func (p *Proc) Pid() int { return p.Cmd.Process.Pid }

// Children lists the processes that p has started and that have not ended.
func (p *Proc) Children() []int { return Children(p.Pid()) }

// Children lists the living child processes of pid.
func Children(pid int) (pids []int) {
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, task := range tasks {
		text, _ := os.ReadFile(task) // a thread may have ended
		for _, f := range strings.Fields(string(text)) {
			if pid, err := strconv.Atoi(f); err == nil && Alive(pid) {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}

// Alive says that the process exists and is not a zombie.
func Alive(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, rest, _ := bytes.Cut(stat, []byte(") "))
	return len(rest) > 0 && rest[0] != 'Z'
}

// Kill kills processes and waits until nothing is left of them: the last threads
// of one keep its files after its parent has been told, or before it is.
func Kill(t testing.TB, pids ...int) {
	t.Helper()
	for _, pid := range pids {
		fd, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			continue // it has ended
		}
		_ = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0) // as above
		defer unix.Close(fd)
		defer func() {
			if !Poll(fd, unix.POLLIN, 10*time.Second) {
				t.Errorf("process %d does not end", pid)
			}
		}()
	}
}

// KillAll kills it and the processes that it has started.
func (p *Proc) KillAll() {
	p.t.Helper()
	Kill(p.t, append([]int{p.Pid()}, p.Children()...)...)
}

// A Guest plays UML: it holds the other end of a helper's socket.
type Guest struct {
	*Proc // the helper
	Fd    int
}

// A HelperConfig says how a helper is started.
type HelperConfig struct {
	Env  []string // besides the test's own
	Args []string // before the VNLs; default: --descr UML -v
	VNL  string
	Attr *syscall.SysProcAttr

	Program string     // another vde_plug than the one under test
	Files   []*os.File // what it gets as descriptors 4, 5, ...
}

// StartHelper starts the program as UML would.
func StartHelper(t testing.TB, c HelperConfig) *Guest {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	far := os.NewFile(uintptr(pair[1]), "guest")
	defer far.Close()
	if c.Args == nil {
		c.Args = []string{"--descr", "UML", "-v"}
	}
	if c.Program == "" {
		c.Program = VdePlug()
	}
	cmd := exec.Command(c.Program, append(c.Args, "seqpacket://3", c.VNL)...)
	cmd.Args[0] = "vde_plug"
	cmd.Env = append(os.Environ(), c.Env...)
	cmd.ExtraFiles = append([]*os.File{far}, c.Files...)
	cmd.SysProcAttr = c.Attr
	g := &Guest{Proc: Start(t, cmd), Fd: pair[0]}
	t.Cleanup(g.Close)
	return g
}

// Close closes the guest's end, as UML does when it ends.
func (g *Guest) Close() {
	if g.Fd >= 0 {
		_ = unix.Close(g.Fd)
		g.Fd = -1
	}
}

// Frame makes a frame of n bytes (14 at least) that carries a number.
func Frame(n int, number uint32) []byte {
	f := make([]byte, n)
	copy(f, []byte{2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x88, 0xb5})
	if n >= 18 {
		binary.BigEndian.PutUint32(f[14:], number)
	}
	return f
}

// Number is the number in a Frame.
func Number(f []byte) uint32 { return binary.BigEndian.Uint32(f[14:18]) }

// Send sends a frame towards the network, waiting for room as long as within.
// It reports false if there was none.
func (g *Guest) Send(frame []byte, within time.Duration) bool {
	g.t.Helper()
	for limit := NewLimit(within); ; {
		err := unix.Sendto(g.Fd, frame, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, nil)
		switch {
		case err == nil:
			return true
		case !errors.Is(err, unix.EAGAIN):
			g.t.Fatalf("the guest's socket: %v", err)
		case !Poll(g.Fd, unix.POLLOUT, limit.Left()) && limit.Left() <= 0:
			return false
		}
	}
}

// Recv returns the next frame from the network, nil if none comes in time.
func (g *Guest) Recv(within time.Duration) []byte {
	g.t.Helper()
	if !Poll(g.Fd, unix.POLLIN, within) {
		return nil
	}
	var buf [70000]byte
	n, _, err := unix.Recvfrom(g.Fd, buf[:], unix.MSG_DONTWAIT)
	if err != nil || n == 0 {
		g.t.Fatalf("the guest's socket was closed: %d bytes, %v", n, err)
	}
	return buf[:n:n]
}

// Discard throws away the frames that have come.
func (g *Guest) Discard() {
	g.t.Helper()
	for f := g.Recv(0); f != nil; {
		f = g.Recv(0)
	}
}

// Echo sends numbered frames until one comes back, or fails the test; it
// returns how long that took. Frames that come back late are thrown away.
func (g *Guest) Echo(within time.Duration) time.Duration {
	g.t.Helper()
	start, limit := time.Now(), NewLimit(within)
	for number := uint32(start.UnixNano()); limit.Left() > 0; number++ {
		g.Send(Frame(60, number), within)
		for f := g.Recv(20 * time.Millisecond); f != nil; f = g.Recv(20 * time.Millisecond) {
			if len(f) == 60 && Number(f) == number {
				return time.Since(start)
			}
		}
	}
	g.t.Fatalf("no frame came back within %v", within)
	return 0
}

// Poll waits for events of a descriptor, whatever signals come meanwhile, and
// reports whether there was one in time.
func Poll(fd int, events int16, within time.Duration) bool {
	p := []unix.PollFd{{Fd: int32(fd), Events: events}}
	for deadline := time.Now().Add(within); ; {
		n, err := unix.Poll(p, int(max(0, time.Until(deadline).Milliseconds())))
		if err == nil || !errors.Is(err, unix.EINTR) {
			return n > 0
		}
	}
}

// Eventually fails the test unless ok becomes true in time; it is for what no
// event tells of.
func Eventually(t testing.TB, within time.Duration, what string, ok func() bool) {
	t.Helper()
	for limit := NewLimit(within); !ok(); {
		if limit.Left() <= 0 {
			t.Fatalf("not within %v: %s", within, what)
		}
		time.Sleep(2 * time.Millisecond) // there is no event to wait for
	}
}

// StartListen starts umlvde listen and waits until it listens on its path,
// the word before the last.
func StartListen(t testing.TB, args ...string) *Proc {
	t.Helper()
	p := Start(t, exec.Command(Umlvde(), append([]string{"listen"}, args...)...))
	path := args[len(args)-2]
	Eventually(t, 5*time.Second, "umlvde listens", func() bool { return Listens(t, path) })
	return p
}

// Listens says that a program listens on the unix socket at path, in the
// network namespace of the calling thread.
func Listens(t testing.TB, path string) bool {
	t.Helper()
	return listens(t, "thread-self", path)
}

// Listens is Listens in the network namespace of the process.
func (p *Proc) Listens(path string) bool {
	p.t.Helper()
	return listens(p.t, strconv.Itoa(p.Pid()), path)
}

func listens(t testing.TB, process, path string) bool {
	t.Helper()
	table, err := os.ReadFile("/proc/" + process + "/net/unix")
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range strings.Split(string(table), "\n") {
		if f := strings.Fields(line); len(f) == 8 && f[7] == path && f[3] == "00010000" { // __SO_ACCEPTCON
			return true
		}
	}
	return false
}
