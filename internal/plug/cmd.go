package plug

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"

	"github.com/umlvde/umlvde/internal/mmsg"
	"github.com/umlvde/umlvde/internal/relay"
	"golang.org/x/sys/unix"
)

// cmdPlug is cmd://COMMAND: a program that speaks frames on its standard input
// and output, each after its length in two bytes, big endian (vdestream). The
// library's own plugin loses the frame boundaries when a frame comes in pieces,
// returns what it is sent once the command is dead, and waits for ever for
// a command that ignores the end of its input; so this is served here.
type cmdPlug struct {
	*Stream // on our ends of its standard output and input
	cmd     *exec.Cmd
	grace   time.Duration
	done    chan struct{}
}

const (
	// cmdGrace is how long the command of a cmd:// may take to end after the end
	// of its input, and again after SIGTERM.
	cmdGrace = 100 * time.Millisecond
	// commandGrace is the same for a command that a user has started with the
	// program: it may be on the other end of a slow line.
	commandGrace = time.Second
	// pipeSize is how many bytes a pipe holds (pipe(7)).
	pipeSize = 64 << 10
)

func openCmd(line string) (Plug, error) {
	argv, err := splitCommand(line)
	if err != nil {
		return nil, &grammarError{err, "cmd://COMMAND ARGUMENT..."}
	}
	// It must not get the signals that a terminal sends to this process; and where it
	// would ask the terminal for something it has none, so that it says so and ends:
	// in a group in the background it would be stopped, and nobody would know.
	return startCommand(argv, cmdGrace, &syscall.SysProcAttr{Setsid: true})
}

// Command starts a program that speaks frames on its standard input and output,
// as that of a cmd:// does, in the process group of the caller, so that it can
// ask the user for a password.
func Command(argv []string) (Plug, error) {
	return startCommand(argv, commandGrace, &syscall.SysProcAttr{})
}

func startCommand(argv []string, grace time.Duration, attr *syscall.SysProcAttr) (Plug, error) {
	var in, out [2]int // the command's standard input and output: read end, write end
	if err := unix.Pipe2(in[:], unix.O_CLOEXEC); err != nil {
		return nil, err
	}
	if err := unix.Pipe2(out[:], unix.O_CLOEXEC); err != nil {
		_, _ = unix.Close(in[0]), unix.Close(in[1])
		return nil, err
	}
	stdin, stdout := os.NewFile(uintptr(in[0]), "stdin"), os.NewFile(uintptr(out[1]), "stdout")
	defer stdin.Close()
	defer stdout.Close()
	c := &cmdPlug{
		Stream: newStream(streamFd{fd: out[0], kind: ownPipe}, streamFd{fd: in[1], kind: ownPipe, most: pipeSize}),
		cmd:    exec.Command(argv[0], argv[1:]...),
		grace:  grace,
		done:   make(chan struct{}),
	}
	c.cmd.Stdin, c.cmd.Stdout, c.cmd.Stderr = stdin, stdout, os.Stderr
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if unix.Gettid() == os.Getpid() { // else it would get the signal when this thread ends
		attr.Pdeathsig = syscall.SIGTERM // it must not outlive this process, which may be killed
	}
	c.cmd.SysProcAttr = attr
	// An end of a pipe is a description of its own: this does not touch the command's.
	_, _ = unix.SetNonblock(out[0], true), unix.SetNonblock(in[1], true)
	if err := c.cmd.Start(); err != nil {
		_, _ = unix.Close(out[0]), unix.Close(in[1])
		return nil, fmt.Errorf("the command cannot be started: %w", err)
	}
	go func() {
		_ = c.cmd.Wait() // cmd.ProcessState tells how it ended
		close(c.done)
	}()
	return c, nil
}

// Recv is relay.Port's.
func (c *cmdPlug) Recv(b *mmsg.Batch) error {
	return c.explain(c.Stream.Recv(b))
}

// Send is relay.Port's.
func (c *cmdPlug) Send(b *mmsg.Batch, count *relay.Counters) error {
	return c.explain(c.Stream.Send(b, count))
}

// explain adds to the end of the stream how the command ended.
func (c *cmdPlug) explain(err error) error {
	if errors.Is(err, io.EOF) {
		return c.ended()
	}
	return err
}

// ended says how the command ended, as an io.EOF.
func (c *cmdPlug) ended() error {
	select {
	case <-c.done:
		return &endError{fmt.Sprintf("the command ended (%v)", c.cmd.ProcessState), c.cmd.ProcessState.Success()}
	case <-time.After(c.grace):
		return &endError{why: "the command closed its output"}
	}
}

// ErrDone is what a command's end is if it was a success.
var ErrDone = errors.New("the command has done its work")

// endError is an io.EOF that knows more.
type endError struct {
	why  string
	done bool
}

func (e *endError) Error() string        { return e.why }
func (e *endError) Unwrap() error        { return io.EOF }
func (e *endError) Is(target error) bool { return e.done && target == ErrDone }

// Close gives the command the end of its input and, if it does not take the
// hint, SIGTERM and SIGKILL; those of a cmd:// go to its children, too.
func (c *cmdPlug) Close() error {
	target := c.cmd.Process.Pid
	if c.cmd.SysProcAttr.Setsid {
		target = -target
	}
	_, _ = unix.Close(c.w.fd), unix.Close(c.r.fd)
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		select {
		case <-c.done:
			return nil
		case <-time.After(c.grace):
			_ = syscall.Kill(target, sig) // it may just have ended
		}
	}
	<-c.done
	return nil
}
