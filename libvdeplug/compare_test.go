//go:build linux

package libvdeplug_test

import (
	"bufio"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/umlvde/umlvde/internal/rig"
	"github.com/umlvde/umlvde/libvdeplug"
	"golang.org/x/sys/unix"
)

// BenchmarkAgainstC compares Conn with a loop in C of the same calls, in turn and
// in one run: "write-x" and "read-x" are the medians of how many times as long
// a frame takes here. make bench-lib runs it.
func BenchmarkAgainstC(b *testing.B) {
	dir := rig.TempDir(b)
	loop := filepath.Join(dir, "loop")
	gcc(b, "-O2", "-o", loop, "testdata/loop.c", "-lvdeplug")
	gcc(b, "-O2", "-shared", "-fPIC", "-o", filepath.Join(dir, "libvdeplug_echo.so"), "testdata/echo.c")
	b.Setenv("VDEPLUGIN_PATH", dir)
	for _, c := range []struct {
		name, calls string
		batch       int // frames that are sent before they are received
		single      bool
	}{
		{"recvmmsg,sendmmsg", "mmsg", 64, false},
		{"recv,send", "one", 64, true},
		{"recv,send", "one", 1, true},
		{"vde_recv,vde_send", "vde", 64, false},
		{"vde_recv,vde_send", "vde", 64, true},
	} {
		for _, size := range []int{60, 1514} {
			calls := "batch"
			if c.single {
				calls = "single"
			}
			b.Run(fmt.Sprintf("%s/%s/depth=%d/frame=%d", c.name, calls, c.batch, size), func(b *testing.B) {
				compareWithC(b, loop, c.calls, c.batch, size, c.single)
			})
		}
	}
}

// pairOf opens two Conns, or one that is both ends, through the library, if calls
// is "vde".
func pairOf(b *testing.B, calls string) (from, to *libvdeplug.Conn) {
	if calls != "vde" {
		return seqpackets(b)
	}
	c := open(b, "echo://")
	return c, c
}

func compareWithC(b *testing.B, loop, calls string, batch, size int, single bool) {
	sameCPU(b)
	from, to := pairOf(b, calls)
	cmd := exec.Command(loop, strconv.Itoa(size), strconv.Itoa(batch), calls)
	in, err := cmd.StdinPipe()
	must(b, err)
	out, err := cmd.StdoutPipe()
	must(b, err)
	must(b, cmd.Start())
	defer func() {
		in.Close()
		must(b, cmd.Wait())
	}()
	answers := bufio.NewReader(out)

	var frames [][]byte
	for range batch {
		frames = append(frames, rig.Frame(size, 0))
	}
	bufs, sizes := buffers(batch)
	began := time.Now()
	now := func() time.Duration { return time.Since(began) } // one clock is read, as there
	goLoop := func(times int) (sending, receiving time.Duration) {
		for range times {
			start := now()
			if single {
				for _, f := range frames {
					if _, err := from.Write(f); err != nil { // b.Helper would take as long
						b.Fatal(err)
					}
				}
			} else if _, err := from.WriteBatch(frames); err != nil {
				b.Fatal(err)
			}
			mid := now()
			sending += mid - start
			for n := 0; n < batch; {
				k := 1
				if single {
					_, err = to.Read(bufs[n])
				} else {
					k, err = to.ReadBatch(bufs, sizes)
				}
				if err != nil {
					b.Fatal(err)
				}
				n += k
			}
			receiving += now() - mid
		}
		return sending, receiving
	}
	cLoop := func(times int) (sending, receiving time.Duration) {
		_, err := fmt.Fprintln(in, times)
		must(b, err)
		if _, err := fmt.Fscan(answers, &sending, &receiving); err != nil && err != io.EOF { //nolint:errorlint // as fmt has it
			b.Fatal(err)
		}
		return sending, receiving
	}
	const rounds = 101
	times := 2000 / batch
	goLoop(times)
	cLoop(times)
	var writes, reads, ns []float64
	for range rounds {
		cw, cr := cLoop(times)
		gw, gr := goLoop(times)
		writes = append(writes, float64(gw)/float64(cw))
		reads = append(reads, float64(gr)/float64(cr))
		ns = append(ns, float64(gw+gr)/float64(times*batch))
	}
	b.ReportMetric(median(writes), "write-x")
	b.ReportMetric(median(reads), "read-x")
	b.ReportMetric(median(ns), "ns/frame")
	b.ReportMetric(0, "ns/op") // which means nothing here
}

// sameCPU keeps the caller, and the program that it starts, on one CPU: another may
// be slower by a third, for all of a run.
func sameCPU(b *testing.B) {
	runtime.LockOSThread()
	var before, one unix.CPUSet
	must(b, unix.SchedGetaffinity(0, &before))
	b.Cleanup(func() {
		must(b, unix.SchedSetaffinity(0, &before))
		runtime.UnlockOSThread()
	})
	for cpu := range 1024 {
		if before.IsSet(cpu) {
			one.Set(cpu)
			break
		}
	}
	must(b, unix.SchedSetaffinity(0, &one))
}

func median(x []float64) float64 {
	slices.Sort(x)
	return x[len(x)/2]
}
