//go:build linux

package libvdeplug_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/umlvde/umlvde/internal/rig"
	"github.com/umlvde/umlvde/libvdeplug"
	"github.com/umlvde/umlvde/libvdeplug/faultplug"
	"golang.org/x/sys/unix"
)

// bridge is a Bridge that runs.
type bridge struct {
	cancel  context.CancelFunc
	ended   chan error
	carried libvdeplug.Bridged // once ended has something
}

// startBridge starts a Bridge and waits until it has begun.
func startBridge(t *testing.T, a, b *libvdeplug.Conn) *bridge {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	br := &bridge{cancel: cancel, ended: make(chan error, 1)}
	go func() {
		var err error
		br.carried, err = libvdeplug.Bridge(ctx, a, b)
		br.ended <- err
	}()
	t.Cleanup(func() {
		cancel()
		a.Close()
		b.Close()
	})
	rig.Eventually(t, soon, "the bridge runs", func() bool {
		select {
		case err := <-br.ended:
			t.Fatalf("it has ended: %v", err)
		default:
		}
		return stacks("internal/relay.(*Relay).Run(") > 0
	})
	return br
}

// stop ends the Bridge, which must have been running.
func (br *bridge) stop(t *testing.T) libvdeplug.Bridged {
	t.Helper()
	br.cancel()
	err := finish(t, "the bridge", br.ended)
	var op *libvdeplug.OpError
	if !errors.Is(err, context.Canceled) || !errors.As(err, &op) || op.Op != "bridge" {
		t.Errorf("it ended with %v", err)
	}
	return br.carried
}

func TestBridge(t *testing.T) {
	for _, n := range networks {
		if n.name == "hub" {
			continue // its host has to be the one that is bridged: TestBridgeHub
		}
		t.Run(n.name, func(t *testing.T) {
			const total = 300
			far, a := n.join(t)
			b, near := seqpackets(t)
			before := a.Stats()
			br := startBridge(t, a, b)
			for _, way := range []struct{ from, to *libvdeplug.Conn }{{far, near}, {near, far}} {
				for i := range total {
					send(t, way.from, rig.Frame(60+i, uint32(i)))
					f := receive(t, way.to)
					if !bytes.Equal(f, rig.Frame(60+i, uint32(i))) {
						t.Fatalf("frame %d became % x", i, f)
					}
				}
			}
			got := br.stop(t)
			if got.AB.Frames != total || got.BA.Frames != total || got.AB.Bytes != got.BA.Bytes || got.AB.Drops+got.BA.Drops != 0 {
				t.Errorf("carried %+v", got)
			}
			as, bs := a.Stats(), b.Stats()
			if as.RxFrames-before.RxFrames != total || bs.TxFrames != total || bs.RxFrames != total {
				t.Errorf("the Conns have counted %+v and %+v", as, bs)
			}
			// They are as before.
			send(t, far, rig.Frame(60, 7))
			if n := rig.Number(receive(t, a)); n != 7 {
				t.Errorf("after the bridge, frame %d", n)
			}
			send(t, b, rig.Frame(60, 8))
			if n := rig.Number(receive(t, near)); n != 8 {
				t.Errorf("after the bridge, frame %d", n)
			}
		})
	}
}

// TestBridgeFlood has both directions full when a Bridge ends, again and again:
// what was read is carried or dropped, and nothing else is lost.
func TestBridgeFlood(t *testing.T) {
	far, a := seqpackets(t)
	b, near := seqpackets(t)
	stop := make(chan error, 4)
	for _, c := range []*libvdeplug.Conn{far, near} {
		go func() {
			for f := rig.Frame(1514, 1); ; {
				if _, err := c.Write(f); err != nil {
					stop <- err
					return
				}
			}
		}()
		go func() { stop <- readUntilError(c) }()
	}
	var sum libvdeplug.Bridged
	for range 20 {
		before := a.Stats().RxFrames
		br := startBridge(t, a, b)
		rig.Eventually(t, soon, "frames are carried", func() bool { return a.Stats().RxFrames > before+100 })
		got := br.stop(t)
		sum.AB.Frames += got.AB.Frames
		sum.AB.Drops += got.AB.Drops
		sum.BA.Frames += got.BA.Frames
		sum.BA.Drops += got.BA.Drops
	}
	as, bs := a.Stats(), b.Stats()
	if as.RxFrames != sum.AB.Frames+sum.AB.Drops || bs.RxFrames != sum.BA.Frames+sum.BA.Drops {
		t.Errorf("carried and dropped %+v, of %d and %d", sum, as.RxFrames, bs.RxFrames)
	}
	if sum.AB.Drops > 20*64 || sum.BA.Drops > 20*64 {
		t.Errorf("more was dropped than was in hand: %+v", sum)
	}
	for _, c := range []*libvdeplug.Conn{far, near, a, b} {
		must(t, c.Close())
	}
	for range 4 {
		if err := finish(t, "a call", stop); !errors.Is(err, net.ErrClosed) {
			t.Error(err)
		}
	}
}

