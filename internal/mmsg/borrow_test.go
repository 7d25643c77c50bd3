package mmsg_test

import (
	"bytes"
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/umlvde/umlvde/internal/mmsg"
	"github.com/umlvde/umlvde/internal/rig"
	"golang.org/x/sys/unix"
)

// filled returns buffers of the given lengths, full of something.
func filled(lengths ...int) (bufs [][]byte) {
	for _, n := range lengths {
		bufs = append(bufs, bytes.Repeat([]byte{0xee}, n))
	}
	return bufs
}

// holds checks what frames a batch has: number i has the i-th of the lengths.
func holds(t *testing.T, b *mmsg.Batch, first uint32, want ...int) {
	t.Helper()
	equal(t, "held", lengths(b), want)
	for i := range want {
		if !bytes.Equal(b.Frame(i), rig.Frame(want[i], first+uint32(i))) {
			t.Errorf("frame %d: % x", i, b.Frame(i))
		}
	}
}

// TestBorrowRoom receives frames in the caller's buffers, some of which are too
// small.
func TestBorrowRoom(t *testing.T) {
	for _, kind := range []int{unix.SOCK_SEQPACKET, unix.SOCK_DGRAM} {
		a, b := pair(t, kind)
		in := newBatch(t)
		sizes := []int{60, 61, 100, 1514, mmsg.FrameCap, 62}
		for round := range 3 {
			for i, n := range sizes {
				write(t, a, rig.Frame(n, uint32(i)))
			}
			bufs := filled(60, 200, 99, 0, 60, 60, 60, 60)
			in.BorrowRoom(bufs)
			if in.Room() != len(bufs) || in.Len() != 0 {
				t.Fatalf("room for %d, %d held", in.Room(), in.Len())
			}
			if errno := in.Recv(b); errno != 0 || in.Len() != len(sizes) || !in.InPlace() {
				t.Fatalf("Recv: %v, %d frames, in place %v", errno, in.Len(), in.InPlace())
			}
			for i, n := range sizes {
				if in.Size(i) != n {
					t.Errorf("frame %d has %d bytes, not %d", i, in.Size(i), n)
				}
			}
			if !bytes.Equal(bufs[0], rig.Frame(60, 0)) || !bytes.Equal(bufs[1][:61], rig.Frame(61, 1)) {
				t.Errorf("in the buffers: % x, % x", bufs[0], bufs[1][:61])
			}
			if in.Drop(round); round == 0 { // with and without some that are gone
				in.Drop(2)
			}
			in.Return()
			for _, buf := range bufs {
				clear(buf)
			}
			if round == 0 {
				holds(t, in, 2, sizes[2:]...)
			} else {
				holds(t, in, uint32(round), sizes[round:]...)
			}
			if in.InPlace() || in.Room() != mmsg.Max {
				t.Error("the caller's memory is still in use")
			}
			write(t, a, rig.Frame(70, 7))
			if errno := in.Recv(b); errno != 0 {
				t.Fatal(errno)
			}
			holds(t, in, 7, 70)
			if !bytes.Equal(bytes.Join(bufs, nil), make([]byte, 599)) {
				t.Error("memory was written that had been given back")
			}
		}
	}
}

// TestBorrowRoomForOne cuts a frame, and tells its length.
func TestBorrowRoomForOne(t *testing.T) {
	a, b := pair(t, unix.SOCK_SEQPACKET)
	in := newBatch(t)
	for _, n := range []int{59, 60, 61, 70000} {
		write(t, a, rig.Frame(n, 1))
		buf := filled(61)
		in.BorrowRoom([][]byte{buf[0][:60]})
		if errno := in.Recv(b); errno != 0 || in.Len() != 1 || in.Size(0) != n {
			t.Fatalf("%d bytes: %v, %d frames, %d bytes", n, errno, in.Len(), in.Size(0))
		}
		if k := min(n, 60); !bytes.Equal(buf[0][:k], rig.Frame(n, 1)[:k]) || buf[0][60] != 0xee {
			t.Errorf("%d bytes: % x", n, buf[0])
		}
		in.Clear()
		in.Return()
	}
}

