package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/umlvde/umlvde/internal/mmsg"
	"golang.org/x/sys/unix"
)

// groupSizes are how many links are busy at once.
var groupSizes = []int{1, 10, 100}

// A scaleCase is a way to serve many guests.
type scaleCase struct {
	name   string
	memory float64 // the bar: MiB PSS for each further link; 0 if it is for comparison
	// start starts n links and returns who serves them, the guests' ends and the
	// far ends.
	start func(c config, p programs, n int) (group, error)
}

// A group is a number of links that work together.
type group struct {
	guests []*socketPort
	fars   []*socketPort
	procs  []*process
}

// A scaleResult is what was measured of a scaleCase.
type scaleResult struct {
	name     string
	bar      float64
	rate     map[int][]float64 // by the size of the group: frames a second of all its links
	memory   float64           // MiB PSS for each further link
	idleCPU  time.Duration     // of all processes of all groups
	switches int
	links    int
}

func scaleCases() []scaleCase {
	return []scaleCase{
		{"umlvde listen", 2, startListen},
		{"helpers", 8, startHelpers(umlvde)},
		{"C vde_plug", 0, startHelpers(cplug)},
	}
}

// startListen starts one umlvde listen with n guests, each of whose plugs sends
// from a UDP port of its own to the one far end.
func startListen(c config, p programs, n int) (g group, err error) {
	sink, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return g, fmt.Errorf("socket: %w", err)
	}
	g.fars = append(g.fars, &socketPort{sock: sink})
	if err := errors.Join(setBuffers(sink, 16<<20), unix.Bind(sink, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}})); err != nil {
		return g, err
	}
	addr, err := unix.Getsockname(sink)
	if err != nil {
		return g, fmt.Errorf("getsockname: %w", err)
	}
	path := filepath.Join(c.dir, "listen"+strconv.Itoa(n))
	cmd := exec.Command(p[umlvde], "listen", path, fmt.Sprintf("udp://0->127.0.0.1:%d", addr.(*unix.SockaddrInet4).Port))
	cmd.Stderr = os.Stderr
	cmd.Env = plainEnv()
	proc, err := start(cmd, -1)
	if err != nil {
		return g, err
	}
	g.procs = append(g.procs, proc)
	for range n {
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return g, fmt.Errorf("socket: %w", err)
		}
		g.guests = append(g.guests, &socketPort{sock: fd})
		if err := eventually(5*time.Second, "umlvde listens on "+path, func() bool {
			return unix.Connect(fd, &unix.SockaddrUnix{Name: path}) == nil
		}); err != nil {
			return g, err
		}
	}
	return g, nil
}

// startHelpers is how n helpers are started, each with a socketpair for a network.
func startHelpers(program string) func(config, programs, int) (group, error) {
	return func(_ config, p programs, n int) (g group, err error) {
		for range n {
			far, theirs, err := socketpair()
			if err != nil {
				return g, err
			}
			g.fars = append(g.fars, &socketPort{sock: far})
			h, err := startHelper(p, program, "seqpacket://4", theirs, -1)
			theirs.Close()
			if err != nil {
				return g, err
			}
			g.guests = append(g.guests, h.guest)
			g.procs = append(g.procs, h.proc)
		}
		return g, nil
	}
}

// end closes the guests' ends, upon which their helpers end.
func (g *group) end() {
	for _, s := range append(g.guests, g.fars...) {
		s.close()
	}
	for _, p := range g.procs {
		_ = p.cmd.Process.Signal(unix.SIGTERM) // listen has no guest to end with
		p.end(5 * time.Second)
	}
}

func (g *group) pids() (pids []int) {
	for _, p := range g.procs {
		pids = append(pids, family(p.pid())...)
	}
	return pids
}

// measureScale lets groups of links work in turn.
func measureScale(c config, p programs, r *report) error {
	for _, s := range scaleCases() {
		if c.only.MatchString(s.name) {
			if err := s.measure(c, p, r); err != nil {
				return fmt.Errorf("%s: %w", s.name, err)
			}
		}
	}
	return nil
}

func (s *scaleCase) measure(c config, p programs, r *report) error {
	got := &scaleResult{name: s.name, bar: s.memory, rate: make(map[int][]float64)}
	groups := make([]group, len(groupSizes))
	defer func() {
		for i := range groups {
			groups[i].end()
		}
	}()
	pss := 0 // of the groups before the last one
	var pids []int
	for i, n := range groupSizes {
		r.progress("%s: starting %d links", s.name, n)
		pss, _ = memoryKB(pids)
		var err error
		if groups[i], err = s.start(c, p, n); err != nil {
			return err
		}
		if _, err := groups[i].run(50 * time.Millisecond); err != nil { // until all have moved frames
			return err
		}
		time.Sleep(time.Second) // they come to rest
		pids = append(pids, groups[i].pids()...)
		got.links += n
	}
	all, _ := memoryKB(pids)
	got.memory = float64(all-pss) / 1024 / float64(groupSizes[len(groupSizes)-1])
	for round := range c.rounds {
		for i := range groups {
			i = (i + round) % len(groups)
			r.progress("%s, %d links: round %d of %d", s.name, groupSizes[i], round+1, c.rounds)
			rate, err := groups[i].run(c.during)
			if err != nil {
				return err
			}
			got.rate[groupSizes[i]] = append(got.rate[groupSizes[i]], rate)
		}
	}
	r.progress("%s: %d links idle for %v", s.name, got.links, c.idle)
	time.Sleep(time.Second)
	cpu, n := cpuTime(pids), switches(pids)
	time.Sleep(c.idle)
	got.idleCPU, got.switches = cpuTime(pids)-cpu, switches(pids)-n
	r.scale = append(r.scale, got)
	return nil
}

