package vdetest_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/umlvde/umlvde/internal/leak"
	"github.com/umlvde/umlvde/internal/rig"
	"github.com/umlvde/umlvde/libvdeplug"
	"github.com/umlvde/umlvde/libvdeplug/vdetest"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { os.Exit(leak.Main(m)) }

const soon = 10 * time.Second

var longAgo = time.Unix(1, 0)

// conn is what both packages have.
type conn interface {
	net.Conn
	ReadBatch(bufs [][]byte, sizes []int) (int, error)
	WriteBatch(frames [][]byte) (int, error)
	Stats() libvdeplug.Stats
}

var (
	_ conn = (*libvdeplug.Conn)(nil)
	_ conn = (*vdetest.Conn)(nil)
)

func open(t *testing.T, vnl string) conn {
	t.Helper()
	c, err := libvdeplug.Open(vnl, nil)
	must(t, err)
	return c
}

// cables are pairs of ends that lose no frame: those of vdetest, and real ones.
var cables = map[string]func(t *testing.T) (a, b conn){
	"vdetest": func(*testing.T) (a, b conn) { return vdetest.Pair() },
	"seqpacket": func(t *testing.T) (a, b conn) {
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
		must(t, err)
		return open(t, fmt.Sprintf("seqpacket://%d", pair[0])), open(t, fmt.Sprintf("seqpacket://%d", pair[1]))
	},
}

// A socket is a switch to plug into.
type socket struct {
	plug  func() conn
	close func()
}

var switches = map[string]func(t *testing.T) socket{
	"vdetest": func(*testing.T) socket {
		var s vdetest.Switch
		return socket{func() conn { return s.Plug() }, s.Close}
	},
	"vde_switch": func(t *testing.T) socket {
		dir := filepath.Join(rig.TempDir(t), "s")
		p := rig.Switch(t, dir)
		return socket{func() conn { return open(t, "vde://"+dir) }, func() {
			p.Signal(os.Kill)
			p.Wait(soon)
		}}
	},
}

func eachCable(t *testing.T, f func(t *testing.T, a, b conn)) {
	for name, join := range cables {
		t.Run(name, func(t *testing.T) {
			a, b := join(t)
			defer b.Close()
			defer a.Close()
			f(t, a, b)
		})
	}
}

