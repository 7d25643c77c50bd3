//go:build linux

package libvdeplug_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/umlvde/umlvde/internal/rig"
	"github.com/umlvde/umlvde/libvdeplug"
	"golang.org/x/sys/unix"
)

func TestSwitchDies(t *testing.T) {
	dir := filepath.Join(rig.TempDir(t), "s")
	sw := rig.Switch(t, dir)
	a, b := open(t, "vde://"+dir), open(t, dir) // a path is a VNL, too
	send(t, a, rig.Frame(60, 1))
	receive(t, b)
	done := make(chan error, 1)
	go func() { done <- readUntilError(a) }()
	parked(t, 1)
	sw.Signal(os.Kill)
	checkEOF(t, finish(t, "the read", done))
	sw.Wait(soon)
	checkEOF(t, readUntilError(b))
	if _, err := a.Write(rig.Frame(60, 2)); !errors.Is(err, syscall.EPIPE) {
		t.Errorf("a write ended with %v, want EPIPE", err)
	}
	_, err := libvdeplug.Open("vde://"+dir, nil)
	if !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("opening what a switch has left: %v", err)
	}
}

// TestLastFrames reads what was there before the end.
func TestLastFrames(t *testing.T) {
	a, b := seqpackets(t)
	for i := range 100 {
		send(t, a, rig.Frame(60, uint32(i)))
	}
	must(t, a.Close())
	for i := range 100 {
		if n := rig.Number(receive(t, b)); n != uint32(i) {
			t.Fatalf("frame %d is number %d", i, n)
		}
	}
	for range 2 {
		_, err := b.Read(make([]byte, 60))
		checkEOF(t, err)
	}
	if _, err := b.Write(rig.Frame(60, 1)); !errors.Is(err, syscall.EPIPE) {
		t.Errorf("writing to nobody: %v", err)
	}
}

func TestOpenContext(t *testing.T) {
	dir := filepath.Join(rig.TempDir(t), "s")
	sw := rig.Switch(t, dir)
	before := libvdeplug.Unfinished() // earlier tests' may be among them

	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	c, err := libvdeplug.OpenContext(ctx, "vde://"+dir, nil)
	must(t, err)
	must(t, c.Close())
	c, err = libvdeplug.OpenContext(context.Background(), "vde://"+dir, nil)
	must(t, err)
	must(t, c.Close())

	sw.Signal(syscall.SIGSTOP)
	late, cancelLate := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancelLate()
	start := time.Now()
	_, err = libvdeplug.OpenContext(late, "vde://"+dir, nil)
	if d := time.Since(start); d < 40*time.Millisecond || d > time.Second {
		t.Errorf("a deadline of 50 ms ended after %v", d)
	}
	var nerr net.Error
	if !errors.Is(err, context.DeadlineExceeded) || !errors.As(err, &nerr) || !nerr.Timeout() {
		t.Errorf("got %v, want the context's error", err)
	}
	if _, err = libvdeplug.OpenContext(late, "null://", nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("after the deadline: %v", err)
	}
	sw.Signal(syscall.SIGCONT) // now the open succeeds, for nobody
	rig.Eventually(t, soon, "the late plug is closed", func() bool { return libvdeplug.Unfinished() <= before })
}

// TestSwitchOptions looks at a port of a switch through its console.
func TestSwitchOptions(t *testing.T) {
	dir := rig.TempDir(t)
	mgmt := filepath.Join(dir, "m")
	s := filepath.Join(dir, "s")
	cmd := exec.Command("vde_switch", "-s", s, "-M", mgmt)
	in, err := cmd.StdinPipe() // it ends with its standard input
	must(t, err)
	defer in.Close()
	rig.Start(t, cmd)
	var console net.Conn
	rig.Eventually(t, soon, "the console listens", func() (ok bool) {
		var err error
		console, err = net.Dial("unix", mgmt)
		return err == nil
	})
	defer console.Close()
	must(t, console.SetDeadline(time.Now().Add(soon)))

	c, err := libvdeplug.Open("vde://"+s, &libvdeplug.Options{Descr: "eve", Port: 7, Mode: 0o660})
	must(t, err)
	defer c.Close()
	if _, err := console.Write([]byte("port/allprint\n")); err != nil {
		t.Fatal(err)
	}
	var out []byte
	for !bytes.Contains(out, []byte("Success")) {
		buf := make([]byte, 4096)
		n, err := console.Read(buf)
		must(t, err)
		out = append(out, buf[:n]...)
	}
	if !bytes.Contains(out, []byte("Port 0007")) || !bytes.Contains(out, []byte("eve user=")) {
		t.Errorf("the switch says:\n%s", out)
	}
}

