package main

import (
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// A report collects what was measured.
type report struct {
	c      config
	keys   []key
	all    map[key]map[string][]sample
	more   map[[2]string]*facts
	fars   []string // in the order of their facts
	faults []string
	uml    []*umlResult
	scale  []*scaleResult
}

func newReport(c config) *report {
	return &report{c: c, all: make(map[key]map[string][]sample), more: make(map[[2]string]*facts)}
}

func (r *report) add(k key, program string, s sample) {
	if r.all[k] == nil {
		r.keys = append(r.keys, k)
		r.all[k] = make(map[string][]sample)
	}
	r.all[k][program] = append(r.all[k][program], s)
	if s.broken != "" {
		r.fault(k.String(), program, s.broken)
	}
}

func (r *report) facts(far, program string) *facts {
	k := [2]string{far, program}
	if r.more[k] == nil {
		r.more[k] = &facts{}
		if len(r.fars) == 0 || r.fars[len(r.fars)-1] != far {
			r.fars = append(r.fars, far)
		}
	}
	return r.more[k]
}

// fault notes that a program did something wrong.
func (r *report) fault(where, program, what string) {
	r.faults = append(r.faults, fmt.Sprintf("%s, %s: %s", where, program, what))
}

// ratio compares umlvde with another program.
func (r *report) ratio(k key, with string, value func(sample) float64) ratio {
	return ratios(pick(r.all[k][umlvde], value), pick(r.all[k][with], value))
}

// finish prints the report, and writes it if that was asked for.
func (r *report) finish(p programs) error {
	var b strings.Builder
	r.machine(&b, p)
	if len(r.keys) > 0 {
		r.throughputTable(&b)
		r.latencyTable(&b)
		r.factsTable(&b)
	}
	if len(r.uml) > 0 {
		r.umlTable(&b)
	}
	if len(r.scale) > 0 {
		r.scaleTable(&b)
	}
	r.bars(&b)
	if len(r.keys) > 0 || len(r.faults) > 0 {
		b.WriteString("\n## Correctness\n\n")
	}
	if len(r.keys) > 0 && len(r.faults) == 0 {
		b.WriteString("Every frame that came was in order and unaltered; umlvde's counters agree with what the guest sent and got.\n")
	}
	for _, f := range r.faults {
		fmt.Fprintf(&b, "- %s\n", f)
	}
	fmt.Fprintln(os.Stderr)
	fmt.Print(b.String())
	if r.c.write != "" {
		return r.write(b.String())
	}
	return nil
}

// write replaces the part of the document that a run of this kind has written
// before: the lines between two comments.
func (r *report) write(text string) error {
	part := "frames"
	switch {
	case r.c.uml:
		part = "uml"
	case r.c.scale:
		part = "scale"
	}
	begin, end := "<!-- begin "+part+" -->\n", "<!-- end "+part+" -->"
	doc, err := os.ReadFile(r.c.write)
	if err != nil {
		return err
	}
	before, rest, ok := strings.Cut(string(doc), begin)
	_, after, closed := strings.Cut(rest, end)
	if !ok || !closed {
		return fmt.Errorf("%s has no place for the %s: %s", r.c.write, part, begin+end)
	}
	text = strings.ReplaceAll(text, "\n## ", "\n### ")
	return os.WriteFile(r.c.write, []byte(before+begin+text+end+after), 0o644) //nolint:gosec // a document
}

// machine tells what was measured where.
func (r *report) machine(b *strings.Builder, p programs) {
	cpus, model := 0, "unknown"
	text, _ := os.ReadFile("/proc/cpuinfo") // then it stays unknown
	for _, line := range strings.Split(string(text), "\n") {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			cpus++
			model = strings.TrimSpace(value)
		}
	}
	var u unix.Utsname
	_ = unix.Uname(&u) // cannot fail
	virtual := ""
	if strings.Contains(string(text), " hypervisor ") {
		virtual = ", a virtual machine"
	}
	fmt.Fprintf(b, "- machine: %d x %s%s; kernel %s\n", cpus, model, virtual, unix.ByteSliceToString(u.Release[:]))
	version := "unknown"
	if out, err := exec.Command(p[umlvde], "version").Output(); err == nil {
		version = regexp.MustCompile(`^\S+ \S+`).FindString(string(out))
	}
	fmt.Fprintf(b, "- %s; C vde_plug %s; vde_switch %s; libslirp %s; %s\n",
		version, debian("vdeplug"), debian("vde-switch"), debian("libslirp0"), compiler())
	fmt.Fprintf(b, "- measured %s: %d rounds, in each of them every program in turn, %v each; ratios are pair by pair: median (least..most)\n",
		time.Now().Format("2006-01-02"), r.c.rounds, r.c.during)
}

