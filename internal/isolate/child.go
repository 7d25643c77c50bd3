package isolate

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"time"

	"github.com/umlvde/umlvde/internal/guard"
	"github.com/umlvde/umlvde/internal/plug"
	"golang.org/x/sys/unix"
)

// A CrashError says that a worker has ended otherwise than by its own decision.
type CrashError struct{ reason string }

func (e *CrashError) Error() string { return e.reason }

// look finds the program.
func look(program string) (string, error) {
	if program == "" {
		program = "umlvde"
	}
	path, err := exec.LookPath(program)
	if err != nil && !errors.Is(err, exec.ErrDot) { // who has "." in PATH is asked for the name with a slash
		err = fmt.Errorf("the program that runs isolated plugins is missing (build it with: go install github.com/umlvde/umlvde/cmd/umlvde@latest): %w", err)
		if errors.Is(err, exec.ErrNotFound) {
			err = &missing{err}
		}
	}
	return path, err
}

// missing is an error that is fs.ErrNotExist, which exec.ErrNotFound is not.
type missing struct{ error }

func (e *missing) Unwrap() []error { return []error{e.error, unix.ENOENT} }

// A child is a worker that serves, or is to serve, a Plug.
type child struct {
	cmd     *exec.Cmd
	ctl     *os.File // our end of guard.CtlFd
	page    *guard.Page
	words   chan guard.Word // what it says; closed when it has ended, or is about to
	stderr  *stderr
	failure *guard.Failure // its last word
	killed  string         // why we have killed it
}

// start starts a worker on its end of the socket and waits until it serves.
func start(ctx context.Context, o *Options, far int) (*child, error) {
	// Until a worker has opened its plug, it ends with the thread that has started
	// it, on which another goroutine might end meanwhile that is locked to it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	c, err := spawn(o, far)
	if err != nil {
		return nil, fmt.Errorf("the plugin's process cannot be started: %w", err)
	}
	select {
	case w, ok := <-c.words:
		c.failure = w.Failed
		if ok && w.Opened {
			if _, err = c.ctl.Write([]byte(guard.GoOn)); err == nil {
				return c, nil
			}
		}
		err = c.end(0)
		if c.failure == nil && ok {
			err = fmt.Errorf("%s is an umlvde of another version", o.Program)
		}
	case <-ctx.Done():
		_ = c.cmd.Process.Kill() // it may have ended
		_ = c.end(0)
		err = ctx.Err()
	}
	c.page.Unmap()
	return nil, err
}

// spawn starts the process and gives it its job.
func spawn(o *Options, far int) (c *child, err error) {
	job, err := json.Marshal(o.Job)
	if err != nil {
		return nil, err
	}
	page, memfd, err := guard.NewPage()
	if err != nil {
		return nil, err
	}
	defer unix.Close(memfd)
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		page.Unmap()
		return nil, err
	}
	defer unix.Close(pair[1])
	_ = unix.SetNonblock(pair[1], false) // the worker waits in recvmsg; cannot fail
	c = &child{ctl: os.NewFile(uintptr(pair[0]), "worker"), page: page, words: make(chan guard.Word, 1), stderr: new(stderr)}
	c.cmd = exec.Command(o.Program, guard.Command, o.Job.VNL)
	c.cmd.Args[0] = "umlvde" // which name is not vde_plug
	c.cmd.Stderr = c.stderr
	c.cmd.WaitDelay = endTime // a command of the plugin's may keep stderr
	if o.Library != "" {
		c.cmd.Env = append(os.Environ(), plug.LibraryEnv+"="+o.Library)
	}
	// Until it serves, it must not outlive us: see guard.Line.Opened.
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	for _, fd := range []int{far, pair[1], memfd} { // guard.GuestFd, CtlFd, PageFd
		dup, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			c.discard()
			return nil, err
		}
		f := os.NewFile(uintptr(dup), "")
		defer f.Close()
		c.cmd.ExtraFiles = append(c.cmd.ExtraFiles, f)
	}
	if err = c.cmd.Start(); err != nil {
		c.discard()
		return nil, err
	}
	_, _ = c.ctl.Write(job) // a worker that has ended already will say so
	go c.listen()
	return c, nil
}

