package main

import (
	"fmt"
	"strings"
)

func (r *report) umlTable(b *strings.Builder) {
	b.WriteString("\n## TCP between real guests\n\nUML 6.12, transport=vde, iperf3, Mbit/s received; ping: round trip of a packet on the idle link, us, the mean; " +
		"retransmissions: median of a round\n\n")
	b.WriteString("| network | umlvde Mbit/s | C | **umlvde : C** | ping umlvde | C | **: C** | retransmissions umlvde | C |\n")
	b.WriteString("|---|--:|--:|---|--:|--:|---|--:|--:|\n")
	for _, u := range r.uml {
		fmt.Fprintf(b, "| %s | %.0f | %.0f | %v | %.0f | %.0f | %v | %.0f | %.0f |\n", u.name,
			median(u.mbit[umlvde]), median(u.mbit[cplug]), ratios(u.mbit[umlvde], u.mbit[cplug]),
			median(u.rtt[umlvde]), median(u.rtt[cplug]), ratios(u.rtt[umlvde], u.rtt[cplug]),
			median(u.again[umlvde]), median(u.again[cplug]))
	}
}

func (r *report) umlBars() (bars []*bar) {
	for _, u := range r.uml {
		if q := ratios(u.mbit[umlvde], u.mbit[cplug]); q.ok && u.bar > 0 {
			b := &bar{name: "TCP, " + u.name}
			b.judge("", q.mid, u.bar, true)
			bars = append(bars, b)
		}
	}
	return bars
}
