//go:build linux

package libvdeplug_test

import (
	"bytes"
	"errors"
	"io"
	"math/rand"
	"net"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/umlvde/umlvde/internal/rig"
	"github.com/umlvde/umlvde/libvdeplug"
)

// The tests of this file are those of golang.org/x/net/nettest.TestConn, which
// wants a stream, for frames.

var longAgo = time.Unix(233431200, 0)

func checkTimeout(t *testing.T, err error) {
	t.Helper()
	var nerr net.Error
	if !errors.As(err, &nerr) || !nerr.Timeout() || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("got %v, want a timeout", err)
	}
	var op *libvdeplug.OpError
	if !errors.As(err, &op) {
		t.Errorf("got a %T, want an OpError", err)
	}
}

func TestPingPong(t *testing.T) {
	eachNetwork(t, func(t *testing.T, a, b *libvdeplug.Conn) {
		for i, size := range []int{60, 14, 15, 61, 1514, 1518} {
			there, back := rig.Frame(size, uint32(2*i)), rig.Frame(size, uint32(2*i+1))
			send(t, a, there)
			if got := receive(t, b); !bytes.Equal(got, there) {
				t.Errorf("got % x, want % x", got, there)
			}
			send(t, b, back)
			hosting := make(chan error, 1) // a hub's frames go through its host
			go func() { hosting <- readUntilError(b) }()
			if got := receive(t, a); !bytes.Equal(got, back) {
				t.Errorf("got % x, want % x", got, back)
			}
			must(t, b.SetReadDeadline(longAgo))
			checkTimeout(t, finish(t, "a read", hosting))
			must(t, b.SetReadDeadline(time.Time{}))
		}
	})
}

func TestRacyRead(t *testing.T) {
	eachNetwork(t, func(t *testing.T, a, b *libvdeplug.Conn) {
		stop := make(chan struct{})
		var writer sync.WaitGroup
		writer.Add(1)
		go func() {
			defer writer.Done()
			for f := rig.Frame(1000, 1); ; {
				select {
				case <-stop:
					return
				default:
					check(t, a.SetWriteDeadline(time.Now().Add(time.Millisecond)))
					_, _ = a.Write(f) // a full network is as good
				}
			}
		}()
		must(t, b.SetReadDeadline(time.Now().Add(time.Millisecond)))
		var readers sync.WaitGroup
		for range 10 {
			readers.Add(1)
			go func() {
				defer readers.Done()
				buf := make([]byte, 1514)
				for range 10 {
					n, err := b.Read(buf)
					if err != nil {
						checkTimeout(t, err)
						check(t, b.SetReadDeadline(time.Now().Add(time.Millisecond)))
					} else if n != 1000 {
						t.Errorf("a frame of %d bytes", n)
					}
				}
			}()
		}
		readers.Wait()
		close(stop)
		writer.Wait()
	})
}

func TestRacyWrite(t *testing.T) {
	eachNetwork(t, func(t *testing.T, a, b *libvdeplug.Conn) {
		drained := make(chan error, 1)
		go func() { drained <- readUntilError(b) }()
		must(t, a.SetWriteDeadline(time.Now().Add(time.Millisecond)))
		var writers sync.WaitGroup
		for range 10 {
			writers.Add(1)
			go func() {
				defer writers.Done()
				f := rig.Frame(1000, uint32(rand.Int()))
				for range 10 {
					if n, err := a.Write(f); err != nil {
						checkTimeout(t, err)
						check(t, a.SetWriteDeadline(time.Now().Add(time.Millisecond)))
					} else if n != len(f) {
						t.Errorf("Write of 1000 bytes: %d", n)
					}
				}
			}()
		}
		writers.Wait()
		must(t, b.SetReadDeadline(longAgo))
		checkTimeout(t, finish(t, "a read", drained))
	})
}

func TestReadTimeout(t *testing.T) {
	eachNetwork(t, func(t *testing.T, a, b *libvdeplug.Conn) {
		must(t, a.SetReadDeadline(longAgo))
		_, err := a.Read(make([]byte, 1514))
		checkTimeout(t, err)
		must(t, a.SetWriteDeadline(time.Now().Add(soon)))
		send(t, a, rig.Frame(60, 1)) // only reads are late
	})
}

