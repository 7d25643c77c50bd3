//go:build linux

package libvdeplug_test

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/umlvde/umlvde/internal/rig"
	"github.com/umlvde/umlvde/libvdeplug"
	"golang.org/x/sys/unix"
)

// buffers are for a ReadBatch of n frames.
func buffers(n int) (bufs [][]byte, sizes []int) {
	for range n {
		bufs = append(bufs, make([]byte, libvdeplug.MaxFrameSize))
	}
	return bufs, make([]int, n)
}

func TestBatchKeepsOrder(t *testing.T) {
	const total = 2000
	eachLossless(t, func(t *testing.T, a, b *libvdeplug.Conn) {
		sent := make(chan error, 1)
		go func() {
			for i := 0; i < total; { // in batches of 1 to 100
				var frames [][]byte
				for j := 0; j <= i%100 && i+j < total; j++ {
					frames = append(frames, rig.Frame(60+(i+j)%1400, uint32(i+j)))
				}
				n, err := a.WriteBatch(frames)
				if i += n; err != nil {
					sent <- err
					return
				}
			}
			sent <- nil
		}()
		must(t, b.SetReadDeadline(time.Now().Add(soon)))
		bufs, sizes := buffers(7)
		for i := 0; i < total; {
			n, err := b.ReadBatch(bufs, sizes)
			must(t, err)
			if n == 0 {
				t.Fatal("no frame and no error")
			}
			for j := range n {
				if f := bufs[j][:sizes[j]]; rig.Number(f) != uint32(i) || len(f) != 60+i%1400 {
					t.Fatalf("frame %d is number %d, of %d bytes", i, rig.Number(f), len(f))
				}
				i++
			}
			if i < total && i%3 == 0 { // one by one goes on where batches stop
				n, err := b.Read(bufs[0])
				must(t, err)
				if rig.Number(bufs[0][:n]) != uint32(i) {
					t.Fatalf("frame %d is number %d", i, rig.Number(bufs[0][:n]))
				}
				i++
			}
		}
		must(t, finish(t, "the writer", sent))
		as, bs := a.Stats(), b.Stats()
		if as.TxFrames != total || bs.RxFrames != total || as.TxBytes != bs.RxBytes || as.TxDrops+bs.RxDrops != 0 {
			t.Errorf("counted %+v and %+v", as, bs)
		}
	})
}

func TestBatchSizes(t *testing.T) {
	a, b := seqpackets(t)
	for range 3 {
		send(t, a, rig.Frame(60, 0))
	}
	for _, c := range []struct{ bufs, sizes, want int }{{0, 5, 0}, {5, 0, 0}, {2, 1, 1}, {1, 2, 1}, {9, 9, 1}} {
		bufs, sizes := buffers(max(c.bufs, c.sizes))
		if n, err := b.ReadBatch(bufs[:c.bufs], sizes[:c.sizes]); n != c.want || err != nil {
			t.Errorf("ReadBatch of %d buffers and %d sizes: %d, %v", c.bufs, c.sizes, n, err)
		}
	}
	if n, err := a.WriteBatch(nil); n != 0 || err != nil {
		t.Errorf("WriteBatch of nothing: %d, %v", n, err)
	}
}

func TestShortBuffer(t *testing.T) {
	eachLossless(t, func(t *testing.T, a, b *libvdeplug.Conn) {
		for i, size := range []int{100, 60, 60, 100, 60} {
			send(t, a, rig.Frame(size, uint32(i)))
		}
		must(t, b.SetReadDeadline(time.Now().Add(soon)))
		small := make([]byte, 60)
		if n, err := b.Read(small); n != 0 || !errors.Is(err, io.ErrShortBuffer) {
			t.Errorf("100 bytes into 60: %d, %v", n, err)
		}
		bufs, sizes := [][]byte{small, make([]byte, 60), make([]byte, 99), make([]byte, 60)}, make([]int, 4)
		if n, err := b.ReadBatch(bufs, sizes); n != 2 || err != nil || rig.Number(bufs[0]) != 1 || rig.Number(bufs[1]) != 2 {
			t.Errorf("two that fit and one that does not: %d, %v", n, err)
		}
		if n, err := b.ReadBatch(bufs, sizes); n != 0 || !errors.Is(err, io.ErrShortBuffer) {
			t.Errorf("the one that does not: %d, %v", n, err)
		}
		if n, err := b.Read(small); n != 60 || err != nil || rig.Number(small) != 4 {
			t.Errorf("the next: %d, %v", n, err)
		}
		if s := b.Stats(); s.RxFrames != 3 || s.RxDrops != 2 {
			t.Errorf("counted %+v", s)
		}
	})
}