func TestHub(t *testing.T) {
	a, host := hub(t)
	done := make(chan error, 1)
	go func() { done <- readUntilError(host) }()
	b := open(t, strings.Replace(host.LocalAddr().String(), "hub:", "vde:", 1))
	send(t, a, rig.Frame(60, 1))
	if n := rig.Number(receive(t, b)); n != 1 {
		t.Errorf("frame %d", n)
	}
	send(t, host, rig.Frame(60, 2))
	if x, y := rig.Number(receive(t, a)), rig.Number(receive(t, b)); x != 2 || y != 2 {
		t.Errorf("frames %d and %d", x, y)
	}
	must(t, host.Close())
	if err := finish(t, "the host", done); !errors.Is(err, net.ErrClosed) {
		t.Error(err)
	}
	checkEOF(t, readUntilError(a)) // a client without its hub
}

// TestPtpAlone writes to a network where nobody else is.
func TestPtpAlone(t *testing.T) {
	vnl := "ptp://" + filepath.Join(rig.TempDir(t), "p")
	a := open(t, vnl)
	for range 3 {
		send(t, a, rig.Frame(60, 1))
	}
	if s := a.Stats(); s.TxFrames != 0 || s.TxDrops != 3 {
		t.Errorf("counted %+v", s)
	}
	b := open(t, vnl)
	send(t, a, rig.Frame(60, 2))
	if n := rig.Number(receive(t, b)); n != 2 {
		t.Errorf("frame %d", n)
	}
}

func TestNull(t *testing.T) {
	c := open(t, "null://")
	for range 100 {
		send(t, c, rig.Frame(1514, 1))
	}
	must(t, c.SetReadDeadline(time.Now().Add(10*time.Millisecond)))
	_, err := c.Read(make([]byte, 1514))
	checkTimeout(t, err)
}

// TestRoomWithoutDescriptor waits for room in a plugin that has no descriptor to wait
// for: until there is some, the deadline passes or the Conn is closed.
func TestRoomWithoutDescriptor(t *testing.T) {
	dir := rig.TempDir(t)
	gcc(t, "-shared", "-fPIC", "-o", filepath.Join(dir, "libvdeplug_full.so"), "testdata/full.c")
	t.Setenv("VDEPLUGIN_PATH", dir)
	full := filepath.Join(dir, "full")
	must(t, os.WriteFile(full, nil, 0o600))
	c := open(t, "full://"+full)
	must(t, c.SetWriteDeadline(time.Now().Add(20*time.Millisecond)))
	_, err := c.Write(rig.Frame(60, 1))
	checkTimeout(t, err)
	must(t, c.SetWriteDeadline(time.Time{}))

	written := make(chan error, 1)
	write := func() {
		go func() {
			_, err := c.Write(rig.Frame(60, 1))
			written <- err
		}()
		rig.Eventually(t, soon, "the write waits", func() bool { return stacks("libvdeplug.(*Conn).waitForRoom(") > 0 })
	}
	write()
	must(t, os.Remove(full))
	must(t, finish(t, "the write", written))
	if s := c.Stats(); s.TxFrames != 1 || s.TxDrops != 0 {
		t.Errorf("counted %+v", s)
	}
	must(t, os.WriteFile(full, nil, 0o600))
	write()
	must(t, c.Close())
	if err := finish(t, "the write", written); !errors.Is(err, net.ErrClosed) {
		t.Error(err)
	}
}