func TestWriteTimeout(t *testing.T) {
	eachLossless(t, func(t *testing.T, a, b *libvdeplug.Conn) {
		var err error
		for range 100000 {
			must(t, a.SetWriteDeadline(time.Now().Add(10*time.Millisecond)))
			if _, err = a.Write(rig.Frame(60, 1)); err != nil {
				break
			}
		}
		checkTimeout(t, err)
		want := a.Stats().TxFrames
		for got := uint64(0); got < want; got++ {
			receive(t, b) // all that a says it sent is there
		}
		must(t, b.SetReadDeadline(time.Now().Add(time.Millisecond)))
		_, err = b.Read(make([]byte, 1514))
		checkTimeout(t, err) // and nothing else
	})
}

func TestPastTimeout(t *testing.T) {
	eachNetwork(t, func(t *testing.T, a, b *libvdeplug.Conn) {
		send(t, b, rig.Frame(60, 1))
		must(t, a.SetDeadline(longAgo))
		n, err := a.Write(rig.Frame(60, 1))
		if n != 0 {
			t.Errorf("Write: %d", n)
		}
		checkTimeout(t, err)
		for range 3 {
			n, err = a.Read(make([]byte, 1514))
			if n != 0 {
				t.Errorf("Read: %d", n)
			}
			checkTimeout(t, err)
		}
		must(t, a.SetDeadline(time.Time{}))
		send(t, a, rig.Frame(60, 2))
		receive(t, b)
	})
}

// TestPresentTimeout sets a deadline of now while calls are waiting.
func TestPresentTimeout(t *testing.T) {
	eachLossless(t, func(t *testing.T, a, b *libvdeplug.Conn) {
		reads, writes := make(chan error, 1), make(chan error, 1)
		go func() { reads <- readUntilError(a) }()
		go func() {
			for f := rig.Frame(60, 1); ; {
				if _, err := a.Write(f); err != nil {
					writes <- err
					return
				}
			}
		}()
		parked(t, 2)
		must(t, a.SetDeadline(time.Now()))
		checkTimeout(t, finish(t, "a read", reads))
		checkTimeout(t, finish(t, "a write", writes))
	})
}

func TestFutureTimeout(t *testing.T) {
	eachNetwork(t, func(t *testing.T, a, b *libvdeplug.Conn) {
		var calls sync.WaitGroup
		must(t, a.SetReadDeadline(time.Now().Add(100*time.Millisecond)))
		start := time.Now()
		for range 3 { // one that waits and two that wait for it
			calls.Add(1)
			go func() {
				defer calls.Done()
				_, err := a.Read(make([]byte, 1514))
				checkTimeout(t, err)
			}()
		}
		calls.Wait()
		if d := time.Since(start); d < 90*time.Millisecond || d > soon/2 {
			t.Errorf("a deadline of 100 ms ended a read after %v", d)
		}
		must(t, a.SetReadDeadline(time.Time{}))
		send(t, a, rig.Frame(60, 1))
		receive(t, b)
	})
}

// TestMovedDeadline moves the deadline of a read that is waiting, both ways.
func TestMovedDeadline(t *testing.T) {
	eachNetwork(t, func(t *testing.T, a, _ *libvdeplug.Conn) {
		must(t, a.SetReadDeadline(time.Now().Add(50*time.Millisecond)))
		done := make(chan error, 1)
		go func() { done <- readUntilError(a) }()
		must(t, a.SetReadDeadline(time.Now().Add(time.Hour)))
		select {
		case err := <-done:
			t.Fatalf("the old deadline ended the read: %v", err)
		case <-time.After(100 * time.Millisecond):
		}
		must(t, a.SetReadDeadline(time.Now().Add(time.Millisecond)))
		checkTimeout(t, finish(t, "a read", done))
	})
}

