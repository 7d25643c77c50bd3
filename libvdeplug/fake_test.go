//go:build linux

package libvdeplug_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/umlvde/umlvde/internal/rig"
	"github.com/umlvde/umlvde/libvdeplug"
)

// TestFakeLibrary goes all ways through the C code, with testdata/fakelib.c in the
// library's place, for AddressSanitizer: make asan. It does so in a process of its
// own, as libraries are loaded for good.
func TestFakeLibrary(t *testing.T) {
	so := filepath.Join(rig.TempDir(t), "fake.so")
	if os.Getenv(childTest) == "" {
		gcc(t, "-shared", "-fPIC", "-g", "-o", so, "testdata/fakelib.c")
	}
	if !inChild(t, 3*soon, nil, "LIBVDEPLUG="+so) {
		return
	}
	for _, vnl := range []string{"unknown://", "vde:///direct"} { // through the library, and past it
		c := open(t, vnl)
		bufs, sizes := buffers(64)
		for size := libvdeplug.MinFrameSize; size <= libvdeplug.MaxFrameSize; size += 1 + size/7 {
			send(t, c, rig.Frame(max(size, 18), 1))
			frames := [][]byte{rig.Frame(size, 2), rig.Frame(size, 3), rig.Frame(size, 4)}
			if n, err := c.WriteBatch(frames); n != 3 || err != nil {
				t.Fatal(n, err)
			}
			must(t, c.SetReadDeadline(time.Now().Add(soon)))
			if vnl == "vde:///direct" {
				c.Close() // they lie at the far end, which nobody reads
				c = open(t, vnl)
				continue
			}
			if f := receive(t, c); !bytes.Equal(f, rig.Frame(max(size, 18), 1)) {
				t.Errorf("%s: %d bytes became %d", vnl, size, len(f))
			}
			for n := 0; n < 3; {
				k, err := c.ReadBatch(bufs, sizes)
				must(t, err)
				for i := range k {
					if !bytes.Equal(bufs[i][:sizes[i]], frames[n+i]) {
						t.Errorf("%s: frame %d of %d bytes is % x", vnl, n+i, size, bufs[i][:min(sizes[i], 20)])
					}
				}
				n += k
			}
		}
		must(t, c.Close())
	}
	var text bytes.Buffer
	s, got := stream(t, &text)
	for _, size := range []int{14, 60, 9236} {
		must(t, s.Send(rig.Frame(size, 1)))
	}
	must(t, s.Recv(text.Bytes()))
	if len(got.frames) != 3 || len(got.errs) != 0 || len(got.frames[2]) != 9236 {
		t.Errorf("%d frames, errors %v", len(got.frames), got.errs)
	}
	if err := s.Recv([]byte("nonsense")); err == nil || len(got.errs) != 1 {
		t.Errorf("nonsense: %v", err)
	}
}

// FuzzFrames sends frames of any sizes, in batches of any, into buffers of any.
func FuzzFrames(f *testing.F) {
	f.Add([]byte{0, 0, 0, 13, 0, 14, 0, 60, 5, 234, 35, 40, 36, 18, 255, 255}, uint8(3), uint16(9234))
	f.Add([]byte{0, 60, 0, 61, 0, 60}, uint8(0), uint16(60))
	f.Add(slices.Repeat([]byte{0, 100}, 200), uint8(255), uint16(0))
	f.Fuzz(func(t *testing.T, sizes []byte, perCall uint8, room uint16) {
		a, b := seqpackets(t)
		var frames [][]byte
		for ; len(sizes) >= 2; sizes = sizes[2:] {
			frames = append(frames, bytes.Repeat([]byte{byte(len(frames))}, int(sizes[0])<<8|int(sizes[1])))
		}
		sent := make(chan error, 1)
		go func() { // one that is no frame is refused, and the next ones follow
			defer a.Close()
			for left := frames; len(left) > 0; {
				n, err := a.WriteBatch(left[:min(len(left), 1+int(perCall))])
				left = left[n:]
				switch {
				case errors.Is(err, libvdeplug.ErrFrameSize):
					if size := len(left[0]); size >= libvdeplug.MinFrameSize && size <= 65600 {
						t.Errorf("a frame of %d bytes was refused", size)
					}
					left = left[1:]
				case err != nil:
					sent <- err
					return
				}
			}
			sent <- nil
		}()
		bufs, lens := [][]byte{make([]byte, room)}, make([]int, 1)
		for _, f := range frames {
			if len(f) < libvdeplug.MinFrameSize {
				continue
			}
			if len(f) > int(room) {
				buf := make([]byte, 70000)
				n, err := b.Read(buf)
				if err != nil || !bytes.Equal(buf[:n], f) {
					t.Fatalf("a frame of %d bytes: %d, %v", len(f), n, err)
				}
				continue
			}
			n, err := b.ReadBatch(bufs, lens)
			if n != 1 || err != nil || !bytes.Equal(bufs[0][:lens[0]], f) {
				t.Fatalf("a frame of %d bytes: %d frames, %v", len(f), n, err)
			}
		}
		_, err := b.Read(make([]byte, 60))
		checkEOF(t, err)
		must(t, finish(t, "the writer", sent))
	})
}

// FuzzVNL opens anything, with plugins that open anything (but no nesting ones,
// which own what they are given): there is a Conn or an
// error that says why not.
func FuzzVNL(f *testing.F) {
	for _, vnl := range []string{
		"", "vde://", "tap://t0", "slirp:///tcpfwd=5555:10.0.2.15:22", "vlan://1{tap://x}", "://", "vde:///a[m=7/b", "udp://1->2:3",
		"\x00", "null://\xff", "a b://", "vlan://{vlan://{vlan://",
	} {
		f.Add(vnl)
	}
	dir := rig.TempDir(f)
	gcc(f, "-shared", "-fPIC", "-o", filepath.Join(dir, "echo.so"), "testdata/echo.c")
	for _, name := range []string{"vde", "tap", "slirp", "udp", "ptp", "null", "hub", "pcap", "vxlan", "x"} {
		must(f, os.Symlink("echo.so", filepath.Join(dir, "libvdeplug_"+name+".so")))
	}
	f.Setenv("VDEPLUGIN_PATH", dir)
	f.Fuzz(func(t *testing.T, vnl string) {
		if strings.Contains(vnl, "cmd:") || strings.Contains(vnl, "seqpacket:") {
			return // runs, or takes over, what it names
		}
		c, err := libvdeplug.Open(vnl, nil)
		switch {
		case (c == nil) != (err != nil):
			t.Fatalf("both or none: %v, %v", c, err)
		case err != nil:
			var op *libvdeplug.OpError
			if !errors.As(err, &op) || op.VNL != vnl || strings.ContainsAny(err.Error(), "\n\x00") {
				t.Errorf("%q", err)
			}
			return
		}
		if c.LocalAddr().Network() != "vde" {
			t.Error(c.LocalAddr())
		}
		if _, err := c.Write(rig.Frame(60, 1)); err != nil {
			t.Error(err)
		}
		must(t, c.Close())
	})
}
