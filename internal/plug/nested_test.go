package plug

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/umlvde/umlvde/internal/rig"
	"golang.org/x/sys/unix"
)

// tag puts a VLAN tag into a frame.
func tag(tpid uint16, vid byte, f []byte) []byte {
	return append(append(f[:12:12], byte(tpid>>8), byte(tpid), 0, vid), f[12:]...)
}

// TestVlanTags sends tagged frames through a trunk: vlan's vde_recv returns the
// length of the buffer for theirs, and what was there before behind them.
func TestVlanTags(t *testing.T) {
	vnl := "ptp://" + filepath.Join(rig.TempDir(t), "p")
	outside, inside := open(t, vnl), open(t, "vlan://5/x{"+vnl+"}")
	for _, size := range []int{60, 1514} {
		send(t, outside, tag(0x8100, 5, rig.Frame(size, 7)))
		if f := receive(t, inside)[0]; !bytes.Equal(f, rig.Frame(size, 7)) {
			t.Errorf("a frame of the untagged network has %d bytes, not %d", len(f), size)
		}
		send(t, outside, tag(0x8100, 10, rig.Frame(size, 7)))
		if f := receive(t, inside)[0]; !bytes.Equal(f, tag(0x8100, 10, rig.Frame(size, 7))) {
			t.Errorf("a tagged frame has %d bytes, not %d", len(f), size+4)
		}
		send(t, inside, rig.Frame(size, 7))
		if f := receive(t, outside)[0]; !bytes.Equal(f, tag(0x8100, 5, rig.Frame(size, 7))) {
			t.Errorf("a frame that was tagged has %d bytes, not %d", len(f), size+4)
		}
	}
}

// TestVlanGivesTags sends frames to vlans that give untagged ones a tag: to them, a
// frame with a tag of the other type has none. They must not cut it, nor any of
// those that are nearly too long.
func TestVlanGivesTags(t *testing.T) {
	for params, tpid := range map[string][2]uint16{"u=7/x": {0x8100, 0x88a8}, "u=7/x/q": {0x88a8, 0x8100}, "x/ad/u=7": {0x88a8, 0x8100}} {
		vnl := "ptp://" + filepath.Join(rig.TempDir(t), "p")
		outside, inside := open(t, vnl), open(t, "vlan:///"+params+"{"+vnl+"}")
		for _, size := range []int{60, 1514, 9200} {
			for _, f := range [][]byte{rig.Frame(size, 1), rig.Frame(size+30, 1), tag(tpid[1], 10, rig.Frame(size, 1))} {
				send(t, outside, f)
				if got := receive(t, inside)[0]; !bytes.Equal(got, tag(tpid[0], 7, f)) {
					t.Errorf("%s: a frame of %d bytes came with %d", params, len(f), len(got))
				}
			}
			f := tag(tpid[0], 10, rig.Frame(size, 1))
			send(t, outside, f)
			if got := receive(t, inside)[0]; !bytes.Equal(got, f) {
				t.Errorf("%s: a tagged frame of %d bytes came with %d", params, len(f), len(got))
			}
		}
	}
}

// TestVlanTooLong sends a frame that is longer than the plugin reads, which must not
// arrive without its end.
func TestVlanTooLong(t *testing.T) {
	vnl := "ptp://" + filepath.Join(rig.TempDir(t), "p")
	outside, inside := open(t, vnl), open(t, "vlan://5{"+vnl+"}")
	send(t, outside, tag(0x8100, 5, rig.Frame(9300, 1)), tag(0x8100, 5, rig.Frame(9230, 2)), tag(0x8100, 5, rig.Frame(60, 3)))
	for _, f := range receive(t, inside) {
		if n := rig.Number(f); n == 1 || len(f) != map[uint32]int{2: 9230, 3: 60}[n] {
			t.Errorf("frame %d came with %d bytes", n, len(f))
		}
	}
}

// next receives frames of p as long as its descriptor shows that there are any, until
// there are n, and checks that they are numbered from 0.
func next(t *testing.T, p Plug, n uint32) {
	t.Helper()
	b := newBatch(t)
	for number := uint32(0); number < n; {
		r, _, _ := p.Fds()
		if !rig.Poll(r, unix.POLLIN, soon) {
			t.Fatalf("nothing shows that there are more than %d frames", number)
		}
		if err := p.Recv(b); err != nil {
			if !errors.Is(err, unix.EAGAIN) {
				t.Fatal(err)
			}
			continue
		}
		for i := range b.Len() {
			if got := rig.Number(b.Frame(i)); got != number {
				t.Fatalf("frame %d came as number %d", got, number)
			}
			number++
		}
	}
}

// TestNestedInPortions has more frames come from the inner network than the socket to
// the plugin has room for, as that of an ordinary user may if they are long.
func TestNestedInPortions(t *testing.T) {
	far, fd := packetPair(t)
	p := open(t, fmt.Sprintf("vlan://5{seqpacket://%d}", fd))
	must(t, unix.SetsockoptInt(p.(*nestedPlug).sock.fd, unix.SOL_SOCKET, unix.SO_SNDBUF, 1)) // the least that there is
	const n = 150
	for i := range uint32(n) {
		vid := byte(5)
		if i%3 > 0 {
			vid = 6
		}
		must(t, unix.Sendto(far.fd, tag(0x8100, vid, rig.Frame(1500, i/3)), 0, nil))
	}
	next(t, p, n/3)
}

// TestNestedInside has the inner network keep frames that its descriptor does not
// show, behind a batch of which the plugin lets none pass.
func TestNestedInside(t *testing.T) {
	var frames [][]byte
	for range 200 {
		frames = append(frames, tag(0x8100, 6, rig.Frame(60, 0)))
	}
	for i := range uint32(100) {
		frames = append(frames, tag(0x8100, 5, rig.Frame(60, i)), tag(0x8100, 6, rig.Frame(60, 0)))
	}
	file := filepath.Join(rig.TempDir(t), "stream")
	must(t, os.WriteFile(file, framed(frames...), 0o600))
	p := open(t, fmt.Sprintf("vlan://5{cmd://sh -c 'cat %s; read x'}", file))
	next(t, p, 100)
}