// TestShortBufferLater has frames that have to wait for a buffer that is long
// enough, and for their turn.
func TestShortBufferLater(t *testing.T) {
	for _, n := range append(networks, vlan) {
		n.on(t, framesWait)
	}
}

// framesWait is TestShortBufferLater on one network.
func framesWait(t *testing.T, a, b *libvdeplug.Conn) {
	sizes := []int{60, 61, 1000, 62, 1400, 63}
	for i, size := range sizes {
		send(t, a, rig.Frame(size, uint32(i+1))) // number 0 may still come from greet
	}
	must(t, b.SetReadDeadline(time.Now().Add(soon)))
	small, large := make([]byte, 100), make([]byte, 1500)
	var got []string
	read := func(bufs ...[]byte) {
		t.Helper()
		lengths := make([]int, len(bufs))
		n, err := 1, error(nil)
		if len(bufs) == 1 {
			lengths[0], err = b.Read(bufs[0])
		} else {
			n, err = b.ReadBatch(bufs, lengths)
		}
		must(t, err)
		for i, buf := range bufs[:n] {
			if frame := buf[:lengths[i]]; rig.Number(frame) != 0 {
				got = append(got, string(frame))
			}
		}
		clear(small)
		clear(large)
	}
	for len(got) < 2 { // not all networks have both ready at once
		read(small, make([]byte, 100), make([]byte, 100), make([]byte, 100), make([]byte, 100), make([]byte, 100))
	}
	for len(got) < len(sizes) {
		read(large, small)
		if len(got) < len(sizes) { // one by one goes on where batches stop
			read(large)
		}
	}
	for i, size := range sizes {
		if got[i] != string(rig.Frame(size, uint32(i+1))) {
			t.Errorf("frame %d has %d bytes and number %d", i, len(got[i]), rig.Number([]byte(got[i])))
		}
	}
	if s := b.Stats(); s.RxDrops != 0 || s.RxFrames < uint64(len(sizes)) {
		t.Errorf("counted %+v", s)
	}
}

// TestNoFrames has what is none between frames.
func TestNoFrames(t *testing.T) {
	for _, kind := range []string{"Read", "ReadBatch"} {
		t.Run(kind, func(t *testing.T) {
			pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
			must(t, err)
			defer unix.Close(pair[0])
			must(t, unix.SetsockoptInt(pair[0], unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, 1<<20))
			c := open(t, fmt.Sprintf("seqpacket://%d", pair[1]))
			var want []uint32
			for i, size := range []int{5, 60, 13, 61, 70000, 100, 62, 70000, 1, 63, 8, 64} {
				must(t, unix.Sendto(pair[0], rig.Frame(max(size, 18), uint32(i))[:size], 0, nil))
				if size >= 60 && size < 70000 {
					want = append(want, uint32(i))
				}
			}
			must(t, c.SetReadDeadline(time.Now().Add(soon)))
			bufs, sizes := buffers(20)
			var got []uint32
			for len(got) < len(want) {
				n := 1
				if kind == "Read" {
					sizes[0], err = c.Read(bufs[0])
				} else {
					n, err = c.ReadBatch(bufs, sizes)
				}
				must(t, err)
				for i, buf := range bufs[:n] {
					got = append(got, rig.Number(buf[:sizes[i]]))
				}
			}
			if !slices.Equal(got, want) {
				t.Errorf("got numbers %v, want %v", got, want)
			}
			must(t, c.SetReadDeadline(time.Now().Add(20*time.Millisecond)))
			_, err = c.Read(bufs[0])
			checkTimeout(t, err)
			if s := c.Stats(); s.RxFrames != uint64(len(want)) || s.RxDrops != uint64(12-len(want)) {
				t.Errorf("counted %+v", s)
			}
		})
	}
}

