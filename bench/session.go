package main

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"time"
)

// A key names one measurement.
type key struct {
	far    string
	size   int
	what   string
	pinned bool
}

func (k key) String() string {
	how := "free"
	if k.pinned {
		how = "pinned"
	}
	return fmt.Sprintf("%s %d %s %s", k.far, k.size, k.what, how)
}

// facts are what is known of a program besides its speed.
type facts struct {
	pss, rss int // kB
	switches int // context switches while idle
	starts   []float64
}

// programsFor lists who can serve a far end, umlvde first.
func programsFor(f *far) []string {
	if f.socket {
		return []string{umlvde, cplug, shuttle}
	}
	return []string{umlvde, cplug}
}

// linkID names the far end of a program, in two letters.
func linkID(program, pinned int) string {
	return string([]byte{byte('a' + program), byte('a' + pinned)})
}

func linkIDs() (ids []string) {
	for program := range 3 {
		for pinned := range 2 {
			ids = append(ids, linkID(program, pinned))
		}
	}
	return ids
}

// whats lists what is measured at a far end.
func whats(c config, f *far, k key) []string {
	switch {
	case f.loop:
		return []string{looped, roundTrip}
	case c.quick && (k.size > 1514 || k.size == 1514 && k.pinned && k.far != "socketpair"):
		return nil
	case k.size != 64:
		return []string{toNetwork, toGuest, duplex}
	case c.quick && k.far != "socketpair":
		return []string{toNetwork, toGuest, roundTrip}
	}
	what := []string{toNetwork, toGuest, duplex, flood, roundTrip}
	if f.name == "socketpair" {
		what = append(what, floods)
	}
	return what
}

// quickFars are the far ends of a quick run.
var quickFars = map[string]bool{"socketpair": true, "vde_switch": true, "tap": true, "hub": true}

// measureAll measures at all far ends.
func measureAll(c config, p programs, r *report) error {
	s, err := newStage()
	if err != nil {
		return err
	}
	for _, f := range fars(c.dir) {
		if c.quick && c.only.String() == "" && !quickFars[f.name] {
			continue
		}
		for pinned := range 2 {
			keys := keysFor(c, f, pinned == 1)
			if len(keys) == 0 {
				continue
			}
			if err := measureFar(c, p, r, s, f, pinned, keys); err != nil {
				return fmt.Errorf("%s: %w", f.name, err)
			}
		}
	}
	return nil
}

func keysFor(c config, f *far, pinned bool) (keys []key) {
	for _, size := range f.sizes {
		k := key{f.name, size, "", pinned}
		for _, k.what = range whats(c, f, k) {
			if c.only.MatchString(k.String()) {
				keys = append(keys, k)
			}
		}
	}
	return keys
}

// measureFar starts all programs with a far end each, and lets them work in
// turn. Those that wait do nothing.
func measureFar(c config, p programs, r *report, s *stage, f *far, pinned int, keys []key) error {
	cpu := -1
	if pinned == 1 {
		cpu = lastCPU()
	}
	names := programsFor(f)
	if pinned == 0 {
		if err := measureStarts(c, p, r, f, names); err != nil {
			return err
		}
	}
	links := make([]*link, len(names))
	defer func() {
		for _, l := range links {
			if l == nil {
				continue
			}
			if err := l.end(); err != nil {
				r.fault(f.name, l.name, err.Error())
			}
		}
	}()
	for i, name := range names {
		l, err := newLink(p, f, name, linkID(i, pinned), cpu)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		links[i] = l
	}
	for _, k := range keys {
		for round := range c.rounds {
			r.progress("%s: round %d of %d", k, round+1, c.rounds)
			for i := range links {
				l := links[(i+round)%len(links)]
				got, err := s.measure(l, k, c.during)
				if err != nil {
					return fmt.Errorf("%s, %s: %w\n%s", k, l.name, err, l.said.String())
				}
				r.add(k, l.name, got)
			}
			runtime.GC()
		}
	}
	if pinned == 0 {
		measureIdle(c, r, f, links)
	}
	return nil
}

func (s *stage) measure(l *link, k key, during time.Duration) (sample, error) {
	if k.what == roundTrip {
		return s.latency(l, k.size, during)
	}
	return s.throughput(l, k.what, k.size, during)
}

// measureStarts measures how long it takes from the start of a program to the
// first frame.
func measureStarts(c config, p programs, r *report, f *far, names []string) error {
	for round := range c.rounds {
		r.progress("%s start: round %d of %d", f.name, round+1, c.rounds)
		for i := range names {
			name := names[(i+round)%len(names)]
			took, err := firstFrame(p, f, name, linkID((i+round)%len(names), 0))
			if err != nil {
				return fmt.Errorf("start of %s: %w", name, err)
			}
			fact := r.facts(f.name, name)
			fact.starts = append(fact.starts, took)
		}
	}
	return nil
}

// firstFrame is the time, in ms, until a frame has gone through.
func firstFrame(p programs, f *far, name, id string) (float64, error) {
	l, err := newLink(p, f, name, id, -1)
	if err != nil {
		return 0, err
	}
	return float64(l.passed.Sub(l.began).Microseconds()) / 1e3, l.end()
}

// measureIdle looks at what the programs cost when nothing happens, after they
// have worked.
func measureIdle(c config, r *report, f *far, links []*link) {
	r.progress("%s: idle for %v", f.name, c.idle)
	time.Sleep(time.Second) // they come to rest
	before := make([]int, len(links))
	for i, l := range links {
		before[i] = switches(family(l.proc.pid()))
	}
	time.Sleep(c.idle)
	for i, l := range links {
		pids := family(l.proc.pid())
		fact := r.facts(f.name, l.name)
		fact.switches = switches(pids) - before[i]
		fact.pss, fact.rss = memoryKB(pids)
	}
}

// progress tells what is going on, on a terminal in one line.
func (r *report) progress(format string, a ...any) {
	text := fmt.Sprintf(format, a...)
	if st, err := os.Stderr.Stat(); err == nil && st.Mode()&os.ModeCharDevice != 0 {
		fmt.Fprintf(os.Stderr, "\r\x1b[K%s", text)
	} else if !strings.Contains(text, "round") || strings.Contains(text, "round 1 ") {
		fmt.Fprintln(os.Stderr, text)
	}
}
