package main

import (
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/umlvde/umlvde/internal/mmsg"
	"golang.org/x/sys/unix"
)

// The things that are measured with frames.
const (
	toNetwork = "guest to network"
	toGuest   = "network to guest"
	duplex    = "both ways"
	flood     = "flood"          // guest to network, without a window
	floods    = "floods"         // both ways, without a window
	looped    = "there and back" // each frame counts once
	roundTrip = "round trip"
)

// A sample is one measurement of one program.
type sample struct {
	rate   float64 // frames that came, a second
	cpu    float64 // ns of the helper's processes for each of them
	lost   float64 // share of the frames sent
	p50    float64 // round trip, us
	p99    float64
	broken string // what was wrong with the frames
}

// runs numbers the measurements, so that stray frames are recognised.
var runs atomic.Uint32

// window is how many frames of a size may be under way: as many as fit into
// the far end's shortest queue, which is what TCP finds out.
func (f *far) window(size int) int { return min(256, f.queue/size) }

// A stage is the memory that measurements need.
type stage struct {
	src [2]source
	rx  [2]*mmsg.Batch
}

func newStage() (*stage, error) {
	s := &stage{}
	for i := range 2 {
		var err error
		if s.src[i].batch, err = mmsg.NewBatch(); err != nil {
			return nil, err
		}
		if s.rx[i], err = mmsg.NewBatch(); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// guestFrames and farFrames prepare what either end sends in a run.
func (s *stage) guestFrames(l *link, size int, run uint32) {
	h := slices.Clone(l.headers.guest)
	if l.headers.farMore != 0 { // IP: the headers tell the length
		setLengths(h, size)
	}
	s.src[0].prepare(h, size, run)
}

func (s *stage) farFrames(l *link, size int, run uint32) {
	s.src[1].prepare(l.headers.far, size+l.headers.farMore, run)
}

func (l *link) checks(size int, run uint32) (atGuest, atFar check) {
	return check{run: run, skip: l.headers.atGuest, length: size},
		check{run: run, skip: l.headers.atFar, length: size + l.headers.farMore}
}

// throughput lets frames of a size flow for a time.
func (s *stage) throughput(l *link, what string, size int, during time.Duration) (sample, error) {
	run := runs.Add(1)
	w := l.kind.window(size)
	if what == flood || what == floods {
		w = 0
	}
	up, err := newFlow(w)
	if err != nil {
		return sample{}, err
	}
	defer up.close()
	down, err := newFlow(w)
	if err != nil {
		return sample{}, err
	}
	defer down.close()
	s.guestFrames(l, size, run)
	s.farFrames(l, size, run)
	var stop, full atomic.Bool
	full.Store(true)
	guest := &player{port: l.guest, src: &s.src[0], rx: s.rx[0], cpu: l.cpu, stop: &stop, full: &full}
	far := &player{port: l.far, src: &s.src[1], rx: s.rx[1], cpu: l.cpu, stop: &stop, full: &full}
	guest.chk, far.chk = l.checks(size, run)
	players := []*player{guest, far}
	switch what {
	case looped:
		guest.out, guest.in = up, up
		players = players[:1]
	case toGuest:
		guest.in, far.out = down, down
	case duplex, floods:
		guest.out, far.in, guest.in, far.out = up, up, down, down
	default:
		guest.out, far.in = up, up
	}
	ended := make(chan error, len(players))
	for _, p := range players {
		go func() { ended <- p.play() }()
	}
	pids := family(l.proc.pid())
	time.Sleep(max(30*time.Millisecond, during/4)) // to warm up, with every byte of every frame checked
	full.Store(false)
	begin, cpu, came := time.Now(), cpuTime(pids), up.came.Load()+down.came.Load()
	time.Sleep(during)
	took, cpu, came := time.Since(begin), cpuTime(pids)-cpu, up.came.Load()+down.came.Load()-came
	full.Store(true)
	time.Sleep(5 * time.Millisecond)
	stop.Store(true)
	for range players {
		err = errors.Join(err, <-ended)
	}
	l.drain()
	if err != nil {
		return sample{}, err
	}
	got := sample{rate: float64(came) / took.Seconds(), broken: broken(&guest.chk, &far.chk)}
	if came > 0 {
		got.cpu = float64(cpu.Nanoseconds()) / float64(came)
	}
	if lost, all := guest.chk.lost+far.chk.lost, guest.chk.next+far.chk.next; all > 0 {
		got.lost = float64(lost) / float64(all)
	}
	if came == 0 {
		got.broken = "no frame came"
	}
	return got, nil
}

func broken(checks ...*check) string {
	var altered, disordered uint64
	for _, c := range checks {
		altered += c.altered
		disordered += c.disordered
	}
	if altered+disordered == 0 {
		return ""
	}
	return fmt.Sprintf("%d frames altered, %d out of order", altered, disordered)
}

// latency sends single frames, each when the last one has come back.
func (s *stage) latency(l *link, size int, during time.Duration) (sample, error) {
	run := runs.Add(1)
	s.guestFrames(l, size, run)
	s.farFrames(l, size, run)
	atGuest, atFar := l.checks(size, run)
	var stop, stopFar atomic.Bool
	answers, pings := make(chan error, 1), make(chan error, 1)
	go func() { // the far end answers each frame with one of its own
		if l.kind.loop {
			answers <- nil
			return
		}
		answers <- ping(l.cpu, l.far, &s.src[1], s.rx[1], &atFar, &stopFar, nil)
	}()
	var times []time.Duration
	go func() { pings <- ping(l.cpu, l.guest, &s.src[0], s.rx[0], &atGuest, &stop, &times) }()
	time.Sleep(during)
	stop.Store(true)
	err := <-pings
	stopFar.Store(true)
	err = errors.Join(err, <-answers)
	l.drain()
	if err != nil {
		return sample{}, err
	}
	if len(times) < 10 {
		return sample{broken: "hardly any frame came back"}, nil
	}
	times = times[len(times)/5:] // the first ones warm up
	slices.Sort(times)
	us := func(q float64) float64 { return float64(times[int(q*float64(len(times)-1))].Nanoseconds()) / 1e3 }
	return sample{p50: us(0.5), p99: us(0.99), broken: broken(&atGuest, &atFar)}, nil
}

// ping sends a frame for each frame that comes and, if it takes the times, for
// each that does not come.
func ping(cpu int, p port, src *source, rx *mmsg.Batch, chk *check, stop *atomic.Bool, times *[]time.Duration) error {
	if err := lockTo(cpu); err != nil {
		return err
	}
	chk.all = true
	wait := giveUp
	if times != nil {
		wait = time.Second // another frame sent in its stead would be answered by what was only late
	}
	sent := time.Time{}
	for !stop.Load() {
		if times != nil {
			src.batch.Clear()
			src.fill(1)
			sent = time.Now()
			if err := p.send(src.batch); err != nil && err != unix.EAGAIN { //nolint:errorlint // the port contract: bare
				return err
			}
		}
		for came := false; !came; {
			if !poll(p.fd(), wait) {
				break // lost, or the end
			}
			switch err := p.recv(rx); {
			case err == unix.EAGAIN: //nolint:errorlint // as above
				continue
			case err != nil:
				return err
			}
			for i := range rx.Len() {
				came = chk.frame(rx.Frame(i)) || came
			}
			switch {
			case came && times != nil:
				*times = append(*times, time.Since(sent))
			case came:
				src.batch.Clear()
				src.fill(1)
				_ = p.send(src.batch) // the other end will notice
			}
		}
	}
	return nil
}