// TestReadTakesOne sees that a Read leaves all other frames in the network.
func TestReadTakesOne(t *testing.T) {
	a, b := seqpackets(t)
	raw, err := b.SyscallConn()
	must(t, err)
	for i := range 3 {
		send(t, a, rig.Frame(60, uint32(i)))
	}
	for left := 2; left >= 0; left-- {
		receive(t, b)
		must(t, raw.Control(func(fd uintptr) {
			if readable := rig.Poll(int(fd), unix.POLLIN, 0); readable != (left > 0) {
				t.Errorf("%d frames left, readable: %v", left, readable)
			}
		}))
	}
}

func TestFrameSize(t *testing.T) {
	a, b := seqpackets(t)
	ok := rig.Frame(60, 7)
	for _, size := range []int{0, 1, 8, libvdeplug.MinFrameSize - 1, 1 << 17} {
		if n, err := a.Write(make([]byte, size)); n != 0 || !errors.Is(err, libvdeplug.ErrFrameSize) {
			t.Errorf("Write of %d bytes: %d, %v", size, n, err)
		}
		if n, err := a.WriteBatch([][]byte{ok, ok, make([]byte, size), ok}); n != 2 || !errors.Is(err, libvdeplug.ErrFrameSize) {
			t.Errorf("WriteBatch with %d bytes: %d, %v", size, n, err)
		}
	}
	for range 10 {
		if f := receive(t, b); len(f) != 60 {
			t.Errorf("a frame of %d bytes", len(f))
		}
	}
	long := rig.Frame(65000, 1) // longer than MaxFrameSize, and this network can
	send(t, a, long)
	if f := receive(t, b); len(f) != len(long) {
		t.Errorf("a frame of %d bytes", len(f))
	}
}

// TestOneFrameEach lets several readers wait for a frame each, which then come
// all at once.
func TestOneFrameEach(t *testing.T) {
	const readers = 20
	eachLossless(t, func(t *testing.T, a, b *libvdeplug.Conn) {
		for range 20 {
			got := make(chan error, readers)
			for range readers {
				go func() {
					_, err := b.Read(make([]byte, 60))
					got <- err
				}()
			}
			parked(t, 1)
			var frames [][]byte
			for i := range readers {
				frames = append(frames, rig.Frame(60, uint32(i)))
			}
			if n, err := a.WriteBatch(frames); n != readers || err != nil {
				t.Fatal(n, err)
			}
			for range readers {
				must(t, finish(t, "a reader", got))
			}
		}
	})
}

// TestNoLostWakeup has each frame wait for the answer to the one before, so
// that both sides go to sleep and are woken all the time.
func TestNoLostWakeup(t *testing.T) {
	rounds := 5000
	if rig.Race {
		rounds = 1000
	}
	eachLossless(t, func(t *testing.T, a, b *libvdeplug.Conn) {
		var sides sync.WaitGroup
		for range 4 { // frames in flight
			send(t, a, rig.Frame(60, 0))
		}
		left := atomic.Int64{}
		left.Store(int64(rounds))
		for _, c := range []*libvdeplug.Conn{a, b} {
			must(t, c.SetReadDeadline(time.Now().Add(soon)))
			for range 3 {
				sides.Add(1)
				go func() {
					defer sides.Done()
					buf := make([]byte, 60)
					for left.Add(-1) > 0 {
						n, err := c.Read(buf)
						if err == nil {
							_, err = c.Write(buf[:n])
						}
						if err != nil {
							if left.Load() > 0 {
								t.Error(err)
							}
							return
						}
					}
					check(t, a.SetReadDeadline(longAgo)) // wakes the others
					check(t, b.SetReadDeadline(longAgo))
				}()
			}
		}
		sides.Wait()
	})
}