// TestSlirp asks slirp's router for its hardware address.
func TestSlirp(t *testing.T) {
	c := open(t, "slirp://")
	me := []byte{2, 0, 0, 0, 0, 1}
	arp := append(bytes.Repeat([]byte{0xff}, 6), me...)
	arp = append(arp, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1)
	arp = append(append(arp, me...), 10, 0, 2, 15)
	arp = append(arp, 0, 0, 0, 0, 0, 0, 10, 0, 2, 2)
	send(t, c, append(arp, make([]byte, 60-len(arp))...))
	for {
		f := receive(t, c)
		if binary.BigEndian.Uint16(f[12:]) != 0x0806 {
			continue // slirp announces itself with IPv6
		}
		if f[21] != 2 || !bytes.Equal(f[28:32], []byte{10, 0, 2, 2}) || !bytes.Equal(f[32:38], me) {
			t.Errorf("answered % x", f)
		}
		break
	}
	// Closed under a blocked reader, and with its thread at work.
	done := make(chan error, 1)
	go func() { done <- readUntilError(c) }()
	must(t, c.Close())
	if err := finish(t, "a read", done); !errors.Is(err, net.ErrClosed) {
		t.Error(err)
	}
	promptly(t, "Close", func() time.Duration {
		c := open(t, "slirp://")
		start := time.Now()
		must(t, c.Close())
		return time.Since(start)
	})
}

// TestTap joins a tap in a network namespace with a packet socket there.
func TestTap(t *testing.T) {
	var c *libvdeplug.Conn
	var kernel int
	rig.NewNamespace(t).Do(func() {
		var err error
		c = open(t, "tap://vdetest")
		kernel, err = packetSocket("vdetest")
		must(t, err)
		if _, err = libvdeplug.Open("tap://vdetest", nil); !errors.Is(err, syscall.EBUSY) {
			t.Errorf("opening it twice: %v", err)
		}
	})
	defer unix.Close(kernel)

	send(t, c, rig.Frame(1514, 1))
	buf := make([]byte, 2000)
	n, err := unix.Read(kernel, buf)
	must(t, err)
	if n != 1514 || rig.Number(buf) != 1 {
		t.Errorf("the kernel got frame %d of %d bytes", rig.Number(buf), n)
	}
	_, err = unix.Write(kernel, rig.Frame(1000, 2))
	must(t, err)
	f := receive(t, c)
	for binary.BigEndian.Uint16(f[12:]) != 0x88b5 { // IPv6 has something to say, too
		f = receive(t, c)
	}
	if len(f) != 1000 || rig.Number(f) != 2 {
		t.Errorf("got frame %d of %d bytes", rig.Number(f), len(f))
	}

	must(t, up(kernel, "vdetest", false))
	send(t, c, rig.Frame(60, 3))
	if s := c.Stats(); s.TxFrames != 1 || s.TxDrops != 1 {
		t.Errorf("with the interface down, counted %+v", s)
	}
	must(t, up(kernel, "vdetest", true))
	send(t, c, rig.Frame(60, 4))
	if s := c.Stats(); s.TxFrames != 2 {
		t.Errorf("with the interface up again, counted %+v", s)
	}
}

// packetSocket brings an interface up and returns a socket for its frames of
// type 0x88b5.
func packetSocket(name string) (int, error) {
	const proto = 0xb588 // in network order
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, proto)
	if err != nil {
		return -1, err
	}
	err = up(fd, name, true)
	ifr, _ := unix.NewIfreq(name)
	if err == nil {
		err = unix.IoctlIfreq(fd, unix.SIOCGIFINDEX, ifr)
	}
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: proto, Ifindex: int(ifr.Uint32())})
	}
	if err == nil {
		timeout := unix.NsecToTimeval(soon.Nanoseconds())
		err = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout)
	}
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// up brings an interface up or down.
func up(fd int, name string, yes bool) error {
	ifr, err := unix.NewIfreq(name)
	if err == nil {
		err = unix.IoctlIfreq(fd, unix.SIOCGIFFLAGS, ifr)
	}
	if err != nil {
		return err
	}
	flags := ifr.Uint16() &^ unix.IFF_UP
	if yes {
		flags |= unix.IFF_UP
	}
	ifr.SetUint16(flags)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr)
}

