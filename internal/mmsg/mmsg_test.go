package mmsg_test

import (
	"bytes"
	"os"
	"testing"

	"github.com/umlvde/umlvde/internal/leak"
	"github.com/umlvde/umlvde/internal/mmsg"
	"github.com/umlvde/umlvde/internal/rig"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { os.Exit(leak.Main(m)) }

func newBatch(t testing.TB) *mmsg.Batch {
	t.Helper()
	b, err := mmsg.NewBatch()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Free)
	return b
}

// pair returns two connected sockets.
func pair(t testing.TB, kind int) (a, b int) {
	t.Helper()
	p, err := unix.Socketpair(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		unix.Close(p[0])
		unix.Close(p[1])
	})
	for _, fd := range p { // room for a batch of anything
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, 64<<20); err != nil {
			t.Fatal(err)
		}
	}
	return p[0], p[1]
}

func write(t testing.TB, fd int, frame []byte) {
	t.Helper()
	if err := unix.Sendto(fd, frame, unix.MSG_NOSIGNAL, nil); err != nil {
		t.Fatal(err)
	}
}

// hangUp ends what the other end receives.
func hangUp(t testing.TB, fd int) {
	t.Helper()
	if err := unix.Shutdown(fd, unix.SHUT_WR); err != nil {
		t.Fatal(err)
	}
}

// lengths lists what a batch holds.
func lengths(b *mmsg.Batch) (n []int) {
	for i := range b.Len() {
		n = append(n, len(b.Frame(i)))
	}
	return n
}

func equal(t *testing.T, what string, got, want []int) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%s: lengths %v, want %v", what, got, want)
	}
	for i := range got {
		if got[i] != want[i] {
			t.Fatalf("%s: lengths %v, want %v", what, got, want)
		}
	}
}

func TestOrder(t *testing.T) {
	for name, kind := range map[string]int{"seqpacket": unix.SOCK_SEQPACKET, "dgram": unix.SOCK_DGRAM} {
		t.Run(name, func(t *testing.T) {
			a, b := pair(t, kind)
			out, in := newBatch(t), newBatch(t)
			for round := range 3 {
				for i := range mmsg.Max {
					if !out.Append(rig.Frame(18+round*100+i, uint32(i))) {
						t.Fatalf("no room for frame %d", i)
					}
				}
				if out.Append(nil) || out.Tail() != nil {
					t.Fatal("there is room for more than a batch")
				}
				if sent, errno := out.Send(a); sent != mmsg.Max || errno != 0 || out.Len() != 0 {
					t.Fatalf("Send: %d, %v; %d left", sent, errno, out.Len())
				}
				write(t, a, rig.Frame(60, 1000)) // one more than a batch holds
				if errno := in.Recv(b); errno != 0 || in.Len() != mmsg.Max {
					t.Fatalf("Recv: %v, %d frames", errno, in.Len())
				}
				for i := range mmsg.Max {
					if !bytes.Equal(in.Frame(i), rig.Frame(18+round*100+i, uint32(i))) {
						t.Fatalf("frame %d: % x", i, in.Frame(i))
					}
				}
				if !mmsg.Readable(b) {
					t.Error("nothing is left")
				}
				if errno := in.Recv(b); errno != 0 || in.Len() != 1 || rig.Number(in.Frame(0)) != 1000 {
					t.Fatalf("the last one: %v, %d frames", errno, in.Len())
				}
				if errno := in.Recv(b); errno != unix.EAGAIN || mmsg.Readable(b) {
					t.Fatalf("Recv of nothing: %v", errno)
				}
			}
		})
	}
}