// TestBridgeTakesWhatWasRead has a Conn that has taken more frames out of its
// network than it has returned.
func TestBridgeTakesWhatWasRead(t *testing.T) {
	far, a := seqpackets(t)
	b, near := seqpackets(t)
	for i := range 200 {
		send(t, far, rig.Frame(60, uint32(i)))
	}
	bufs, sizes := buffers(64)
	bufs[1] = nil // so that 63 are left inside
	if n, err := a.ReadBatch(bufs, sizes); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	br := startBridge(t, a, b)
	for i := range 199 {
		if n := rig.Number(receive(t, near)); n != uint32(i+1) {
			t.Fatalf("frame %d is number %d", i, n)
		}
	}
	if got := br.stop(t); got.AB.Frames != 199 {
		t.Errorf("carried %+v", got)
	}
}

// TestBridgeTakesWhatACommandKeeps has a Conn that has read 128 frames from a pipe at
// once, of which its batch holds no more than the first 64.
func TestBridgeTakesWhatACommandKeeps(t *testing.T) {
	var text []byte
	for i := range 128 {
		text = append(binary.BigEndian.AppendUint16(text, 60), rig.Frame(60, uint32(i))...)
	}
	file := filepath.Join(rig.TempDir(t), "frames")
	must(t, os.WriteFile(file, text, 0o600))
	a := open(t, "cmd://cat "+file+" -")
	if n := rig.Number(receive(t, a)); n != 0 {
		t.Fatalf("the first frame is number %d", n)
	}
	b, near := seqpackets(t)
	br := startBridge(t, a, b)
	for i := uint32(1); i < 128; i++ {
		if n := rig.Number(receive(t, near)); n != i {
			t.Fatalf("frame %d is number %d", i, n)
		}
	}
	if got := br.stop(t); got.AB.Frames != 127 {
		t.Errorf("carried %+v", got)
	}
}

// TestBridged makes calls on Conns that belong to a Bridge.
func TestBridged(t *testing.T) {
	far, a := seqpackets(t)
	b, near := seqpackets(t)
	must(t, a.SetReadDeadline(time.Now().Add(time.Hour)))
	waiting := make(chan error, 3)
	for range 3 {
		go func() { waiting <- readUntilError(a) }()
	}
	parked(t, 1)
	br := startBridge(t, a, b)
	for range 3 {
		if err := finish(t, "a read that was waiting", waiting); !errors.Is(err, libvdeplug.ErrBridged) {
			t.Error(err)
		}
	}
	buf := make([]byte, 60)
	for _, c := range []*libvdeplug.Conn{a, b} {
		if _, err := c.Read(buf); !errors.Is(err, libvdeplug.ErrBridged) {
			t.Error(err)
		}
		if _, err := c.Write(buf); !errors.Is(err, libvdeplug.ErrBridged) {
			t.Error(err)
		}
		if _, err := libvdeplug.Bridge(context.Background(), c, far); !errors.Is(err, libvdeplug.ErrBridged) {
			t.Error(err)
		}
		must(t, c.SetDeadline(longAgo)) // does not count now
	}
	send(t, far, rig.Frame(60, 5))
	if n := rig.Number(receive(t, near)); n != 5 {
		t.Errorf("frame %d", n)
	}
	br.stop(t)
	_, err := a.Read(buf)
	checkTimeout(t, err) // it counts again
	must(t, a.SetDeadline(time.Time{}))
	send(t, far, rig.Frame(60, 6))
	if n := rig.Number(receive(t, a)); n != 6 {
		t.Errorf("frame %d", n)
	}
	if _, err := libvdeplug.Bridge(context.Background(), a, a); !errors.Is(err, libvdeplug.ErrBridged) {
		t.Errorf("a Conn and itself: %v", err)
	}
	send(t, a, rig.Frame(60, 7)) // it is free again
}