// TestCmd reaches a switch through a vde_plug.
func TestCmd(t *testing.T) {
	dir := filepath.Join(rig.TempDir(t), "s")
	sw := rig.Switch(t, dir)
	a, b := open(t, "cmd://vde_plug vde://"+dir), open(t, "vde://"+dir)
	for i := range uint32(20) {
		// The command answers only when it has its plug, so this may take a few.
		deadline := time.Now().Add(soon)
		for {
			send(t, b, rig.Frame(60, i))
			must(t, a.SetReadDeadline(time.Now().Add(20*time.Millisecond)))
			buf := make([]byte, 1514)
			if n, err := a.Read(buf); err == nil && rig.Number(buf[:n]) == i {
				break
			}
			if time.Now().After(deadline) {
				t.Fatal("no frame came through the command")
			}
		}
		send(t, a, rig.Frame(1514, i))
		if f := receive(t, b); len(f) != 1514 || rig.Number(f) != i {
			t.Fatalf("got frame %d of %d bytes, want %d", rig.Number(f), len(f), i)
		}
	}
	if _, err := a.Write(make([]byte, libvdeplug.MaxFrameSize+1)); !errors.Is(err, libvdeplug.ErrFrameSize) {
		t.Errorf("a frame longer than the protocol's: %v", err)
	}
	must(t, a.SetReadDeadline(time.Time{}))
	done := make(chan error, 1)
	go func() { done <- readUntilError(a) }()
	sw.Signal(os.Kill)
	checkEOF(t, finish(t, "the read", done)) // the command has ended with its plug
	if _, err := a.Write(rig.Frame(60, 1)); !errors.Is(err, syscall.EPIPE) {
		t.Errorf("writing to a dead command: %v", err)
	}
}

// TestCmdBegun has a command that does not read, so that in the end a frame finds room
// for a part of it: it counts as sent, and the error comes with its length.
func TestCmdBegun(t *testing.T) {
	c := open(t, "cmd://sleep 1000")
	frame := rig.Frame(libvdeplug.MaxFrameSize, 1) // no number of them fills a pipe
	must(t, c.SetWriteDeadline(time.Now().Add(50*time.Millisecond)))
	n, sent, err := 0, uint64(0), error(nil)
	for err == nil && sent < 100 {
		n, err = c.Write(frame)
		sent++
	}
	checkTimeout(t, err)
	if s := c.Stats(); n != len(frame) || s.TxFrames != sent {
		t.Errorf("Write number %d returned %d, %+v is counted", sent, n, s)
	}
}

// TestCmdThatStays closes the plug of a command that takes no hints, and has
// a child that takes none either.
func TestCmdThatStays(t *testing.T) {
	dir := rig.TempDir(t)
	script, pids := filepath.Join(dir, "stay"), filepath.Join(dir, "pids")
	must(t, os.WriteFile(script, []byte(`#!/bin/sh
trap '' TERM
sleep 1000 &
echo $$ $! >$0.new
mv $0.new ${0%/*}/pids
wait
`), 0o755))
	promptly(t, "Close", func() time.Duration {
		c := open(t, "cmd://"+script)
		var pid, child int
		rig.Eventually(t, soon, "the command runs", func() bool {
			text, err := os.ReadFile(pids)
			if err == nil {
				_, err = fmt.Sscan(string(text), &pid, &child)
			}
			return err == nil && os.Remove(pids) == nil
		})
		start := time.Now()
		must(t, c.Close())
		took := time.Since(start)
		rig.Eventually(t, soon, "the command and its child are killed", func() bool {
			return !rig.Alive(pid) && !rig.Alive(child)
		})
		return took
	})
}

// serialLine returns a Conn on a pseudo terminal and the other end of that.
func serialLine(t *testing.T) (c *libvdeplug.Conn, line *os.File) {
	t.Helper()
	fd, path := rig.Terminal(t)
	line = os.NewFile(uintptr(fd), "ptmx")
	t.Cleanup(func() { line.Close() })
	return open(t, "vdesl://"+path), line
}

