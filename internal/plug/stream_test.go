package plug

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/umlvde/umlvde/internal/relay"
	"github.com/umlvde/umlvde/internal/rig"
	"golang.org/x/sys/unix"
)

// framed is what a vdestream makes of frames.
func framed(frames ...[]byte) (out []byte) {
	for _, f := range frames {
		out = binary.BigEndian.AppendUint16(out, uint16(len(f)))
		out = append(out, f...)
	}
	return out
}

// ends are the kinds of descriptors that a Stream may be given: each makes one and
// its far end.
var ends = map[string]func(t testing.TB) (near, far *os.File){
	"pipe": func(t testing.TB) (near, far *os.File) {
		r, w, err := os.Pipe()
		must(t, err)
		return w, r
	},
	"stream socket": func(t testing.TB) (near, far *os.File) { return sockets(t, unix.SOCK_STREAM) },
	"packet socket": func(t testing.TB) (near, far *os.File) { return sockets(t, unix.SOCK_SEQPACKET) },
}

func sockets(t testing.TB, kind int) (near, far *os.File) {
	t.Helper()
	p, err := unix.Socketpair(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC, 0)
	must(t, err)
	return os.NewFile(uintptr(p[0]), "near"), os.NewFile(uintptr(p[1]), "far")
}

// TestStreamSend fills what a stream writes to until it takes no more, with the
// far end reading now and then: all arrives, nothing waits, and the flags of the
// descriptor, which is opened for waiting, stay as they are.
func TestStreamSend(t *testing.T) {
	for name, end := range ends {
		t.Run(name, func(t *testing.T) {
			near, far := end(t)
			defer near.Close()
			defer far.Close()
			fd := int(near.Fd()) // for waiting, from here on
			before, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
			must(t, err)
			s, b, c := NewStream(-1, fd), newBatch(t), relay.Counters{}
			size := func(n uint32) int { return 18 + int(n*37)%9200 }
			const total = 1000
			sent, full := uint32(0), 0
			var got bytes.Buffer
			buf := make([]byte, 9234)
			for b.Len() > 0 || sent < total || s.Unsent() {
				for sent < total && b.Append(rig.Frame(size(sent), sent)) {
					sent++
				}
				switch err := s.Send(b, &c); {
				case errors.Is(err, unix.EAGAIN):
					full++
					n, err := far.Read(buf)
					must(t, err)
					got.Write(buf[:n])
				case err != nil:
					t.Fatal(err)
				}
			}
			must(t, s.Close())
			near.Close()
			for {
				n, err := far.Read(buf)
				got.Write(buf[:n])
				if err != nil {
					break
				}
			}
			for i := range uint32(total) {
				f := got.Next(2 + size(i))
				if len(f) < 18 || !bytes.Equal(f, framed(rig.Frame(size(i), i))) {
					t.Fatalf("frame %d is wrong", i)
				}
			}
			if got.Len() > 0 || c.Totals().Out != total || full == 0 {
				t.Errorf("%d bytes too many, %d frames counted, full %d times", got.Len(), c.Totals().Out, full)
			}
			if after, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0); err == nil && after != before {
				t.Errorf("the flags were %#x and are %#x", before, after)
			}
		})
	}
}

// TestStreamRecv has nothing, a piece of a frame, the rest, the end, and the end
// within a frame; no call waits.
func TestStreamRecv(t *testing.T) {
	for name, end := range ends {
		t.Run(name, func(t *testing.T) {
			far, near := end(t) // the pipe the other way round
			defer near.Close()
			s, b := NewStream(int(near.Fd()), -1), newBatch(t)
			defer s.Close()
			recv := func(want error) {
				t.Helper()
				err := s.Recv(b)
				for limit := rig.NewLimit(soon); err == unix.EAGAIN && want != err && limit.Left() > 0; err = s.Recv(b) { //nolint:errorlint // bare
					rig.Poll(int(near.Fd()), unix.POLLIN, 10*time.Millisecond) // a process that is just being started keeps the far end
				}
				if !errors.Is(err, want) {
					t.Fatalf("%v, not %v", err, want)
				}
			}
			write := func(p []byte) {
				_, err := far.Write(p)
				must(t, err)
			}
			recv(unix.EAGAIN)
			text := framed(rig.Frame(60, 1), rig.Frame(70, 2))
			write(text[:1])
			recv(unix.EAGAIN)
			write(text[1:70])
			recv(nil)
			write(text[70:])
			if recv(nil); b.Len() != 1 || !bytes.Equal(b.Frame(0), rig.Frame(70, 2)) {
				t.Errorf("%d frames", b.Len())
			}
			write(text[:10])
			recv(unix.EAGAIN)
			far.Close()
			if recv(io.EOF); !strings.Contains(s.Recv(b).Error(), "within a frame") {
				t.Error("the end within a frame goes unnoticed")
			}
		})
	}
}