// TestFull sends more than a socket has room for.
func TestFull(t *testing.T) {
	a, b := pair(t, unix.SOCK_SEQPACKET)
	if err := unix.SetsockoptInt(a, unix.SOL_SOCKET, unix.SO_SNDBUF, 40000); err != nil {
		t.Fatal(err)
	}
	out, in := newBatch(t), newBatch(t)
	for i := range mmsg.Max {
		out.Append(rig.Frame(1514, uint32(i)))
	}
	next := uint32(0)
	for total := 0; total < mmsg.Max; {
		sent, errno := out.Send(a)
		total += sent
		if sent == 0 || (errno != unix.EAGAIN) != (total == mmsg.Max) || out.Len() != mmsg.Max-total {
			t.Fatalf("Send: %d, %v; %d left", sent, errno, out.Len())
		}
		for in.Recv(b) == 0 {
			for i := range in.Len() {
				if n := rig.Number(in.Frame(i)); n != next {
					t.Fatalf("frame %d came as number %d", n, next)
				}
				next++
			}
		}
	}
	if next != mmsg.Max {
		t.Errorf("%d frames came", next)
	}
}

func TestSendError(t *testing.T) {
	a, b := pair(t, unix.SOCK_SEQPACKET)
	unix.Close(b)
	out := newBatch(t)
	out.Append(rig.Frame(60, 1))
	if sent, errno := out.Send(a); sent != 0 || errno != unix.EPIPE || out.Len() != 1 { // and no SIGPIPE
		t.Errorf("Send to nobody: %d, %v; %d left", sent, errno, out.Len())
	}
}

func TestGiant(t *testing.T) {
	a, b := pair(t, unix.SOCK_DGRAM)
	in := newBatch(t)
	for _, n := range []int{100, mmsg.FrameCap + 1, mmsg.FrameCap, 200} {
		write(t, a, make([]byte, n))
	}
	if errno := in.Recv(b); errno != 0 || in.Len() != 4 {
		t.Fatalf("Recv: %v, %d frames", errno, in.Len())
	}
	if runts, giants := in.Screen(14, mmsg.FrameCap); runts != 0 || giants != 1 {
		t.Errorf("Screen: %d runts, %d giants", runts, giants)
	}
	equal(t, "the others", lengths(in), []int{100, mmsg.FrameCap, 200})
	if in.Append(make([]byte, mmsg.FrameCap+1)) {
		t.Error("appended a giant")
	}
}

func TestEmpty(t *testing.T) {
	a, b := pair(t, unix.SOCK_SEQPACKET)
	in := newBatch(t)
	write(t, a, nil) // looks like the end, and is not
	if errno := in.Recv(b); errno != 0 || !in.EndsEmpty() || mmsg.HungUp(b) {
		t.Errorf("an empty frame: %v, %v, hung up %v", errno, lengths(in), mmsg.HungUp(b))
	}
	write(t, a, rig.Frame(60, 1))
	write(t, a, nil)
	write(t, a, rig.Frame(61, 2))
	hangUp(t, a)
	if errno := in.Recv(b); errno != 0 || !in.EndsEmpty() || !mmsg.HungUp(b) {
		t.Fatalf("the end: %v, %v, hung up %v", errno, lengths(in), mmsg.HungUp(b))
	}
	if in.TrimEmpty(); in.EndsEmpty() {
		t.Error("trimmed, and still empty at its end")
	}
	equal(t, "before the end", lengths(in), []int{60, 0, 61})
	if errno := in.Recv(b); errno != 0 || in.Len() == 0 {
		t.Fatalf("after the end: %v, %v", errno, lengths(in))
	}
	if in.TrimEmpty(); in.Len() != 0 || in.EndsEmpty() {
		t.Errorf("after the end: %v", lengths(in))
	}
}