// TestSerialLine uses a pseudo terminal, and hangs up.
func TestSerialLine(t *testing.T) {
	c, line := serialLine(t)
	frame := rig.Frame(60, 1)
	send(t, c, frame)
	want := append([]byte{0, 60}, frame...) // vdestream's
	got := make([]byte, len(want))
	_, err := io.ReadFull(line, got)
	must(t, err)
	if !bytes.Equal(got, want) {
		t.Errorf("on the line: % x, want % x", got, want)
	}
	_, err = line.Write(want)
	must(t, err)
	if f := receive(t, c); !bytes.Equal(f, frame) {
		t.Errorf("got % x, want % x", f, frame)
	}
	done := make(chan error, 1)
	go func() { done <- readUntilError(c) }()
	parked(t, 1)
	must(t, line.Close())
	checkEOF(t, finish(t, "the read", done))
}

func TestBadVNL(t *testing.T) {
	dir := rig.TempDir(t)
	file := filepath.Join(dir, "vnl")
	must(t, os.WriteFile(file, []byte("null://from-a-file\n"), 0o600))
	if vnl := open(t, file).LocalAddr().String(); vnl != "null://from-a-file" {
		t.Errorf("a file names %q", vnl)
	}
	for vnl, want := range map[string]error{
		"vde://" + dir + "/none":          fs.ErrNotExist,
		dir + "/none":                     fs.ErrNotExist,
		"udp://no-arrow":                  nil,
		"tap://a-name-that-is-too-long-a": nil,
		"seqpacket://x":                   syscall.EINVAL,
		"seqpacket://99999":               syscall.EBADF,
		"cmd://" + dir + "/none":          fs.ErrNotExist,
		"cmd://":                          nil,
		"nosuch://":                       fs.ErrNotExist,
	} {
		c, err := libvdeplug.Open(vnl, nil)
		if err == nil {
			c.Close()
			if strings.HasPrefix(vnl, "tap:") { // the plugin cuts the name
				continue
			}
			t.Errorf("%s: opened", vnl)
			continue
		}
		var op *libvdeplug.OpError
		if !errors.As(err, &op) || op.Op != "open" || op.VNL != vnl || want != nil && !errors.Is(err, want) {
			t.Errorf("%s: %v", vnl, err)
		}
		var p *libvdeplug.PluginError
		if missing := errors.As(err, &p); missing != (vnl == "nosuch://") {
			t.Errorf("%s: a PluginError: %v", vnl, missing)
		}
	}
}

// TestIdle keeps a thousand reads waiting, which need no threads, and then
// closes them one by one, none of which takes long.
func TestIdle(t *testing.T) {
	const conns = 1000
	var all []*libvdeplug.Conn
	var reads sync.WaitGroup
	ended := make(chan error, conns)
	for range conns {
		c, err := libvdeplug.Open("null://", nil)
		must(t, err)
		all = append(all, c)
		reads.Add(1)
		go func() {
			defer reads.Done()
			_, err := c.Read(make([]byte, 60))
			ended <- err
		}()
	}
	parked(t, conns)
	threads, err := os.ReadDir("/proc/self/task")
	must(t, err)
	if t.Logf("%d blocked reads on %d threads", conns, len(threads)); len(threads) >= 64 {
		t.Errorf("%d threads", len(threads))
	}
	var took []time.Duration
	for _, c := range all {
		start := time.Now()
		must(t, c.Close())
		if err := finish(t, "a read", ended); !errors.Is(err, net.ErrClosed) {
			t.Errorf("got %v, want net.ErrClosed", err)
		}
		took = append(took, time.Since(start))
	}
	slices.Sort(took)
	// But for a few: a busy machine may do something else in between.
	typical, slow, slowest := took[conns/2], took[conns*99/100], took[conns-1]
	if t.Logf("Close took %v, %v at most", typical, slowest); slow > 100*time.Millisecond {
		t.Errorf("more than 1 %% of all Closes took more than %v", slow)
	}
	reads.Wait()
}