// TestFullDuplex fills both directions from many goroutines, with readers that
// are too slow now and then.
func TestFullDuplex(t *testing.T) {
	const writers, each = 4, 500
	eachLossless(t, func(t *testing.T, a, b *libvdeplug.Conn) {
		var calls sync.WaitGroup
		errs := make(chan error, 2*writers+2)
		for _, c := range []*libvdeplug.Conn{a, b} {
			must(t, c.SetDeadline(time.Now().Add(soon)))
			for range writers {
				calls.Add(1)
				go func() {
					defer calls.Done()
					f := rig.Frame(1514, 0)
					for range each {
						if _, err := c.Write(f); err != nil {
							errs <- err
							return
						}
					}
				}()
			}
			calls.Add(1)
			go func() {
				defer calls.Done()
				bufs, sizes := buffers(64)
				for i := 0; i < writers*each; {
					n, err := c.ReadBatch(bufs, sizes)
					if i += n; err != nil {
						errs <- err
						return
					}
				}
			}()
		}
		calls.Wait()
		select {
		case err := <-errs:
			t.Fatal(err)
		default:
		}
	})
}

func TestAllocations(t *testing.T) {
	for _, n := range networks {
		if n.name == "hub" {
			continue // its host has to read, which others do at the same time
		}
		t.Run(n.name, func(t *testing.T) {
			a, b := n.join(t)
			frame, buf := rig.Frame(1514, 1), make([]byte, 1514)
			must(t, a.SetDeadline(time.Now().Add(time.Minute)))
			must(t, b.SetDeadline(time.Now().Add(time.Minute)))
			if got := testing.AllocsPerRun(100, func() {
				if _, err := a.Write(frame); err != nil {
					t.Fatal(err)
				}
				if _, err := b.Read(buf); err != nil { // it mostly has to wait
					t.Fatal(err)
				}
			}); got != 0 {
				t.Errorf("Write and Read: %v allocations", got)
			}
			frames := [][]byte{frame, frame, frame, frame, frame, frame, frame, frame}
			bufs, sizes := buffers(8)
			if got := testing.AllocsPerRun(100, func() {
				if _, err := a.WriteBatch(frames); err != nil {
					t.Fatal(err)
				}
				for i := 0; i < len(frames); {
					n, err := b.ReadBatch(bufs, sizes)
					if i += n; err != nil {
						t.Fatal(err)
					}
				}
			}); got != 0 {
				t.Errorf("WriteBatch and ReadBatch: %v allocations", got)
			}
		})
	}
	t.Run("waiting for room", func(t *testing.T) {
		a, b := seqpackets(t)
		stop := make(chan error, 1)
		go func() { stop <- readUntilError(b) }()
		frame := rig.Frame(1514, 1)
		for range 1000 {
			send(t, a, frame)
		}
		if got := testing.AllocsPerRun(2000, func() {
			if _, err := a.Write(frame); err != nil {
				t.Fatal(err)
			}
		}); got != 0 {
			t.Errorf("%v allocations", got)
		}
		must(t, a.Close())
		checkEOF(t, finish(t, "the reader", stop))
	})
	t.Run("through the library", func(t *testing.T) {
		c := open(t, "null://")
		frame := rig.Frame(1514, 1)
		if got := testing.AllocsPerRun(100, func() {
			if _, err := c.Write(frame); err != nil {
				t.Fatal(err)
			}
		}); got != 0 {
			t.Errorf("%v allocations", got)
		}
	})
}

func TestDeadlineWhileFramesWait(t *testing.T) {
	a, b := seqpackets(t)
	for i := range 3 {
		send(t, a, rig.Frame(60, uint32(i)))
	}
	receive(t, b)
	must(t, b.SetReadDeadline(longAgo))
	if _, err := b.Read(make([]byte, 60)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("late: %v", err)
	}
	if n := rig.Number(receive(t, b)); n != 1 {
		t.Errorf("the second frame is number %d", n)
	}
}
