//go:build linux

package libvdeplug_test

import (
	"fmt"
	"testing"

	"github.com/umlvde/umlvde/internal/rig"
	"github.com/umlvde/umlvde/libvdeplug"
)

// BenchmarkBatch moves frames from one goroutine's Conn to another's, n at a time.
func BenchmarkBatch(b *testing.B) {
	for _, size := range []int{60, 1514, 9014} {
		for _, n := range []int{1, 8, 64} {
			b.Run(fmt.Sprintf("frame=%d/batch=%d", size, n), func(b *testing.B) {
				from, to := seqpackets(b)
				var frames [][]byte
				for range n {
					frames = append(frames, rig.Frame(size, 0))
				}
				drained := make(chan error, 1)
				go func() {
					bufs, sizes := buffers(n)
					for {
						if _, err := to.ReadBatch(bufs, sizes); err != nil {
							drained <- err
							return
						}
					}
				}()
				b.SetBytes(int64(size * n))
				b.ReportAllocs()
				for b.Loop() {
					if _, err := from.WriteBatch(frames); err != nil {
						b.Fatal(err)
					}
				}
				must(b, from.Close())
				checkEOF(b, <-drained)
				b.ReportMetric(float64(n)*float64(b.N)/b.Elapsed().Seconds(), "frames/s")
			})
		}
	}
}

// BenchmarkPingPong sends a frame to and fro, so that each side sleeps in turn.
func BenchmarkPingPong(b *testing.B) {
	near, far := seqpackets(b)
	done := make(chan error, 1)
	go func() {
		buf := make([]byte, libvdeplug.MaxFrameSize)
		for {
			n, err := far.Read(buf)
			if err == nil {
				_, err = far.Write(buf[:n])
			}
			if err != nil {
				done <- err
				return
			}
		}
	}()
	buf := rig.Frame(60, 1)
	b.ReportAllocs()
	for b.Loop() {
		send(b, near, buf)
		if _, err := near.Read(buf); err != nil {
			b.Fatal(err)
		}
	}
	must(b, near.Close())
	checkEOF(b, <-done)
}
