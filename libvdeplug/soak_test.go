//go:build linux

package libvdeplug_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/umlvde/umlvde/internal/rig"
	"github.com/umlvde/umlvde/libvdeplug"
	"golang.org/x/sys/unix"
)

// soakTime is how long TestSoak goes on; make soak makes it ten minutes.
const (
	soakTime    = "LIBVDEPLUG_SOAK"
	soakProgram = "LIBVDEPLUG_TEST_PROGRAM" // for the child: umlvde
)

// TestSoak opens, uses and closes plugs of all kinds from 16 goroutines, in
// a process and a network namespace of its own, and looks now and then, while
// nothing is open, at what is left.
func TestSoak(t *testing.T) {
	lasting := 3 * time.Second
	if s := os.Getenv(soakTime); s != "" {
		var err error
		lasting, err = time.ParseDuration(s)
		must(t, err)
	}
	attr := &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if !inChild(t, lasting+time.Minute, attr, soakProgram+"="+rig.Umlvde()) {
		return
	}
	for _, args := range []string{"link set lo up multicast on", "route add 224.0.0.0/4 dev lo"} {
		if out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput(); err != nil {
			t.Fatalf("ip %s: %v\n%s", args, err, out)
		}
	}
	s := &soak{dir: rig.TempDir(t)}
	must(t, os.WriteFile(s.path("key"), []byte("0123456789abcdef"), 0o600))
	s.startSwitch(t)
	defer func() {
		s.stopSwitch()
		t.Logf("%d times the switch stood still", s.stood.Load())
	}()
	s.round(t, 2*time.Second) // all that is made once, and the first threads
	first := s.look(t)
	t.Logf("at first: %+v", first)
	var last footprint
	for end := time.Now().Add(lasting); time.Now().Before(end); {
		s.round(t, min(max(lasting/5, time.Second), 30*time.Second))
		last = s.look(t)
		t.Logf("after %d plugs: %+v", s.opened.Load(), last)
		if last.files > first.files {
			t.Fatalf("descriptors are left: %v", rig.OpenFiles(t, os.Getpid()))
		}
	}
	if last.threads > 64 || last.residentKB > first.residentKB+first.residentKB/4+16<<10 {
		t.Errorf("it grows: %+v became %+v", first, last)
	}
	for i := range soakPlugs {
		if s.used[i].Load() == 0 {
			t.Errorf("%s was never used: %v", soakPlugs[i].name, s.failed[i].Load())
		}
	}
}

// soak is what the goroutines of TestSoak share.
type soak struct {
	dir    string
	serial atomic.Int64 // makes names and addresses unique
	opened atomic.Int64

	sw        *exec.Cmd
	console   io.Closer
	replacing sync.Mutex
	stood     atomic.Int64

	used   [32]atomic.Int64
	failed [32]atomic.Value
}

func (s *soak) path(name string) string { return filepath.Join(s.dir, name) }

// startSwitch starts a vde_switch. It is not the rig's, which would keep all that
// it says.
func (s *soak) startSwitch(t *testing.T) {
	t.Helper()
	s.sw = exec.Command("vde_switch", "-s", s.path("switch"))
	var err error
	s.console, err = s.sw.StdinPipe() // it ends with it
	check(t, err)
	check(t, s.sw.Start())
	for end := time.Now().Add(soon); ; time.Sleep(time.Millisecond) { // there is no event to wait for
		c, err := net.Dial("unix", filepath.Join(s.path("switch"), "ctl"))
		if err == nil {
			c.Close()
			return
		}
		if time.Now().After(end) {
			t.Error(err)
			return
		}
	}
}

func (s *soak) stopSwitch() {
	_ = s.sw.Process.Kill()
	_ = s.sw.Wait() // it was killed
	s.console.Close()
	_ = os.RemoveAll(s.path("switch"))
}

// replaceSwitch is for a vde_switch that stands still, as now and then one does
// under tens of thousands of clients. The opens that wait for it end with it.
func (s *soak) replaceSwitch(t *testing.T) {
	if !s.replacing.TryLock() {
		return
	}
	defer s.replacing.Unlock()
	s.stood.Add(1)
	s.stopSwitch()
	s.startSwitch(t)
}

// footprint is what a process holds.
type footprint struct{ files, threads, residentKB, goroutines int }

// look waits until nothing is open and measures.
func (s *soak) look(t *testing.T) footprint {
	t.Helper()
	rig.Eventually(t, soon, "all plugs are gone", func() bool {
		return libvdeplug.Unfinished() == 0 && len(rig.Children(os.Getpid())) == 1 // the switch
	})
	runtime.GC()
	tasks, err := os.ReadDir("/proc/self/task")
	must(t, err)
	return footprint{
		files: len(rig.OpenFiles(t, os.Getpid())), threads: len(tasks),
		residentKB: rig.ResidentKB(t, os.Getpid()), goroutines: runtime.NumGoroutine(),
	}
}

// round works for a while.
func (s *soak) round(t *testing.T, lasting time.Duration) {
	t.Helper()
	late := time.AfterFunc(lasting+time.Minute, func() {
		buf := make([]byte, 1<<20)
		panic("a call does not return:\n" + string(buf[:runtime.Stack(buf, true)]))
	})
	defer late.Stop()
	var workers sync.WaitGroup
	end := time.Now().Add(lasting)
	for range 16 {
		workers.Add(1)
		go func() {
			defer workers.Done()
			for time.Now().Before(end) {
				s.once(t)
			}
		}()
	}
	workers.Wait()
}

