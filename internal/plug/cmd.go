package plug

import (
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"os/exec"
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
	cmd  *exec.Cmd
	r, w int    // our ends of its standard output and input, non-blocking
	in   []byte // read: in[from:to] is not yet cut into frames
	from int
	to   int
	out  []byte // framed and counted, but not yet written
	done chan struct{}
}

const (
	// maxCmdFrame is the longest frame of a vdestream, in bytes (VDE_ETHBUFSIZE).
	maxCmdFrame = 9234
	// cmdBuffer holds a batch of ordinary frames, or several of the longest.
	cmdBuffer = 128 << 10
	// cmdGrace is how long a command may take to end after the end of its
	// input, and again after SIGTERM.
	cmdGrace = 100 * time.Millisecond
)

func openCmd(line string) (Plug, error) {
	argv, err := splitCommand(line)
	if err != nil {
		return nil, err
	}
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
		cmd:  exec.Command(argv[0], argv[1:]...),
		r:    out[0],
		w:    in[1],
		in:   make([]byte, cmdBuffer),
		out:  make([]byte, 0, 2+maxCmdFrame),
		done: make(chan struct{}),
	}
	c.cmd.Stdin, c.cmd.Stdout, c.cmd.Stderr = stdin, stdout, os.Stderr
	// The command must not outlive this process, which may be killed, nor get
	// the signals that a terminal sends to it.
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM, Setpgid: true}
	// An end of a pipe is a description of its own: this does not touch the command's.
	_, _ = unix.SetNonblock(c.r, true), unix.SetNonblock(c.w, true)
	if err := c.cmd.Start(); err != nil {
		_, _ = unix.Close(c.r), unix.Close(c.w)
		return nil, fmt.Errorf("the command cannot be started: %w", err)
	}
	go func() {
		_ = c.cmd.Wait() // cmd.ProcessState tells how it ended
		close(c.done)
	}()
	return c, nil
}

// Recv returns what is left of the last read, else reads once.
func (c *cmdPlug) Recv(b *mmsg.Batch) error {
	b.Clear()
	if err := c.cut(b); err != nil || b.Len() > 0 {
		return err
	}
	n, errno := mmsg.Read(c.r, c.in[c.to:])
	switch {
	case errno == unix.EAGAIN, errno == unix.EINTR:
		return unix.EAGAIN
	case errno != 0:
		return fmt.Errorf("reading from the command: %w", errno)
	case n == 0:
		return c.ended()
	}
	c.to += n
	if err := c.cut(b); err != nil {
		return err
	}
	if b.Len() == 0 {
		return unix.EAGAIN
	}
	return nil
}

// cut moves whole frames from the buffer to b, and a rest to the front of the
// buffer.
func (c *cmdPlug) cut(b *mmsg.Batch) error {
	for c.to-c.from >= 2 && b.Len() < mmsg.Max {
		n := int(binary.BigEndian.Uint16(c.in[c.from:]))
		if n > maxCmdFrame {
			return fmt.Errorf("the command sent something else than frames (does it print a greeting?): a length of %d bytes", n)
		}
		if c.to-c.from < 2+n {
			break
		}
		b.Append(c.in[c.from+2 : c.from+2+n])
		c.from += 2 + n
	}
	if b.Len() < mmsg.Max {
		c.to = copy(c.in, c.in[c.from:c.to])
		c.from = 0
	}
	return nil
}

// ended says how the command ended, as an io.EOF.
func (c *cmdPlug) ended() error {
	select {
	case <-c.done:
		return &endError{fmt.Sprintf("the command ended (%v)", c.cmd.ProcessState)}
	case <-time.After(cmdGrace):
		return &endError{"the command closed its output"}
	}
}

// endError is an io.EOF that knows more.
type endError struct{ why string }

func (e *endError) Error() string { return e.why }
func (e *endError) Unwrap() error { return io.EOF }

// Send writes frame by frame: a pipe takes up to PIPE_BUF bytes, an ordinary
// frame, wholly or not at all.
func (c *cmdPlug) Send(b *mmsg.Batch, count *relay.Counters) error {
	for {
		if len(c.out) > 0 {
			n, errno := mmsg.Write(c.w, c.out)
			switch {
			case errno == unix.EAGAIN, errno == unix.EINTR:
				return unix.EAGAIN
			case errno == unix.EPIPE:
				return c.ended()
			case errno != 0:
				return fmt.Errorf("writing to the command: %w", errno)
			}
			c.out = c.out[:copy(c.out, c.out[n:])]
			continue
		}
		if b.Len() == 0 {
			return nil
		}
		frame := b.Frame(0)
		c.out = binary.BigEndian.AppendUint16(c.out, uint16(len(frame)))
		c.out = append(c.out, frame...)
		count.Sent(1, uint64(len(frame)))
		b.Drop(1)
	}
}

// Close gives the command the end of its input and, if it does not take the
// hint, SIGTERM and SIGKILL, to its children, too.
func (c *cmdPlug) Close() error {
	_, _ = unix.Close(c.w), unix.Close(c.r)
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		select {
		case <-c.done:
			return nil
		case <-time.After(cmdGrace):
			_ = syscall.Kill(-c.cmd.Process.Pid, sig) // it may just have ended
		}
	}
	<-c.done
	return nil
}

func (c *cmdPlug) Unsent() bool         { return len(c.out) > 0 }
func (c *cmdPlug) Fds() (r, w, ctl int) { return c.r, c.w, -1 }
func (c *cmdPlug) Check() error         { return nil }
func (c *cmdPlug) Pumps() bool          { return false }
func (c *cmdPlug) Parallel() bool       { return true }
func (c *cmdPlug) MaxFrame() int        { return maxCmdFrame }