// TestBridgeDisarms has a read and a write wait when a Bridge begins: while it runs, no
// poller of theirs may wake up for its frames.
func TestBridgeDisarms(t *testing.T) {
	_, a := seqpackets(t)
	b, near := seqpackets(t)
	waiting := make(chan error, 2)
	go func() { waiting <- readUntilError(a) }()
	go func() {
		for f := rig.Frame(1514, 1); ; {
			if _, err := b.Write(f); err != nil {
				waiting <- err
				return
			}
		}
	}()
	parked(t, 2)
	if n := armed(t, a) + armed(t, b); n != 2 {
		t.Fatalf("%d descriptors are armed while two calls wait", n)
	}
	br := startBridge(t, a, b)
	for range 2 {
		if err := finish(t, "a call", waiting); !errors.Is(err, libvdeplug.ErrBridged) {
			t.Error(err)
		}
	}
	if n := armed(t, a) + armed(t, b); n != 0 {
		t.Errorf("%d descriptors are armed while the bridge runs", n)
	}
	br.stop(t)
	go func() { waiting <- readUntilError(near) }() // makes room, and then waits
	send(t, b, rig.Frame(60, 1))
	must(t, b.Close())
	checkEOF(t, finish(t, "the read", waiting))
}

// armed counts the epoll descriptors of this process that wait for frames of
// a seqpacket://, or for room.
func armed(t *testing.T, c *libvdeplug.Conn) (n int) {
	t.Helper()
	_, fd, _ := strings.Cut(c.LocalAddr().String(), "://")
	files, err := filepath.Glob("/proc/self/fdinfo/*")
	must(t, err)
	for _, file := range files {
		text, _ := os.ReadFile(file) // it may be closed by now
		for line := range strings.Lines(string(text)) {
			var tfd string
			var events uint32
			if _, err := fmt.Sscanf(line, "tfd: %s events: %x", &tfd, &events); err == nil && tfd == fd && events&(unix.EPOLLIN|unix.EPOLLOUT) != 0 {
				n++
			}
		}
	}
	return n
}

// TestBridgeThatDoesNotBegin has Bridges fail while a call waits: it is told so, or
// goes on waiting, but it has no deadline that could have passed.
func TestBridgeThatDoesNotBegin(t *testing.T) {
	for name, call := range map[string]func(c *libvdeplug.Conn) (int, error){
		"read":  func(c *libvdeplug.Conn) (int, error) { return c.Read(make([]byte, 60)) },
		"write": func(c *libvdeplug.Conn) (int, error) { return c.Write(rig.Frame(1514, 1)) }, // there is room for some
	} {
		t.Run(name, func(t *testing.T) {
			_, a := seqpackets(t)
			b, _ := seqpackets(t)
			ended := make(chan error, 1)
			go func() {
				for { // waits again
					switch _, err := call(a); {
					case errors.Is(err, net.ErrClosed):
						ended <- err
						return
					case err != nil && !errors.Is(err, libvdeplug.ErrBridged):
						t.Errorf("the call ended with %v", err)
					}
				}
			}()
			ctx, cancel := context.WithCancel(context.Background())
			cancel()
			for range 200 {
				parked(t, 1)
				if _, err := libvdeplug.Bridge(ctx, a, b); !errors.Is(err, context.Canceled) {
					t.Fatal(err)
				}
			}
			must(t, a.Close())
			_ = finish(t, "the call", ended)
		})
	}
}

