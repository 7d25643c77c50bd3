//go:build linux

package libvdeplug_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/umlvde/umlvde/internal/rig"
	"github.com/umlvde/umlvde/libvdeplug"
)

// received collects what a Stream passes on.
type received struct {
	frames [][]byte
	errs   []error
}

// stream makes a Stream that writes to w.
func stream(t testing.TB, w io.Writer) (*libvdeplug.Stream, *received) {
	t.Helper()
	got := new(received)
	s, err := libvdeplug.OpenStream(w,
		func(frame []byte) { got.frames = append(got.frames, bytes.Clone(frame)) },
		func(err error) { got.errs = append(got.errs, err) })
	must(t, err)
	t.Cleanup(func() { check(t, s.Close()) })
	return s, got
}

// inChunks gives text to s in pieces of n bytes.
func inChunks(t testing.TB, s *libvdeplug.Stream, text []byte, n int) {
	t.Helper()
	for chunk := range slices.Chunk(text, n) {
		must(t, s.Recv(chunk))
	}
}

// TestStreamChunks cuts a stream in every way.
func TestStreamChunks(t *testing.T) {
	var text bytes.Buffer
	out, _ := stream(t, &text)
	var want [][]byte
	for i, size := range []int{14, 15, 60, 61, 255, 256, 257, 1514, 9236, 14} {
		f := rig.Frame(size, uint32(i))
		must(t, out.Send(f))
		want = append(want, f)
		if i == 3 {
			text.Write([]byte{0, 0, 0, 3, 1, 2, 3}) // an empty frame and a runt, which are skipped
		}
	}
	for n := 1; n <= text.Len(); n += 1 + n/50 {
		in, got := stream(t, io.Discard)
		inChunks(t, in, text.Bytes(), n)
		if len(got.errs) > 0 || !slices.EqualFunc(got.frames, want, bytes.Equal) {
			t.Errorf("in pieces of %d bytes: %d frames, errors %v", n, len(got.frames), got.errs)
		}
	}
	short := text.Bytes()[:2+14+2+15+2+60]
	for cut := 1; cut < len(short); cut++ { // in two pieces
		in, got := stream(t, io.Discard)
		must(t, in.Recv(short[:cut]))
		must(t, in.Recv(nil))
		must(t, in.Recv(short[cut:]))
		if !slices.EqualFunc(got.frames, want[:3], bytes.Equal) {
			t.Errorf("cut after %d bytes: %d frames", cut, len(got.frames))
		}
	}
}

func TestStreamErrors(t *testing.T) {
	s, got := stream(t, io.Discard)
	for _, size := range []int{0, 13, 9237, 70000} {
		if err := s.Send(make([]byte, size)); !errors.Is(err, libvdeplug.ErrFrameSize) {
			t.Errorf("%d bytes: %v", size, err)
		}
	}
	good := append([]byte{0, 60}, rig.Frame(60, 1)...)
	bad := append(slices.Clone(good), "SSH-2.0-OpenSSH"...)
	for _, chunk := range [][]byte{bad, good, good} {
		if err := s.Recv(chunk); !errors.Is(err, syscall.EPROTO) {
			t.Errorf("garbage: %v", err)
		}
	}
	if len(got.frames) != 1 || len(got.errs) != 1 || !errors.Is(got.errs[0], syscall.EPROTO) {
		t.Errorf("%d frames, errors %v", len(got.frames), got.errs)
	}
	must(t, s.Send(rig.Frame(60, 1))) // the other direction is not affected

	r, w := io.Pipe()
	r.Close()
	broken, _ := stream(t, w)
	for range 2 {
		if err := broken.Send(rig.Frame(60, 1)); !errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("nobody reads: %v", err)
		}
	}
	closed, err := libvdeplug.OpenStream(io.Discard, func([]byte) {}, nil)
	must(t, err)
	must(t, closed.Close())
	for _, err := range []error{closed.Close(), closed.Send(rig.Frame(60, 1)), closed.Recv(good)} {
		if !errors.Is(err, net.ErrClosed) {
			t.Errorf("after Close: %v", err)
		}
	}
}

// TestStreamPlug speaks with the C vde_plug: what it writes is taken in pieces of
// every size, and what it reads it understands.
func TestStreamPlug(t *testing.T) {
	dir := filepath.Join(rig.TempDir(t), "s")
	rig.Switch(t, dir)
	peer := open(t, dir)
	cmd := exec.Command("/usr/bin/vde_plug", "vde://"+dir)
	in, err := cmd.StdinPipe()
	must(t, err)
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	defer func() {
		in.Close()
		_ = cmd.Wait() // it says that its input has ended
	}()
	s, got := stream(t, in)
	rig.Eventually(t, soon, "vde_plug carries frames", func() bool {
		must(t, s.Send(rig.Frame(60, 0)))
		must(t, peer.SetReadDeadline(time.Now().Add(50*time.Millisecond)))
		_, err := peer.Read(make([]byte, 60))
		return err == nil
	})
	for i := range 100 {
		f := rig.Frame(60+10*i, uint32(1000+i))
		must(t, s.Send(f))
		g := receive(t, peer)
		for rig.Number(g) == 0 { // the first ones
			g = receive(t, peer)
		}
		if !bytes.Equal(f, g) {
			t.Fatalf("frame %d became number %d, of %d bytes", i, rig.Number(g), len(g))
		}
	}
	number := uint32(0)
	for n := 1; n <= 300; n += 1 + n/20 {
		var want [][]byte
		left := 0
		for size := range 5 {
			number++
			f := rig.Frame(60+n+size, number)
			send(t, peer, f)
			want = append(want, f)
			left += 2 + len(f)
		}
		got.frames = nil
		for buf := make([]byte, n); left > 0; {
			k, err := out.Read(buf[:min(n, left)])
			must(t, err)
			must(t, s.Recv(buf[:k]))
			left -= k
		}
		if !slices.EqualFunc(got.frames, want, bytes.Equal) || len(got.errs) > 0 {
			t.Fatalf("in pieces of %d bytes: %d frames, errors %v", n, len(got.frames), got.errs)
		}
	}
}

// FuzzStream cuts any text anywhere: a stream reads the same in all pieces.
func FuzzStream(f *testing.F) {
	f.Add(append([]byte{0, 20}, rig.Frame(20, 1)...), []byte{1})
	f.Add([]byte{0, 0, 0, 1, 9, 0, 14, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 255, 255, 0}, []byte{1, 2, 3})
	f.Add([]byte("hello"), []byte{4})
	f.Fuzz(func(t *testing.T, text, cuts []byte) {
		in, got := stream(t, io.Discard)
		rest := text
		var err error
		for i := 0; len(rest) > 0 && err == nil; i++ {
			n := len(rest)
			if len(cuts) > 0 {
				n = min(n, int(cuts[i%len(cuts)]))
				if n == 0 && i%len(cuts) == len(cuts)-1 {
					n = 1
				}
			}
			err = in.Recv(rest[:n])
			rest = rest[n:]
		}
		// The same by the definition.
		var want [][]byte
		var bad bool
		for rest = text; len(rest) >= 2 && !bad; {
			n := int(binary.BigEndian.Uint16(rest))
			rest = rest[2:]
			if bad = n > 9236; bad || n > len(rest) {
				break
			}
			if n >= libvdeplug.MinFrameSize {
				want = append(want, rest[:n])
			}
			rest = rest[n:]
		}
		if !slices.EqualFunc(got.frames, want, bytes.Equal) || bad != (err != nil) || len(got.errs) > 1 {
			t.Errorf("%d frames and %v, want %d and %v", len(got.frames), err, len(want), bad)
		}
	})
}
