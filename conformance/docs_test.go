package conformance

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/umlvde/umlvde/internal/plug"
)

// TestDocs compares docs/plugs.md with what the tables of this package say;
// with -update it writes it.
func TestDocs(t *testing.T) {
	const path = "../docs/plugs.md"
	want := plugsPage()
	if *update {
		must(t, os.WriteFile(path, []byte(want), 0o600))
		return
	}
	got, err := os.ReadFile(path)
	must(t, err)
	if string(got) != want {
		t.Errorf("%s is not what the tables say; write it with: go test ./conformance -run TestDocs -update", path)
	}
}

func plugsPage() string {
	out := new(strings.Builder)
	fmt.Fprint(out, `# Plugs: what may stand after `+"`vnl=`"+`

<!-- Written by: go test ./conformance -run TestDocs -update -->

Every row is tested with the real plugin: frames both ways, whole and in order, with a played guest at one end and, at the other,
the C `+"`vde_plug`"+` and umlvde in turn (or an interface, a socket, a router); the other end, the network and the helper are killed and
come back. The kernels were booted with a device on that VNL. `+"`{dir}`"+` is any directory. Packages are Debian's.

| VNL | the guest is on | package | UML kernels |
|---|---|---|---|
`)
	guests := guestRows()
	for _, r := range rows {
		vnl, by, tried := "`"+strings.ReplaceAll(r.vnl, "|", `\|`)+"`", plug.DebianPackage(r.plugin), "played guest"
		if r.vnl == "" {
			vnl = "(none)"
		}
		if by == "" {
			by = "umlvde itself"
		}
		if slices.Contains(guests, r) {
			tried = strings.Join(kernels, ", ")
		}
		fmt.Fprintf(out, "| %s | %s | %s | %s |\n", strings.ReplaceAll(vnl, "{umlvde}", "umlvde"), r.what, by, tried)
	}
	fmt.Fprint(out, `
A VNL that is written wrongly, or whose network is not there, is answered with one line that says what is wrong and what to do;
the guest goes on, and umlvde goes on trying. A plugin that blocks, crashes or lies in any other way costs frames, not the guest:
see [architecture.md](architecture.md).

## Traps

What the plugins (4.0.1 and those of Debian 12 and 13) do to their callers, and what umlvde does about it. Each has a test.

| plugin | trap | defence |
|---|---|---|
`)
	for _, c := range traps {
		fmt.Fprintf(out, "| %s | it %s | %s |\n", c.plugin, c.does, c.defence)
	}
	for _, c := range shownByRows {
		fmt.Fprintf(out, "| %s | it %s | %s |\n", c.plugin, c.does, c.defence)
	}
	return out.String()
}

// shownByRows are the traps that the other tests of this package would fall
// into.
var shownByRows = []trap{
	{plugin: "vde", does: "loses the last character of a VNL in a file without a newline", defence: "the file is read by umlvde"},
	{plugin: "vxlan", does: "stores senders without an address, and cannot answer them", defence: "the memory that it reads too early is prepared"},
	{plugin: "vlan, agno", does: "opens the other network without its defences", defence: "that is opened apart, and joined by a socket"},
	{plugin: "hub, switch, multi, bonding", does: "leaves its directory when it is killed, in which it then cannot open", defence: "the directory is removed if nobody listens there"},
	{plugin: "ptp", does: "does not let in the successor of an end that was killed", defence: "the socket that nobody listens on is removed, which the other end notices"},
	{plugin: "pcap, vxvde, vxlan", does: "does not find an interface that was made anew", defence: "the link ends and is tried again"},
	{plugin: "all", does: "prints what it does not like, or silently takes it for something else", defence: "VNLs are checked before"},
}