// TestCloseWhileBlocked closes a Conn under waiting calls.
func TestCloseWhileBlocked(t *testing.T) {
	eachLossless(t, func(t *testing.T, a, b *libvdeplug.Conn) {
		const n = 5
		errs := make(chan error, 2*n)
		for range n {
			go func() { errs <- readUntilError(a) }()
			go func() {
				for f := rig.Frame(60, 1); ; {
					if _, err := a.Write(f); err != nil {
						errs <- err
						return
					}
				}
			}()
		}
		parked(t, 2) // the others wait for their turn
		must(t, a.Close())
		for range 2 * n {
			if err := finish(t, "a call", errs); !errors.Is(err, net.ErrClosed) {
				t.Errorf("got %v, want net.ErrClosed", err)
			}
		}
		checkClosed(t, a)
	})
}

func checkClosed(t *testing.T, c *libvdeplug.Conn) {
	t.Helper()
	buf := make([]byte, 60)
	_, read := c.Read(buf)
	_, empty := c.Read(nil)
	_, write := c.Write(buf)
	for op, err := range map[string]error{
		"Read": read, "Read(nil)": empty, "Write": write, "SetDeadline": c.SetDeadline(time.Now()),
		"SetReadDeadline": c.SetReadDeadline(longAgo), "SetWriteDeadline": c.SetWriteDeadline(time.Time{}),
	} {
		if !errors.Is(err, net.ErrClosed) {
			t.Errorf("%s after Close: %v", op, err)
		}
	}
	if err := c.Close(); err != nil {
		t.Errorf("the second Close: %v", err)
	}
	if c.LocalAddr() == nil || c.RemoteAddr() == nil {
		t.Error("a closed Conn has no address")
	}
}

func TestConcurrentMethods(t *testing.T) {
	eachNetwork(t, func(t *testing.T, a, b *libvdeplug.Conn) {
		var calls sync.WaitGroup
		for _, c := range []*libvdeplug.Conn{a, b} {
			for range 50 {
				for _, f := range []func(){
					func() { _, _ = c.Read(make([]byte, 1514)) },
					func() { _, _ = c.Write(make([]byte, 1514)) },
					func() { _, _ = c.ReadBatch([][]byte{make([]byte, 1514), make([]byte, 60)}, make([]int, 2)) },
					func() { _, _ = c.WriteBatch([][]byte{make([]byte, 60), make([]byte, 60)}) },
					func() { _ = c.SetDeadline(time.Now().Add(10 * time.Millisecond)) },
					func() { _ = c.SetReadDeadline(time.Now().Add(10 * time.Millisecond)) },
					func() { _ = c.SetWriteDeadline(time.Now().Add(10 * time.Millisecond)) },
					func() { c.LocalAddr() },
					func() { c.RemoteAddr() },
					func() { c.Stats() },
				} {
					calls.Add(1)
					go func() { defer calls.Done(); f() }()
				}
			}
		}
		calls.Wait()
	})
}

// TestConcurrentClose closes in the middle of everything.
func TestConcurrentClose(t *testing.T) {
	eachNetwork(t, func(t *testing.T, a, b *libvdeplug.Conn) {
		var calls sync.WaitGroup
		for _, c := range []*libvdeplug.Conn{a, b} {
			for _, f := range []func() error{
				func() error { _, err := c.Read(make([]byte, 1514)); return err },
				func() error { _, err := c.Write(rig.Frame(60, 1)); return err },
				func() error { return c.SetDeadline(time.Now().Add(time.Hour)) },
			} {
				calls.Add(1)
				go func() {
					defer calls.Done()
					for {
						err := f()
						if errors.Is(err, net.ErrClosed) || errors.Is(err, io.EOF) || errors.Is(err, syscall.EPIPE) {
							return
						}
						if err != nil {
							t.Error(err)
						}
					}
				}()
			}
		}
		rig.Eventually(t, soon, "frames go both ways", func() bool {
			return a.Stats().RxFrames > 100 && b.Stats().RxFrames > 100
		})
		for range 3 {
			calls.Add(2)
			go func() { defer calls.Done(); check(t, a.Close()) }()
			go func() { defer calls.Done(); check(t, b.Close()) }()
		}
		calls.Wait()
	})
}

func TestAddr(t *testing.T) {
	c := open(t, "null://x")
	for _, a := range []net.Addr{c.LocalAddr(), c.RemoteAddr()} {
		if a.Network() != "vde" || a.String() != "null://x" {
			t.Errorf("address %s %s", a.Network(), a)
		}
	}
}