// debian is the version of an installed package.
func debian(pkg string) string {
	out, err := exec.Command("dpkg-query", "-W", "-f", "${Version}", pkg).Output()
	if err != nil {
		return "of unknown version"
	}
	return string(out)
}

func compiler() string {
	out, err := exec.Command("gcc", "-dumpfullversion").Output()
	if err != nil {
		return ""
	}
	return "gcc " + strings.TrimSpace(string(out))
}

func (r *report) throughputTable(b *strings.Builder) {
	b.WriteString("\n## Throughput\n\nkf/s: thousand frames a second that came; CPU: ns of the helper's processes for each of them; lost: of umlvde's, of C's\n\n")
	b.WriteString("| far end | bytes | direction | CPUs | umlvde kf/s | C | shuttle | **: C** | **: shuttle** | umlvde CPU | C | shuttle | **: C** | **: shuttle** | lost |\n")
	b.WriteString("|---|--:|---|---|--:|--:|--:|---|---|--:|--:|--:|---|---|---|\n")
	for _, k := range r.keys {
		if k.what == roundTrip {
			continue
		}
		fmt.Fprintf(b, "| %s | %d | %s | %s |", k.far, k.size, k.what, cpus(k))
		for _, v := range []struct {
			of   func(sample) float64
			unit float64
		}{{rateOf, 1e3}, {cpuOf, 1}} {
			for _, program := range []string{umlvde, cplug, shuttle} {
				b.WriteString(number(median(pick(r.all[k][program], v.of)) / v.unit))
			}
			fmt.Fprintf(b, " %v | %v |", r.ratio(k, cplug, v.of), r.ratio(k, shuttle, v.of))
		}
		fmt.Fprintf(b, " %.1f %%, %.1f %% |\n", 100*median(pick(r.all[k][umlvde], lostOf)), 100*median(pick(r.all[k][cplug], lostOf)))
	}
}

func cpus(k key) string {
	if k.pinned {
		return "one"
	}
	return "all"
}

func number(v float64) string {
	if v == 0 {
		return " |"
	}
	return fmt.Sprintf(" %.0f |", v)
}

func (r *report) latencyTable(b *strings.Builder) {
	b.WriteString("\n## Round trip of a single frame\n\nmicroseconds\n\n")
	b.WriteString("| far end | bytes | CPUs | umlvde p50 | C | shuttle | **: C** | **: shuttle** | umlvde p99 | C | shuttle | **: C** |\n")
	b.WriteString("|---|--:|---|--:|--:|--:|---|---|--:|--:|--:|---|\n")
	for _, k := range r.keys {
		if k.what != roundTrip {
			continue
		}
		fmt.Fprintf(b, "| %s | %d | %s |", k.far, k.size, cpus(k))
		for _, program := range []string{umlvde, cplug, shuttle} {
			b.WriteString(number(median(pick(r.all[k][program], p50Of))))
		}
		fmt.Fprintf(b, " %v | %v |", r.ratio(k, cplug, p50Of), r.ratio(k, shuttle, p50Of))
		for _, program := range []string{umlvde, cplug, shuttle} {
			b.WriteString(number(median(pick(r.all[k][program], p99Of))))
		}
		fmt.Fprintf(b, " %v |\n", r.ratio(k, cplug, p99Of))
	}
}

func (r *report) factsTable(b *strings.Builder) {
	fmt.Fprintf(b, "\n## Start, rest, memory\n\nstart: from exec to the first frame that has passed; idle: context switches in %v\n\n", r.c.idle)
	b.WriteString("| far end | program | start ms | idle | PSS MiB | RSS MiB |\n|---|---|--:|--:|--:|--:|\n")
	for _, far := range r.fars {
		for _, program := range []string{umlvde, cplug, shuttle} {
			if f := r.more[[2]string{far, program}]; f != nil {
				fmt.Fprintf(b, "| %s | %s | %.1f | %d | %.1f | %.1f |\n",
					far, program, median(f.starts), f.switches, float64(f.pss)/1024, float64(f.rss)/1024)
			}
		}
	}
}