// TestStreamReaderGone sees that a pipe whose reader has ended says so without a
// frame being written.
func TestStreamReaderGone(t *testing.T) {
	r, w, err := os.Pipe()
	must(t, err)
	defer w.Close()
	in, far, err := os.Pipe()
	must(t, err)
	defer in.Close()
	defer far.Close()
	s := NewStream(int(in.Fd()), int(w.Fd()))
	defer s.Close()
	_, _, ctl := s.Fds()
	if rig.Poll(ctl, unix.POLLIN, 0) {
		t.Fatal("the pipe has something to say too early")
	}
	_, err = far.Write(framed(slices.Repeat([][]byte{rig.Frame(60, 1)}, 100)...))
	must(t, err)
	r.Close()
	poll(t, ctl, unix.POLLIN)
	b, left := newBatch(t), 100
	for left > 0 { // in the pipe at first, and then in s
		if err := s.Check(); err != nil {
			t.Errorf("there are still %d frames to read, but: %v", left, err)
		}
		if _, _, ctl := s.Fds(); ctl != -1 {
			t.Error("who cannot read them now would not sleep")
		}
		must(t, s.Recv(b))
		left -= b.Len()
	}
	if _, _, now := s.Fds(); now != ctl {
		t.Error("nothing will tell of the end")
	}
	if err := s.Check(); err != io.EOF { //nolint:errorlint // bare
		t.Errorf("the reader's end is %v", err)
	}
	if err := s.Send(b, &relay.Counters{}); err != io.EOF { //nolint:errorlint // bare
		t.Errorf("writing then is %v", err)
	}
}

// FuzzStream cuts any bytes into frames, which come in pieces of any sizes: it is
// the same as in one piece, and never more than was there.
func FuzzStream(f *testing.F) {
	f.Add(framed(rig.Frame(60, 1), nil, rig.Frame(9234, 2), rig.Frame(14, 0)), []byte{1})
	f.Add(framed(rig.Frame(300, 1))[:200], []byte{2, 61, 1})
	f.Add([]byte("Welcome to this host\n"), []byte{})
	f.Add(slices.Repeat(framed(rig.Frame(18, 7)), 200), []byte{255, 3})
	f.Fuzz(func(t *testing.T, text, sizes []byte) {
		var want [][]byte // by the definition
		rest, garbage := text, false
		for len(rest) >= 2 {
			n := int(binary.BigEndian.Uint16(rest))
			if garbage = n > 9234; garbage || len(rest) < 2+n {
				break
			}
			want = append(want, rest[2:2+n])
			rest = rest[2+n:]
		}
		far, near := sockets(t, unix.SOCK_STREAM)
		defer near.Close()
		defer far.Close()
		s, b := NewStream(int(near.Fd()), -1), newBatch(t)
		var got [][]byte
		var end error
		drain := func() {
			for end == nil {
				if end = s.Recv(b); end == unix.EAGAIN { //nolint:errorlint // bare
					end = nil
					return
				}
				for i := range b.Len() {
					got = append(got, bytes.Clone(b.Frame(i)))
				}
			}
		}
		for i := 0; len(text) > 0 && end == nil; i++ {
			n := len(text)
			if len(sizes) > 0 && i < 200 { // more pieces tell no more
				n = min(n, 1+int(sizes[i%len(sizes)]))
			}
			if _, err := far.Write(text[:min(n, 16<<10)]); err != nil {
				t.Fatal(err)
			}
			text = text[min(n, 16<<10):]
			drain()
		}
		far.Close()
		drain()
		if !slices.EqualFunc(got, want, bytes.Equal) {
			t.Errorf("%d frames, not %d", len(got), len(want))
		}
		switch eof := errors.Is(end, io.EOF); {
		case eof == garbage:
			t.Errorf("the end is %v, garbage %v", end, garbage)
		case eof && (end == io.EOF) != (len(rest) == 0): //nolint:errorlint // bare if it says nothing more
			t.Errorf("the end is %v, after %d bytes of a frame", end, len(rest))
		}
	})
}
