package guard

import (
	"bytes"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/umlvde/umlvde/internal/rig"
	"golang.org/x/sys/unix"
)

func pipe(t *testing.T) (r, w int) {
	t.Helper()
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = unix.Close(p[0]), unix.Close(p[1]) })
	return p[0], p[1]
}

func read(t *testing.T, fd int) string {
	t.Helper()
	var buf [70000]byte
	n, err := unix.Read(fd, buf[:])
	if err != nil {
		t.Fatal(err)
	}
	return string(buf[:n])
}

func TestLinesNameTheDeviceAndCannotSteerATerminal(t *testing.T) {
	r, w := pipe(t)
	log := &Log{Name: "vde_plug", Fd: w}
	log.Error(Job{Descr: "UML", VNL: "vde:///tmp/\x1b[2Jx\u009b2J"}, "link down: no\nsuch\rthing")
	if got, want := read(t, r), "vde_plug: UML: vde:///tmp/ [2Jx 2J: link down: no such thing\n"; got != want {
		t.Errorf("%q, not %q", got, want)
	}
	log.Info(Job{}, "not verbose")
	log.Error(Job{Descr: "UML"}, strings.Repeat("x", 10000))
	if got := read(t, r); !strings.HasPrefix(got, "vde_plug: UML: the default network: xxx") || len(got) > maxLine+5 || !strings.HasSuffix(got, "...\n") {
		t.Errorf("a long line became %d bytes: %.60q", len(got), got)
	}
}

// A reader that does not read costs lines, not time.
func TestLogNeverBlocks(t *testing.T) {
	r, w := pipe(t)
	if err := unix.SetNonblock(w, false); err != nil {
		t.Fatal(err)
	}
	log := &Log{Name: "x", Fd: w}
	for range 1000 { // a pipe holds 64 kB
		log.Print(strings.Repeat("y", 500))
	}
	if got := read(t, r); len(got) < 30000 {
		t.Errorf("only %d bytes were written", len(got))
	}
	log.Print("again")
}

// terminal makes a terminal, which blocks, and who reads it.
func terminal(t *testing.T) (master *os.File, tty int) {
	t.Helper()
	fd, path := rig.Terminal(t)
	master = os.NewFile(uintptr(fd), "ptmx")
	t.Cleanup(func() { master.Close() })
	tty, err := unix.Open(path, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	must(t, err)
	t.Cleanup(func() { _ = unix.Close(tty) })
	return master, tty
}

// Nor does a terminal take time that is not read any more, though it was opened for
// waiting, and stays so for others.
func TestLogNeverBlocksOnATerminal(t *testing.T) {
	master, tty := terminal(t)
	log := &Log{Name: "x", Fd: double(tty)}
	defer unix.Close(log.Fd)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range 1000 { // a terminal holds some 64 kB
			log.Print(strings.Repeat("y", 500))
		}
	}()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Error("a line waits for the terminal to be read")
		master.Close() // which ends the wait
		<-done
	}
	if flags, err := unix.FcntlInt(uintptr(tty), unix.F_GETFL, 0); err != nil || flags&unix.O_NONBLOCK != 0 {
		t.Errorf("the flags of the terminal were changed: %#x %v", flags, err)
	}
}

// On a terminal in raw mode a line ends in CR LF, on another one the terminal
// sees to that.
func TestLinesEndAsTheTerminalNeeds(t *testing.T) {
	master, tty := terminal(t)
	log := &Log{Name: "x", Fd: tty}
	for _, raw := range []bool{false, true} {
		term, err := unix.IoctlGetTermios(tty, unix.TCGETS)
		if err != nil {
			t.Fatal(err)
		}
		if raw {
			term.Oflag &^= unix.OPOST
			if err := unix.IoctlSetTermios(tty, unix.TCSETS, term); err != nil {
				t.Fatal(err)
			}
		}
		log.Print("hello")
		buf := make([]byte, 100)
		n, err := master.Read(buf)
		if err != nil || !bytes.Equal(buf[:n], []byte("x: hello\r\n")) {
			t.Errorf("raw %v: %q %v", raw, buf[:n], err)
		}
	}
}