func TestScreen(t *testing.T) {
	for _, c := range []struct {
		in, out       []int
		runts, giants int
	}{
		{nil, nil, 0, 0},
		{[]int{14, 100, 60}, []int{14, 100, 60}, 0, 0},
		{[]int{13, 0, 101, 1000}, nil, 2, 2},
		{[]int{13, 60, 101, 61, 62, 8, 63}, []int{60, 61, 62, 63}, 2, 1},
		{[]int{60, 61, 13}, []int{60, 61}, 1, 0},
	} {
		b := newBatch(t)
		b.Append(make([]byte, 5000)) // gone before, so the first one is not the first
		b.Append(make([]byte, 5000))
		for i, n := range c.in {
			b.Append(bytes.Repeat([]byte{byte(i + 1)}, n))
		}
		if b.Drop(2); b.Len() != len(c.in) && len(c.in) > 0 {
			t.Fatalf("Drop: %d left", b.Len())
		}
		if runts, giants := b.Screen(14, 100); runts != c.runts || giants != c.giants {
			t.Errorf("%v: %d runts, %d giants", c.in, runts, giants)
		}
		equal(t, "screened", lengths(b), c.out)
		last, sum := byte(0), 0
		for i := range b.Len() {
			f := b.Frame(i)
			if f[0] <= last || f[len(f)-1] != f[0] {
				t.Errorf("%v: frame %d is % x", c.in, i, f[:4])
			}
			last = f[0]
			sum += len(f)
		}
		if got := b.Bytes(b.Len()); got != uint64(sum) {
			t.Errorf("%v: %d bytes, not %d", c.in, got, sum)
		}
		// All buffers are still there, and each only once.
		b.Clear()
		for i := range mmsg.Max {
			b.Append(bytes.Repeat([]byte{byte(i)}, 20))
		}
		for i := range mmsg.Max {
			if f := b.Frame(i); len(f) != 20 || f[0] != byte(i) {
				t.Fatalf("%v: afterwards, buffer %d holds % x", c.in, i, f)
			}
		}
	}
}

func TestDrain(t *testing.T) {
	a, b := pair(t, unix.SOCK_SEQPACKET)
	if _, _, _, errno := mmsg.Drain(b); errno != unix.EAGAIN {
		t.Errorf("nothing: %v", errno)
	}
	for range mmsg.Max + 3 {
		write(t, a, make([]byte, 1000))
	}
	for _, want := range []int{mmsg.Max, 3} {
		frames, n, zero, errno := mmsg.Drain(b)
		if frames != want || n != uint64(1000*want) || zero || errno != 0 {
			t.Errorf("%d frames, %d bytes, %v, %v; want %d frames", frames, n, zero, errno, want)
		}
	}
	write(t, a, make([]byte, 70000))
	hangUp(t, a)
	if frames, n, zero, errno := mmsg.Drain(b); frames != 1 || n != 70000 || !zero || errno != 0 {
		t.Errorf("the end: %d frames, %d bytes, %v, %v", frames, n, zero, errno)
	}
}

func TestReadWrite(t *testing.T) {
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_NONBLOCK|unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(p[0])
	defer unix.Close(p[1])
	buf := make([]byte, 10)
	if _, errno := mmsg.Read(p[0], buf); errno != unix.EAGAIN {
		t.Errorf("Read of nothing: %v", errno)
	}
	if n, errno := mmsg.Write(p[1], []byte("frame")); n != 5 || errno != 0 {
		t.Errorf("Write: %d, %v", n, errno)
	}
	if n, errno := mmsg.Read(p[0], buf); string(buf[:n]) != "frame" || errno != 0 {
		t.Errorf("Read: %q, %v", buf[:n], errno)
	}
	if _, errno := mmsg.Write(-1, buf); errno != unix.EBADF {
		t.Errorf("Write to nothing: %v", errno)
	}
}

func TestAllocations(t *testing.T) {
	a, b := pair(t, unix.SOCK_SEQPACKET)
	batch := newBatch(t)
	frame := rig.Frame(1514, 1)
	if n := testing.AllocsPerRun(100, func() {
		for range mmsg.Max {
			batch.Append(frame)
		}
		batch.Send(a)
		batch.Recv(b)
		batch.Screen(14, 1514)
		batch.Send(a)
		mmsg.Readable(b)
		mmsg.HungUp(b)
		mmsg.Drain(b)
		mmsg.Read(b, nil)
	}); n != 0 {
		t.Errorf("%v allocations a round", n)
	}
}