// TestBridgeEnds ends Bridges in all ways.
func TestBridgeEnds(t *testing.T) {
	for name, end := range map[string]func(far, a, b, near *libvdeplug.Conn) (conn *libvdeplug.Conn, want error){
		"network a": func(far, a, _, _ *libvdeplug.Conn) (*libvdeplug.Conn, error) { far.Close(); return a, io.EOF },
		"network b": func(_, _, b, near *libvdeplug.Conn) (*libvdeplug.Conn, error) { near.Close(); return b, io.EOF },
		"close a":   func(_, a, _, _ *libvdeplug.Conn) (*libvdeplug.Conn, error) { a.Close(); return a, net.ErrClosed },
		"close b":   func(_, _, b, _ *libvdeplug.Conn) (*libvdeplug.Conn, error) { b.Close(); return b, net.ErrClosed },
	} {
		t.Run(name, func(t *testing.T) {
			far, a := seqpackets(t)
			b, near := seqpackets(t)
			br := startBridge(t, a, b)
			conn, want := end(far, a, b, near)
			err := finish(t, "the bridge", br.ended)
			var op *libvdeplug.OpError
			if !errors.Is(err, want) || !errors.As(err, &op) || op.VNL != conn.LocalAddr().String() {
				t.Errorf("%v, want %v of %v", err, want, conn.LocalAddr())
			}
		})
	}
	t.Run("before it begins", func(t *testing.T) {
		_, a := seqpackets(t)
		b, _ := seqpackets(t)
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		if _, err := libvdeplug.Bridge(ctx, a, b); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		must(t, b.Close())
		if _, err := libvdeplug.Bridge(context.Background(), a, b); !errors.Is(err, net.ErrClosed) {
			t.Error(err)
		}
		send(t, a, rig.Frame(60, 1))
	})
	t.Run("switch", func(t *testing.T) {
		dir := filepath.Join(rig.TempDir(t), "s")
		sw := rig.Switch(t, dir)
		a := open(t, dir)
		b, _ := seqpackets(t)
		br := startBridge(t, a, b)
		sw.Signal(os.Kill)
		if err := finish(t, "the bridge", br.ended); !errors.Is(err, io.EOF) {
			t.Error(err)
		}
	})
	t.Run("crash", func(t *testing.T) {
		n := faulty(t)
		a := openIsolated(t, n.VNL(), libvdeplug.Isolation{})
		b, near := seqpackets(t)
		br := startBridge(t, a, b)
		n.Set(t, faultplug.SendCrash)
		send(t, near, rig.Frame(60, 1))
		var crash *libvdeplug.CrashError
		if err := finish(t, "the bridge", br.ended); !errors.As(err, &crash) {
			t.Error(err)
		}
	})
}

// TestBridgeWaitsForAFrame ends a Bridge while a frame is on its way out on a serial
// line, which takes some time: the Conns are free when it returns.
func TestBridgeWaitsForAFrame(t *testing.T) {
	a, line := serialLine(t)
	b, near := seqpackets(t)
	br := startBridge(t, a, b)
	for range 64 { // far more than the line holds
		send(t, near, rig.Frame(9000, 1))
	}
	sent := uint64(0)
	rig.Eventually(t, soon, "a frame is on its way", func() bool {
		before := sent
		sent = a.Stats().TxFrames
		return stacks("cvde._Cfunc_cvde_send(") > 0 && sent == before
	})
	br.cancel()
	select {
	case err := <-br.ended:
		t.Errorf("it did not wait: %v", err)
		br.ended <- err
	case <-time.After(200 * time.Millisecond): // what is awaited is that nothing happens
	}
	go func() { _, _ = io.Copy(io.Discard, line) }() // until it is closed
	got := br.stop(t)
	if read := b.Stats().RxFrames; got.BA.Frames == 0 || got.BA.Frames+got.BA.Drops != read {
		t.Errorf("carried %+v of %d frames", got, read)
	}
	send(t, a, rig.Frame(60, 2))
	send(t, b, rig.Frame(60, 3))
}

// TestBridgeHub bridges the host of a hub, which must serve its clients although
// the other network is full.
func TestBridgeHub(t *testing.T) {
	client, host := hub(t)
	b, near := seqpackets(t)
	br := startBridge(t, host, b)
	vnl := "vde:" + host.LocalAddr().String()[len("hub:"):]
	for range 3000 { // nobody reads near
		send(t, client, rig.Frame(1514, 1))
	}
	other := open(t, vnl) // is let in
	greet(t, client, other)
	if got := br.stop(t); got.AB.Drops == 0 {
		t.Errorf("carried %+v", got)
	}
	receive(t, near)
}
