package main

import (
	"fmt"
	"slices"
	"strings"
)

// A bar is what umlvde has to reach.
type bar struct {
	name  string
	found bool
	good  bool
	worst string // the measurement that decides
}

// judge takes one measurement into account: value has to be at least, or at
// most, limit.
func (b *bar) judge(where string, value, limit float64, atLeast bool) {
	ok := value >= limit
	sign := ">="
	if !atLeast {
		ok, sign = value <= limit, "<="
	}
	if !b.found {
		b.found, b.good = true, true
	}
	if !ok {
		b.good = false
	}
	mark := ""
	if !ok {
		mark = " (missed)"
	}
	if b.worst != "" {
		b.worst += "; "
	}
	b.worst += fmt.Sprintf("%s %.2f %s %.2f%s", where, value, sign, limit, mark)
}

// bars prints which of the bars are met.
func (r *report) bars(b *strings.Builder) {
	b.WriteString("\n## Bars\n\n| bar | met | measured |\n|---|---|---|\n")
	for _, bar := range slices.Concat(r.frameBars(), r.restBars(), r.umlBars(), r.scaleBars()) {
		met := "no"
		switch {
		case !bar.found:
			continue
		case bar.good:
			met = "yes"
		}
		fmt.Fprintf(b, "| %s | %s | %s |\n", bar.name, met, bar.worst)
	}
}

// frameBars are about throughput and round trips.
func (r *report) frameBars() []*bar {
	var (
		full      = &bar{name: "full duplex, 64 bytes, socketpair: frames"}
		pinRate   = &bar{name: "one way, pinned: frames"}
		pinCPU    = &bar{name: "one way, pinned: CPU"}
		freeRate  = &bar{name: "one way, free running: frames"}
		switchCPU = &bar{name: "to a vde_switch, pinned: CPU"}
		libRate   = &bar{name: "through the library: frames"}
		libCPU    = &bar{name: "through the library: CPU"}
		trip      = &bar{name: "round trip, p50"}
		limitRate = &bar{name: "against the shuttle: frames"}
		limitCPU  = &bar{name: "against the shuttle: CPU"}
	)
	judge := func(b *bar, k key, with string, value func(sample) float64, limit float64, atLeast bool) {
		if q := r.ratio(k, with, value); q.ok {
			b.judge(fmt.Sprintf("%s %d %s %s", k.far, k.size, short[k.what], cpus(k)), q.mid, limit, atLeast)
		}
	}
	for _, k := range r.keys {
		oneWay := k.what == toNetwork || k.what == toGuest
		switch {
		case k.what == flood:
		case k.what == roundTrip && k.pinned:
			judge(trip, k, cplug, p50Of, 1.1, false)
		case k.what == roundTrip:
			judge(trip, k, cplug, p50Of, 0.6, false)
		case k.far == "hub" || k.far == "switch" || k.far == "vxvde":
			judge(libRate, k, cplug, rateOf, 1, true)
			judge(libCPU, k, cplug, cpuOf, 1, false)
		case k.far == "vde_switch" && k.what == toNetwork && k.pinned:
			judge(switchCPU, k, cplug, cpuOf, 0.8, false)
		case k.far == "socketpair" && k.size == 64 && k.what == duplex && !k.pinned:
			judge(full, k, cplug, rateOf, 2, true)
		case k.far == "socketpair" && oneWay && k.size <= 1514 && k.pinned:
			judge(pinRate, k, cplug, rateOf, 1.3, true)
			judge(pinCPU, k, cplug, cpuOf, 0.75, false)
		case k.far == "socketpair" && oneWay && k.size <= 1514:
			judge(freeRate, k, cplug, rateOf, 1.15, true)
		}
		if k.what != roundTrip && k.what != flood {
			judge(limitRate, k, shuttle, rateOf, 0.9, true)
			judge(limitCPU, k, shuttle, cpuOf, 1.1, false)
		}
	}
	return []*bar{full, pinRate, pinCPU, freeRate, switchCPU, libRate, libCPU, trip, limitRate, limitCPU}
}

var short = map[string]string{toNetwork: "up", toGuest: "down", duplex: "both", floods: "floods", roundTrip: "trip", looped: "loop"}

// restBars are about a helper at rest.
func (r *report) restBars() []*bar {
	idle, memory := &bar{name: "idle: context switches"}, &bar{name: "memory: MiB PSS"}
	for _, far := range r.fars {
		if f := r.more[[2]string{far, umlvde}]; f != nil && f.pss > 0 {
			idle.judge(far, float64(f.switches), 0, false)
			memory.judge(far, float64(f.pss)/1024, 10, false)
		}
	}
	return []*bar{idle, memory}
}