// TestBorrowRoomScreened has frames in it that are none.
func TestBorrowRoomScreened(t *testing.T) {
	a, b := pair(t, unix.SOCK_SEQPACKET)
	in := newBatch(t)
	for i, n := range []int{20, 5, 100, 70000, 30} {
		write(t, a, bytes.Repeat([]byte{byte(i + 1)}, n))
	}
	in.BorrowRoom(filled(60, 60, 60, 60, 60, 60))
	if errno := in.Recv(b); errno != 0 || in.Len() != 5 {
		t.Fatalf("Recv: %v, %d frames", errno, in.Len())
	}
	if runts, giants := in.Screen(14, mmsg.FrameCap); runts != 1 || giants != 1 {
		t.Errorf("%d runts, %d giants", runts, giants)
	}
	equal(t, "screened", lengths(in), []int{20, 100, 30})
	for i, want := range []byte{1, 3, 5} {
		if f := in.Frame(i); !bytes.Equal(f, bytes.Repeat([]byte{want}, len(f))) {
			t.Errorf("frame %d: % x", i, f)
		}
	}
	in.Return()
}

// TestBorrow sends frames out of the caller's memory, as far as there is room, and
// keeps the others.
func TestBorrow(t *testing.T) {
	a, b := pair(t, unix.SOCK_SEQPACKET)
	if err := unix.SetsockoptInt(a, unix.SOL_SOCKET, unix.SO_SNDBUF, 40000); err != nil {
		t.Fatal(err)
	}
	out, in := newBatch(t), newBatch(t)
	var frames [][]byte
	for i := range mmsg.Max + 3 {
		frames = append(frames, rig.Frame(1000+i, uint32(i)))
	}
	out.Borrow(frames)
	sent, errno := out.Send(a)
	if sent == 0 || sent == mmsg.Max || errno != unix.EAGAIN || out.Len() != mmsg.Max-sent || !out.InPlace() {
		t.Fatalf("Send: %d, %v; %d left", sent, errno, out.Len())
	}
	out.Return()
	for _, f := range frames {
		clear(f)
	}
	for next := 0; next < mmsg.Max; {
		if errno := in.Recv(b); errno != 0 {
			t.Fatal(errno)
		}
		for i := range in.Len() {
			if !bytes.Equal(in.Frame(i), rig.Frame(1000+next, uint32(next))) {
				t.Errorf("frame %d: % x", next, in.Frame(i)[:20])
			}
			next++
		}
		out.Send(a)
	}
}

// TestBorrowForC never shows the caller's memory to C.
func TestBorrowForC(t *testing.T) {
	out := newBatch(t)
	frames := [][]byte{rig.Frame(60, 0), rig.Frame(61, 1)}
	out.Borrow(frames)
	if _, n := out.Headers(); n != 2 || out.InPlace() {
		t.Errorf("%d frames, in place %v", n, out.InPlace())
	}
	clear(frames[0])
	clear(frames[1])
	holds(t, out, 0, 60, 61)
	out.Clear()
	out.BorrowRoom(filled(60, 60))
	if out.Empty(); out.InPlace() || out.Room() != 2 {
		t.Errorf("in place %v, room for %d", out.InPlace(), out.Room())
	}
	out.Return()
}

// TestReturn sees that the memory can be collected as garbage.
func TestReturn(t *testing.T) {
	b := newBatch(t)
	const n = 5
	gone := make(chan int, 2*n)
	func() {
		for range 2 {
			var bufs [][]byte
			for i := range n {
				buf := make([]byte, 10000)
				runtime.SetFinalizer(&buf[0], func(*byte) { gone <- i })
				bufs = append(bufs, buf)
			}
			b.Borrow(bufs)
			b.Clear()
			b.BorrowRoom(bufs) // twice
			b.Return()
		}
	}()
	rig.Eventually(t, 10*time.Second, fmt.Sprintf("all %d buffers are gone", 2*n), func() bool {
		runtime.GC()
		return len(gone) == 2*n
	})
}

func TestBorrowAllocations(t *testing.T) {
	a, b := pair(t, unix.SOCK_SEQPACKET)
	batch := newBatch(t)
	frames := [][]byte{rig.Frame(1514, 1), rig.Frame(1514, 2)}
	if n := testing.AllocsPerRun(100, func() {
		batch.Borrow(frames)
		batch.Send(a)
		batch.BorrowRoom(frames)
		batch.Recv(b)
		batch.Screen(14, 1514)
		batch.Return()
	}); n != 0 {
		t.Errorf("%v allocations a round", n)
	}
}