func eachSwitch(t *testing.T, f func(t *testing.T, s socket, ports []conn)) {
	for name, start := range switches {
		t.Run(name, func(t *testing.T) {
			s := start(t)
			var ports []conn
			for range 3 {
				c := s.plug()
				defer c.Close()
				ports = append(ports, c)
			}
			f(t, s, ports)
		})
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func send(t *testing.T, c conn, frame []byte) {
	t.Helper()
	if n, err := c.Write(frame); n != len(frame) || err != nil {
		t.Fatalf("Write of %d bytes: %d, %v", len(frame), n, err)
	}
}

func receive(t *testing.T, c conn) []byte {
	t.Helper()
	must(t, c.SetReadDeadline(time.Now().Add(soon)))
	buf := make([]byte, libvdeplug.MaxFrameSize)
	n, err := c.Read(buf)
	must(t, err)
	return buf[:n]
}

// nothing checks that no frame is there.
func nothing(t *testing.T, c conn) {
	t.Helper()
	must(t, c.SetReadDeadline(time.Now().Add(20*time.Millisecond)))
	n, err := c.Read(make([]byte, libvdeplug.MaxFrameSize))
	checkError(t, err, "read", os.ErrDeadlineExceeded)
	if n != 0 {
		t.Errorf("a frame of %d bytes", n)
	}
}

// checkError checks that err is an OpError for a reason.
func checkError(t *testing.T, err error, op string, reason error) {
	t.Helper()
	var e *libvdeplug.OpError
	if !errors.Is(err, reason) || !errors.As(err, &e) || e.Op != op || e.VNL == "" {
		t.Errorf("got %v, want an OpError of %s for %v", err, op, reason)
	}
	var timeout net.Error
	if !errors.As(err, &timeout) || timeout.Timeout() != errors.Is(reason, os.ErrDeadlineExceeded) {
		t.Errorf("%v does not tell whether it is a timeout", err)
	}
}

func checkEOF(t *testing.T, err error) {
	t.Helper()
	if err != io.EOF { //nolint:errorlint // bare
		t.Errorf("got %v, want a bare io.EOF", err)
	}
}

func TestFramesKeepTheirBoundsAndOrder(t *testing.T) {
	eachCable(t, func(t *testing.T, a, b conn) {
		frames := [][]byte{}
		for i, size := range []int{60, 14, 1514, 9234, 64, 61} {
			frames = append(frames, rig.Frame(size, uint32(i)))
		}
		n, err := a.WriteBatch(frames)
		if n != len(frames) || err != nil {
			t.Fatalf("WriteBatch: %d, %v", n, err)
		}
		frames[0][20]++ // is the caller's again
		if got := receive(t, b); len(got) != 60 || got[20] != 0 {
			t.Errorf("first came % x", got)
		}
		if got := receive(t, b); !bytes.Equal(got, frames[1]) {
			t.Errorf("then came % x", got)
		}
		bufs, sizes := make([][]byte, 9), make([]int, 9)
		for i := range bufs {
			bufs[i] = make([]byte, libvdeplug.MaxFrameSize)
		}
		for i := 2; i < len(frames); {
			n, err := b.ReadBatch(bufs, sizes)
			must(t, err)
			for j := range n {
				if !bytes.Equal(bufs[j][:sizes[j]], frames[i]) {
					t.Errorf("frame %d came as % x", i, bufs[j][:sizes[j]])
				}
				i++
			}
		}
		as, bs := a.Stats(), b.Stats()
		want := libvdeplug.Stats{TxFrames: 6, TxBytes: 60 + 14 + 1514 + 9234 + 64 + 61}
		if as != want || bs != (libvdeplug.Stats{RxFrames: want.TxFrames, RxBytes: want.TxBytes}) {
			t.Errorf("counted %+v and %+v", as, bs)
		}
	})
}

func TestFrameSizes(t *testing.T) {
	eachCable(t, func(t *testing.T, a, b conn) {
		ok := rig.Frame(60, 1)
		for _, size := range []int{0, 1, 13, 1 << 17} {
			n, err := a.Write(make([]byte, size))
			checkError(t, err, "write", libvdeplug.ErrFrameSize)
			if n != 0 {
				t.Errorf("Write of %d bytes returned %d", size, n)
			}
			n, err = a.WriteBatch([][]byte{ok, make([]byte, size), ok})
			checkError(t, err, "write", libvdeplug.ErrFrameSize)
			if n != 1 {
				t.Errorf("WriteBatch returned %d", n)
			}
			receive(t, b)
		}
		nothing(t, b)
		if n, err := a.WriteBatch(nil); n != 0 || err != nil {
			t.Errorf("WriteBatch of nothing: %d, %v", n, err)
		}
		if n, err := b.ReadBatch(nil, make([]int, 3)); n != 0 || (err != nil && !errors.Is(err, os.ErrDeadlineExceeded)) {
			t.Errorf("ReadBatch into nothing: %d, %v", n, err)
		}
	})
}

func TestShortBuffer(t *testing.T) {
	eachCable(t, func(t *testing.T, a, b conn) {
		for i, size := range []int{100, 60, 100, 60} {
			send(t, a, rig.Frame(size, uint32(i)))
		}
		small := make([]byte, 60)
		n, err := b.Read(small)
		checkError(t, err, "read", io.ErrShortBuffer)
		if n != 0 {
			t.Errorf("Read returned %d", n)
		}
		bufs, sizes := [][]byte{small, make([]byte, 60)}, make([]int, 2)
		if n, err := b.ReadBatch(bufs, sizes); n != 1 || err != nil || rig.Number(small) != 1 {
			t.Errorf("one that fits and one that does not: %d, %v", n, err)
		}
		if n, err := b.ReadBatch(bufs, sizes); n != 0 || !errors.Is(err, io.ErrShortBuffer) {
			t.Errorf("the one that does not: %d, %v", n, err)
		}
		if got := receive(t, b); rig.Number(got) != 3 {
			t.Errorf("frame %d came last", rig.Number(got))
		}
		if s := b.Stats(); s.RxFrames != 2 || s.RxDrops != 2 {
			t.Errorf("counted %+v", s)
		}
	})
}

func TestDeadlines(t *testing.T) {
	eachCable(t, func(t *testing.T, a, b conn) {
		send(t, a, rig.Frame(60, 0))
		must(t, b.SetReadDeadline(longAgo))
		_, err := b.Read(make([]byte, 60))
		checkError(t, err, "read", os.ErrDeadlineExceeded) // though a frame is there
		must(t, b.SetReadDeadline(time.Time{}))
		receive(t, b)
		nothing(t, b)

		must(t, b.SetReadDeadline(time.Time{}))
		waiting := read(b)
		must(t, b.SetDeadline(longAgo)) // ends a read that may wait already
		checkError(t, <-waiting, "read", os.ErrDeadlineExceeded)
		_, err = b.Write(rig.Frame(60, 0))
		checkError(t, err, "write", os.ErrDeadlineExceeded)

		must(t, a.SetWriteDeadline(time.Now().Add(50*time.Millisecond)))
		sent := uint64(0)
		for err = nil; err == nil && sent < 1e6; sent++ {
			_, err = a.Write(rig.Frame(60, 0))
		}
		checkError(t, err, "write", os.ErrDeadlineExceeded) // there is no more room
		if s := a.Stats(); s.TxFrames != sent {             // with the one at the start, without the last
			t.Errorf("counted %d frames of %d", s.TxFrames, sent)
		}
		must(t, a.SetWriteDeadline(time.Now().Add(soon)))
		written := make(chan error)
		go func() {
			_, err := a.Write(rig.Frame(60, 99))
			written <- err
		}()
		for last := uint32(0); last != 99; {
			last = rig.Number(receive(t, b))
		}
		must(t, <-written)
	})
}

// read reads in a goroutine.
func read(c conn) <-chan error {
	result := make(chan error, 1)
	go func() {
		_, err := c.Read(make([]byte, libvdeplug.MaxFrameSize))
		result <- err
	}()
	return result
}

func TestClose(t *testing.T) {
	eachCable(t, func(t *testing.T, a, b conn) {
		send(t, a, rig.Frame(60, 7))
		near := read(a)
		time.Sleep(time.Millisecond) // better if it waits, but nothing depends on it
		must(t, a.Close())
		must(t, a.Close())
		checkError(t, <-near, "read", net.ErrClosed)
		_, err := a.Write(rig.Frame(60, 0))
		checkError(t, err, "write", net.ErrClosed)
		checkError(t, a.SetDeadline(longAgo), "set deadline", net.ErrClosed)
		if s := a.Stats(); s.TxFrames != 1 {
			t.Errorf("counted %+v", s)
		}

		if n := rig.Number(receive(t, b)); n != 7 {
			t.Errorf("frame %d was left", n)
		}
		checkEOF(t, <-read(b))
		checkEOF(t, <-read(b))
		_, err = b.Write(rig.Frame(60, 0))
		checkError(t, err, "write", syscall.EPIPE)
	})
}

func TestCloseEndsAWriteThatWaits(t *testing.T) {
	eachCable(t, func(t *testing.T, a, b conn) {
		full := make(chan error, 1)
		go func() {
			var err error
			for err == nil {
				_, err = a.Write(rig.Frame(1514, 0))
			}
			full <- err
		}()
		receive(t, b)
		must(t, a.Close())
		checkError(t, <-full, "write", net.ErrClosed)
	})
}

func TestAddresses(t *testing.T) {
	a, b := vdetest.Pair()
	var s vdetest.Switch
	names := make(map[string]bool)
	for _, c := range []net.Conn{a, b, s.Plug(), s.Plug()} {
		if c.LocalAddr().Network() != "vde" || c.LocalAddr().String() != c.RemoteAddr().String() {
			t.Errorf("addresses %v and %v", c.LocalAddr(), c.RemoteAddr())
		}
		names[c.LocalAddr().String()] = true
	}
	if len(names) != 4 {
		t.Errorf("names %v", names)
	}
}

func TestMethodsTogether(t *testing.T) {
	eachCable(t, func(t *testing.T, a, b conn) {
		var calls sync.WaitGroup
		for _, c := range []conn{a, b} {
			for range 4 {
				calls.Add(2)
				go func() {
					defer calls.Done()
					for i := range 300 {
						if _, err := c.WriteBatch([][]byte{rig.Frame(60, uint32(i)), rig.Frame(60, uint32(i))}); err != nil {
							t.Error(err)
						}
						must(t, c.SetWriteDeadline(time.Now().Add(soon)))
					}
				}()
				go func() {
					defer calls.Done()
					for range 600 {
						if _, err := c.Read(make([]byte, 60)); err != nil {
							t.Error(err)
						}
						_ = c.Stats()
					}
				}()
			}
		}
		calls.Wait()
	})
}

// from is a frame between two of the addresses 0 to 9; 15 is everybody.
func from(src, dst byte) []byte {
	f := rig.Frame(60, uint32(src)<<8|uint32(dst))
	copy(f, []byte{2, 0, 0, 0, 0, dst, 2, 0, 0, 0, 0, src})
	if dst == 15 {
		copy(f, "\xff\xff\xff\xff\xff\xff")
	}
	return f
}

func TestSwitchLearns(t *testing.T) {
	eachSwitch(t, func(t *testing.T, s socket, ports []conn) {
		gets := func(sender int, frame []byte, receivers ...int) {
			t.Helper()
			send(t, ports[sender], frame)
			for _, r := range receivers {
				if got := receive(t, ports[r]); !bytes.Equal(got, frame) {
					t.Errorf("port %d got % x, want % x", r, got, frame)
				}
			}
			for _, c := range ports {
				nothing(t, c)
			}
		}
		gets(0, from(0, 15), 1, 2)
		gets(1, from(1, 7), 0, 2) // nobody's yet
		gets(1, from(1, 0), 0)
		gets(0, from(0, 1), 1)
		ports = append(ports, s.plug())
		defer ports[3].Close()
		gets(3, from(3, 15), 0, 1, 2)
		gets(0, from(9, 3), 3)
	})
}

func TestSwitchEnds(t *testing.T) {
	eachSwitch(t, func(t *testing.T, s socket, ports []conn) {
		for i := range byte(3) {
			send(t, ports[1], from(i, 15))
			receive(t, ports[0])
		}
		receive(t, ports[2]) // the second is there, as a third has passed the switch
		waiting := read(ports[0])
		s.close()
		checkEOF(t, <-waiting)
		if got := receive(t, ports[2]); !bytes.Equal(got, from(1, 15)) {
			t.Errorf("what was left is % x", got)
		}
		for err := error(nil); err == nil; {
			if _, err = ports[2].Read(make([]byte, 60)); err != nil {
				checkEOF(t, err)
			}
		}
		if _, err := ports[2].Write(from(2, 15)); err == nil {
			t.Error("a frame was sent to a switch that has ended")
		}
		must(t, ports[0].Close())
		checkError(t, <-read(ports[0]), "read", net.ErrClosed)
	})
}

// TestSwitchFollowsAddresses is about a port that is unplugged and an address that
// moves, which vde_switch believes only after three seconds.
func TestSwitchFollowsAddresses(t *testing.T) {
	var s vdetest.Switch
	a, b, d := s.Plug(), s.Plug(), s.Plug()
	send(t, a, from(0, 15))
	send(t, d, from(0, 15))
	receive(t, b)
	receive(t, b)
	receive(t, a)
	receive(t, d)
	send(t, b, from(1, 0))
	if got := receive(t, d); !bytes.Equal(got, from(1, 0)) {
		t.Errorf("got % x", got)
	}
	must(t, d.Close())
	c := s.Plug()
	send(t, b, from(1, 0)) // is flooded again
	if got := receive(t, c); !bytes.Equal(got, from(1, 0)) {
		t.Errorf("got % x", got)
	}
	s.Close()
	checkEOF(t, <-read(s.Plug()))
}

func TestSwitchDropsWhatNobodyReads(t *testing.T) {
	var s vdetest.Switch
	a, b := s.Plug(), s.Plug()
	for range 1000 {
		send(t, a, from(0, 15))
	}
	if n := b.Stats().RxDrops; n != 1000-256 {
		t.Errorf("%d frames were dropped", n)
	}
}

// FuzzFrames sends a frame of any size and contents over a switch and reads it
// into any buffer.
func FuzzFrames(f *testing.F) {
	f.Add(rig.Frame(60, 1), 60)
	f.Add([]byte("short"), 100)
	f.Add(make([]byte, 9235), 9235)
	f.Add(rig.Frame(64, 1), 63)
	f.Add(make([]byte, 14), 14)
	f.Fuzz(func(t *testing.T, frame []byte, room int) {
		var s vdetest.Switch
		a, b := s.Plug(), s.Plug()
		ok := len(frame) >= libvdeplug.MinFrameSize && len(frame) <= libvdeplug.MaxFrameSize
		if n, err := a.Write(frame); (err == nil) != ok || (n == len(frame)) != (ok || len(frame) == 0) {
			t.Fatalf("Write of %d bytes: %d, %v", len(frame), n, err)
		}
		if !ok || room <= 0 {
			return
		}
		if unicast := frame[0]&1 == 0; unicast && bytes.Equal(frame[:6], frame[6:12]) {
			// To who sent it, so it stays on its side of the switch, and the next is what comes.
			frame = append([]byte{0xff}, frame[1:]...)
			if _, err := a.Write(frame); err != nil {
				t.Fatal(err)
			}
		}
		buf := make([]byte, min(room, 1<<16))
		n, err := b.Read(buf)
		switch {
		case len(frame) > len(buf):
			if n != 0 || !errors.Is(err, io.ErrShortBuffer) {
				t.Fatalf("%d bytes into %d: %d, %v", len(frame), len(buf), n, err)
			}
		case err != nil || !bytes.Equal(buf[:n], frame):
			t.Fatalf("% x came as % x: %v", frame, buf[:n], err)
		}
	})
}