// run sends what the links take, in turn, for a time, after all of them have
// moved a frame, and returns how many frames a second that was.
func (g *group) run(during time.Duration) (float64, error) {
	frames, err := mmsg.NewBatch()
	if err != nil {
		return 0, err
	}
	defer frames.Free()
	came, err := mmsg.NewBatch()
	if err != nil {
		return 0, err
	}
	defer came.Free()
	var stop atomic.Bool
	done := make(chan error, 2)
	go func() { done <- g.send(frames, &stop) }()
	go func() { done <- g.receive(came, &stop) }()
	err = eventually(20*time.Second, "frames of all links pass", g.allPass)
	before, began := g.total(), time.Now()
	time.Sleep(during)
	rate := float64(g.total()-before) / time.Since(began).Seconds()
	stop.Store(true)
	return rate, errors.Join(err, <-done, <-done)
}

// allPass reports whether each far end has got frames, and each guest's socket
// has been read.
func (g *group) allPass() bool {
	for _, s := range g.fars {
		if s.passed.Load() == 0 {
			return false
		}
	}
	for _, s := range g.guests {
		if s.passed.Load() <= mmsg.Max*8 { // more than what it holds unread
			return false
		}
	}
	return true
}

// total is how many frames have come.
func (g *group) total() (n uint64) {
	for _, s := range g.fars {
		n += s.passed.Load()
	}
	return n
}

// send gives each guest's socket that has room a batch.
func (g *group) send(b *mmsg.Batch, stop *atomic.Bool) error {
	return visit(g.guests, unix.EPOLLOUT, stop, func(s *socketPort) error {
		b.Clear()
		for b.Append(plainFrame[:]) {
		}
		err := s.send(b)
		s.passed.Add(uint64(mmsg.Max - b.Len()))
		return err
	})
}

// receive takes what comes out of the far ends.
func (g *group) receive(b *mmsg.Batch, stop *atomic.Bool) error {
	return visit(g.fars, unix.EPOLLIN, stop, func(s *socketPort) error {
		err := s.recv(b)
		if err == nil {
			s.passed.Add(uint64(b.Len()))
		}
		return err
	})
}

// visit calls do for each port that is ready, until stop is set. What it costs does
// not grow with the ports that are not: a guest knows nothing of other guests.
func visit(ports []*socketPort, events uint32, stop *atomic.Bool, do func(*socketPort) error) error {
	if err := lockTo(-1); err != nil {
		return err
	}
	epfd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return fmt.Errorf("epoll: %w", err)
	}
	defer unix.Close(epfd)
	for i, s := range ports {
		if err := unix.EpollCtl(epfd, unix.EPOLL_CTL_ADD, s.sock, &unix.EpollEvent{Events: events, Fd: int32(i)}); err != nil {
			return fmt.Errorf("epoll: %w", err)
		}
	}
	ready := make([]unix.EpollEvent, len(ports))
	for !stop.Load() {
		n, _ := unix.EpollWait(epfd, ready, int(giveUp.Milliseconds())) // in vain is no harm
		for i := range max(n, 0) {
			if err := do(ports[ready[i].Fd]); err != nil && !errors.Is(err, unix.EAGAIN) {
				return fmt.Errorf("link %d: %w", ready[i].Fd, err)
			}
		}
	}
	return nil
}

// plainFrame is the frame that the guests send: 64 bytes.
var plainFrame = [64]byte{12: etherType >> 8, 13: etherType & 0xff}

// scaleTable prints how the total grows, and what further links cost.
func (r *report) scaleTable(b *strings.Builder) {
	b.WriteString("\n## Many links at once\n\nkf/s: thousand frames of 64 bytes a second, of all links together, as fast as their sockets take them\n\n")
	b.WriteString("| served by | kf/s with 1 link | 10 | 100 | **100 : 10** | MiB PSS for each further link | idle: CPU of all links | context switches |\n|---|--:|--:|--:|---|--:|--:|--:|\n")
	for _, s := range r.scale {
		fmt.Fprintf(b, "| %s |", s.name)
		for _, n := range groupSizes {
			b.WriteString(number(median(s.rate[n]) / 1e3))
		}
		fmt.Fprintf(b, " %v | %.1f | %v | %d |\n", ratios(s.rate[100], s.rate[10]), s.memory, s.idleCPU, s.switches)
	}
	b.WriteString("\n```\n")
	for _, s := range r.scale {
		most := 0.0
		for _, v := range s.rate {
			most = max(most, median(v))
		}
		for _, n := range groupSizes {
			v := median(s.rate[n])
			fmt.Fprintf(b, "%-14s %4d links  %-50s %4.0f kf/s\n", s.name, n, strings.Repeat("#", int(50*v/most)), v/1e3)
		}
	}
	b.WriteString("```\n")
}

// scaleBars are about many links at once.
func (r *report) scaleBars() []*bar {
	rate, memory, idle := &bar{name: "100 links : 10 links, frames"}, &bar{name: "each further link: MiB PSS"}, &bar{name: "idle links: context switches"}
	for _, s := range r.scale {
		if s.bar == 0 {
			continue
		}
		rate.judge(s.name, ratios(s.rate[100], s.rate[10]).mid, 0.9, true)
		memory.judge(s.name, s.memory, s.bar, false)
		idle.judge(fmt.Sprintf("%s, %d links", s.name, s.links), float64(s.switches), 0, false)
	}
	return []*bar{rate, memory, idle}
}