func (c *child) discard() {
	c.ctl.Close()
	c.page.Unmap()
}

// listen passes on what the worker says.
func (c *child) listen() {
	defer close(c.words)
	var buf [16 << 10]byte
	for {
		n, err := c.ctl.Read(buf[:])
		if err != nil {
			return // the end, or as good as it
		}
		c.words <- guard.ParseWord(string(buf[:n]))
	}
}

const (
	// tick is how often the progress of a worker that is awake is looked at.
	tick = 250 * time.Millisecond
	// restAfter is how many quiet ticks end that.
	restAfter = 4
	// stuckAfter is how many ticks a worker may be busy without any progress.
	stuckAfter = 8
	// endTime is how long a worker may take to end in each of three ways: by
	// itself, after SIGTERM, after SIGKILL.
	endTime = 250 * time.Millisecond
)

// tend waits until the worker ends, and returns why, or until closing is closed.
func (c *child) tend(closing <-chan struct{}) error {
	var progress uint64
	var still, quiet int
	look := time.NewTicker(tick)
	defer look.Stop()
	c.page.Watched.Store(1)
	for {
		select {
		case w, ok := <-c.words:
			switch {
			case !ok:
				return c.end(endTime)
			case w.Failed != nil:
				c.failure = w.Failed
			case w.Woke:
				c.page.Watched.Store(1)
				still, quiet = 0, 0
				look.Reset(tick)
			}
		case <-look.C:
			now := c.page.Progress.Load()
			switch {
			case now != progress:
				progress, still, quiet = now, 0, 0
			case c.page.Busy.Load() != 0:
				if still++; still == stuckAfter {
					c.killed = fmt.Sprintf("the plugin did not return from a call in %v", stuckAfter*tick)
					_ = c.cmd.Process.Kill() // it may have ended
				}
			default:
				if quiet++; quiet >= restAfter && c.rest() {
					look.Stop()
				}
			}
		case <-closing:
			return c.end(endTime)
		}
	}
}

// rest ends the look at a worker that sleeps, unless it has just woken up: it
// looks at Watched after it has set Busy, and we do it the other way round, so
// one of us sees it.
func (c *child) rest() bool {
	c.page.Watched.Store(0)
	if c.page.Busy.Load() == 0 {
		return true
	}
	c.page.Watched.Store(1)
	return false
}

// end waits for the worker's end, not very patiently, and returns the reason.
func (c *child) end(patience time.Duration) error {
	impatient := time.AfterFunc(patience, func() { _ = c.cmd.Process.Signal(syscall.SIGTERM) })
	defer impatient.Stop()
	angry := time.AfterFunc(patience+endTime, func() { _ = c.cmd.Process.Kill() })
	defer angry.Stop()
	_ = c.cmd.Wait()                                   // keeps a thread; so not before the worker is about to end
	_ = c.ctl.SetReadDeadline(time.Now().Add(endTime)) // there is nobody left who could write; cannot fail
	for w := range c.words {
		if w.Failed != nil {
			c.failure = w.Failed
		}
	}
	c.ctl.Close()
	return c.reason()
}

// reason says why the worker has ended.
func (c *child) reason() error {
	if c.failure != nil {
		var r plug.Report
		if json.Unmarshal(c.failure.Detail, &r) != nil || r.Text == "" {
			r.Text = c.failure.Why
		}
		return r.Err()
	}
	c.stderr.mu.Lock()
	defer c.stderr.mu.Unlock()
	c.stderr.Ended(printLine)
	switch crash, last := c.stderr.Crash, c.stderr.Last; {
	case c.killed != "":
		return &CrashError{c.killed}
	case crash != "":
		return &CrashError{"the plugin crashed: " + crash}
	case last != "":
		return &CrashError{fmt.Sprintf("the plugin's process has ended (%v): %s", c.cmd.ProcessState, last)}
	}
	return &CrashError{fmt.Sprintf("the plugin's process has ended (%v)", c.cmd.ProcessState)}
}

// stderr passes on what a worker prints.
type stderr struct {
	mu sync.Mutex // Write may go on after the worker's end
	guard.Output
}

func (s *stderr) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.Printed(b, printLine)
	return len(b), nil
}

func printLine(line string) { fmt.Fprintln(os.Stderr, line) }
