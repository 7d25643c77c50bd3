package plug

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/umlvde/umlvde/internal/relay"
	"github.com/umlvde/umlvde/internal/rig"
	"golang.org/x/sys/unix"
)

// script makes a program of shell text and returns the VNL that runs it.
func script(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(rig.TempDir(t), "run")
	must(t, os.WriteFile(path, []byte("#!/bin/sh\n"+text+"\n"), 0o755))
	return "cmd://" + path
}

// TestCmdPieces has a command write frames in pieces of all sizes, so that each
// length and each frame is cut everywhere.
func TestCmdPieces(t *testing.T) {
	var frames [][]byte
	for i, n := range []int{14, 60, 0, 18, 300, 19, 9234, 60} {
		f := make([]byte, n)
		for j := range f {
			f[j] = byte(i*31 + j)
		}
		frames = append(frames, f)
	}
	file := filepath.Join(rig.TempDir(t), "stream")
	must(t, os.WriteFile(file, framed(frames...), 0o600))
	for _, size := range []int{1, 2, 3, 7, 16, 61, 62, 63, 1000, 9236, 20000} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			p := open(t, fmt.Sprintf("cmd://dd if=%s bs=%d status=none", file, size))
			var got [][]byte
			for {
				more, err := tryReceive(t, p)
				got = append(got, more...)
				if err != nil {
					if !errors.Is(err, io.EOF) {
						t.Errorf("the end is %v", err)
					}
					break
				}
			}
			if !slices.EqualFunc(got, frames, bytes.Equal) {
				t.Errorf("got %d frames, not the %d that were sent", len(got), len(frames))
			}
		})
	}
}

// TestCmdSlowly writes one frame byte by byte, and sees that nothing comes before
// it is whole.
func TestCmdSlowly(t *testing.T) {
	fifo := filepath.Join(rig.TempDir(t), "fifo")
	must(t, unix.Mkfifo(fifo, 0o600))
	p := open(t, "cmd://cat "+fifo)
	w, err := os.OpenFile(fifo, os.O_WRONLY, 0)
	must(t, err)
	defer w.Close()
	c := p.(*cmdPlug)
	b := newBatch(t)
	for round := range uint32(3) {
		text := framed(rig.Frame(40, round))
		for i := range text {
			if _, err := w.Write(text[i : i+1]); err != nil {
				t.Fatal(err)
			}
			poll(t, c.r.fd, unix.POLLIN)
			err := p.Recv(b)
			if last := i == len(text)-1; last != (err == nil) || !last && !errors.Is(err, unix.EAGAIN) {
				t.Fatalf("after %d of %d bytes: %v", i+1, len(text), err)
			}
		}
		if b.Len() != 1 || !bytes.Equal(b.Frame(0), rig.Frame(40, round)) {
			t.Errorf("got %d frames", b.Len())
		}
	}
}

// TestCmdEcho sends a lot through cat, more than the pipes hold.
func TestCmdEcho(t *testing.T) {
	p := open(t, "cmd://cat")
	b, in, c := newBatch(t), newBatch(t), relay.Counters{}
	sent, got := uint32(0), uint32(0)
	size := func(n uint32) int { return 18 + int(n*37)%9200 }
	const total = 2000
	for deadline := time.Now().Add(soon); got < total; {
		if time.Now().After(deadline) {
			t.Fatalf("%d frames sent, %d came back", sent, got)
		}
		for b.Len() == 0 && sent < total {
			for sent < total && b.Append(rig.Frame(size(sent), sent)) {
				sent++
			}
		}
		if err := p.Send(b, &c); err != nil && !errors.Is(err, unix.EAGAIN) {
			t.Fatal(err)
		}
		err := p.Recv(in)
		if errors.Is(err, unix.EAGAIN) {
			continue
		}
		must(t, err)
		for i := range in.Len() {
			if f := in.Frame(i); len(f) != size(got) || rig.Number(f) != got {
				t.Fatalf("frame %d came back as %d of %d bytes", got, rig.Number(f), len(f))
			}
			got++
		}
	}
	if n := c.Totals(); n.Out != total || p.Unsent() {
		t.Errorf("counted %v", n.String())
	}
}

func TestCmdStall(t *testing.T) {
	p := open(t, "cmd://sleep 1000")
	b, c := newBatch(t), relay.Counters{}
	for range 50 {
		b.Append(rig.Frame(1514, 1))
	}
	if err := p.Send(b, &c); !errors.Is(err, unix.EAGAIN) || b.Len() == 0 || c.Out.Load() == 0 {
		t.Errorf("a command that does not read: %v, %d of 50 frames left", err, b.Len())
	}
}