// soakPlugs are the networks; vnl makes the VNL of a fresh one from a number.
var soakPlugs = []struct {
	name string
	ends int // to be opened, one after the other
	vnl  func(s *soak, n int64) string
	opts *libvdeplug.Options
}{
	{"vde", 2, func(s *soak, _ int64) string { return "vde://" + s.path("switch") }, nil},
	{"ptp", 2, func(s *soak, n int64) string { return fmt.Sprintf("ptp://%s/%d", s.dir, n) }, nil},
	{"hub", 1, func(s *soak, n int64) string { return fmt.Sprintf("hub://%s/%d", s.dir, n) }, nil},
	{"switch", 1, func(s *soak, n int64) string { return fmt.Sprintf("switch://%s/%d", s.dir, n) }, nil},
	{"multi", 1, func(s *soak, n int64) string { return fmt.Sprintf("multi://%s/%d", s.dir, n) }, nil},
	{"bonding", 1, func(s *soak, n int64) string { return fmt.Sprintf("bonding://%s/%d", s.dir, n) }, nil},
	{"null", 1, func(*soak, int64) string { return "null://" }, nil},
	{"slirp", 1, func(*soak, int64) string { return "slirp://" }, nil},
	{"tap", 1, func(_ *soak, n int64) string { return fmt.Sprintf("tap://t%d", n%1000000) }, nil},
	{"pcap", 1, func(*soak, int64) string { return "pcap://lo" }, nil},
	{"udp", 1, func(_ *soak, n int64) string {
		return fmt.Sprintf("udp://127.0.0.1:%d->127.0.0.1:9", 10000+n%20000)
	}, nil},
	{"vxlan", 1, func(*soak, int64) string { return "vxlan://239.1.2.3" }, nil},
	{"vxvde", 1, func(*soak, int64) string { return "vxvde://239.1.2.3" }, nil},
	{"vlan", 2, func(s *soak, n int64) string { return fmt.Sprintf("vlan://{ptp://%s/%d}", s.dir, n) }, nil},
	{"agno", 1, func(s *soak, n int64) string { return fmt.Sprintf("agno://%s/key{ptp://%s/%d}", s.dir, s.dir, n) }, nil},
	{"cmd", 1, func(*soak, int64) string { return "cmd://cat" }, nil},
	{"seqpacket", 1, func(*soak, int64) string {
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			panic(err)
		}
		unix.Close(pair[1])
		return fmt.Sprintf("seqpacket://%d", pair[0])
	}, nil},
	{"isolated", 2, func(s *soak, n int64) string { return fmt.Sprintf("ptp://%s/%d", s.dir, n) }, &libvdeplug.Options{
		Isolation: &libvdeplug.Isolation{Program: os.Getenv(soakProgram), Reconnect: time.Second},
	}},
	{"nothing", 0, func(*soak, int64) string { return "vde:///nonexistent" }, nil},
}

// once opens, uses and closes one kind of network.
func (s *soak) once(t *testing.T) {
	i, n := rand.IntN(len(soakPlugs)), s.serial.Add(1)
	p := soakPlugs[i]
	if p.opts != nil && rand.IntN(4) > 0 {
		return // a process each takes its time
	}
	vnl := p.vnl(s, n)
	var conns []*libvdeplug.Conn
	for range max(p.ends, 1) {
		ctx, cancel := context.WithTimeout(context.Background(), soon)
		c, err := libvdeplug.OpenContext(ctx, vnl, p.opts)
		cancel()
		if errors.Is(err, context.DeadlineExceeded) && p.name == "vde" {
			s.replaceSwitch(t)
		}
		if (err != nil) != (p.ends == 0) {
			s.failed[i].Store(fmt.Sprint(err)) // no free port, say
		}
		if err == nil {
			conns = append(conns, c)
			s.opened.Add(1)
		}
	}
	if len(conns) == p.ends {
		s.used[i].Add(1)
	}
	var reads sync.WaitGroup
	for _, c := range conns {
		reads.Add(1)
		go func() {
			defer reads.Done()
			bufs, sizes := buffers(8)
			for {
				if _, err := c.ReadBatch(bufs, sizes); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
					return // mostly of Close
				}
			}
		}()
	}
	frames := [][]byte{rig.Frame(60, 1), rig.Frame(1400, 2), rig.Frame(60, 3)}
	for range rand.IntN(20) {
		for _, c := range conns {
			_ = c.SetDeadline(time.Now().Add(10 * time.Millisecond)) // the reads go on
			if _, err := c.WriteBatch(frames); errors.Is(err, net.ErrClosed) {
				t.Errorf("%s: %v", vnl, err)
			}
		}
	}
	if len(conns) == 2 && rand.IntN(4) == 0 {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Millisecond)
		_, _ = libvdeplug.Bridge(ctx, conns[0], conns[1]) // ends as it may
		cancel()
	}
	for _, c := range conns {
		if err := c.Close(); err != nil {
			t.Errorf("%s: %v", vnl, err)
		}
	}
	reads.Wait()
}