func TestCmdEnds(t *testing.T) {
	for what, c := range map[string]struct{ vnl, want string }{
		"success": {script(t, "exit 0"), "the command ended (exit status 0)"},
		"failure": {script(t, "exit 3"), "the command ended (exit status 3)"},
		"killed":  {script(t, "kill -9 $$"), "the command ended (signal: killed)"},
		"mute":    {"cmd://sh -c 'exec >&-; read x'", "the command closed its output"},
	} {
		t.Run(what, func(t *testing.T) {
			p := open(t, c.vnl)
			_, err := tryReceive(t, p)
			if !errors.Is(err, io.EOF) || err.Error() != c.want {
				t.Errorf("Recv: %v, want %s", err, c.want)
			}
			if what == "mute" {
				return
			}
			b, count := newBatch(t), relay.Counters{}
			b.Append(rig.Frame(60, 1))
			if err := p.Send(b, &count); !errors.Is(err, io.EOF) || err.Error() != c.want { // and nothing loops back
				t.Errorf("Send: %v, want %s", err, c.want)
			}
		})
	}
}

// TestCmdGreeting has a command say something before its frames.
func TestCmdGreeting(t *testing.T) {
	_, err := tryReceive(t, open(t, "cmd://echo Welcome to this machine"))
	if err == nil || errors.Is(err, io.EOF) || !strings.Contains(err.Error(), "greeting") {
		t.Errorf("got %v", err)
	}
}

func TestCmdMissing(t *testing.T) {
	for vnl, want := range map[string]error{
		"cmd://no-such-command-anywhere": nil,
		"cmd:///nonexistent/command -x":  fs.ErrNotExist,
		"cmd:///dev/null":                fs.ErrPermission,
		"cmd://":                         nil,
		"cmd://'":                        nil,
	} {
		p, err := Open(ParseVNL(vnl), Options{})
		if err == nil {
			_ = p.Close()
		}
		if err == nil || want != nil && !errors.Is(err, want) {
			t.Errorf("%s: %v", vnl, err)
		}
	}
}

// TestCmdHasNoTerminal looks for a command's session, which must not be one whose
// terminal stops who asks it for a password in the background.
func TestCmdHasNoTerminal(t *testing.T) {
	pid := open(t, "cmd://cat").(*cmdPlug).cmd.Process.Pid
	if sid, err := unix.Getsid(pid); err != nil || sid != pid {
		t.Errorf("process %d is in session %d, %v", pid, sid, err)
	}
}

// TestCmdClose measures how long commands of different manners may take.
func TestCmdClose(t *testing.T) {
	for what, c := range map[string]struct {
		vnl     string
		atLeast time.Duration
	}{
		"ends with its input": {"cmd://cat", 0},
		"waits for SIGTERM":   {"cmd://sleep 1000", cmdGrace},
		"waits for SIGKILL":   {script(t, "trap '' TERM\necho ready\nsleep 1000"), 2 * cmdGrace},
	} {
		t.Run(what, func(t *testing.T) {
			p, err := Open(ParseVNL(c.vnl), Options{})
			must(t, err)
			if what == "waits for SIGKILL" {
				poll(t, p.(*cmdPlug).r.fd, unix.POLLIN) // the trap is set
			}
			start := time.Now()
			must(t, p.Close())
			if d := time.Since(start); d < c.atLeast || d > c.atLeast+soon/2 {
				t.Errorf("Close took %v", d)
			}
			if p.(*cmdPlug).cmd.ProcessState == nil {
				t.Error("the command has not ended")
			}
		})
	}
}

// TestCmdOutlivesThread opens a command in a goroutine that is locked to its thread,
// which ends with it: the command goes on.
func TestCmdOutlivesThread(t *testing.T) {
	var tid int
	var locked func(opened chan<- Plug)
	locked = func(opened chan<- Plug) {
		runtime.LockOSThread()
		if tid = unix.Gettid(); tid == os.Getpid() { // the first thread would not end
			another := make(chan Plug)
			go locked(another) // as this one is taken
			opened <- <-another
			runtime.UnlockOSThread()
			return
		}
		p, err := Open(ParseVNL("cmd://cat"), Options{})
		if err != nil {
			t.Error(err)
		}
		opened <- p
	}
	opened := make(chan Plug)
	go locked(opened)
	p := <-opened
	if p == nil {
		t.FailNow()
	}
	defer p.Close()
	rig.Eventually(t, soon, "the thread has ended", func() bool {
		_, err := os.Stat(fmt.Sprintf("/proc/self/task/%d", tid))
		return errors.Is(err, fs.ErrNotExist)
	})
	send(t, p, rig.Frame(60, 1))
	if rig.Number(receive(t, p)[0]) != 1 {
		t.Error("not the frame that was sent")
	}
}
