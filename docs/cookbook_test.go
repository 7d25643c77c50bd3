// Package docs tests that what the documents show is what happens.
package docs

import (
	"flag"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/umlvde/umlvde/internal/rig"
)

var update = flag.Bool("update", false, "replace outputs in cookbook.md that are not what commands print")

func TestMain(m *testing.M) { os.Exit(rig.MainApart(m)) }

const cookbook = "cookbook.md"

// A step is a command of the cookbook and what it prints.
type step struct {
	line     int // of the document, in which the command begins
	terminal string
	guest    bool // it is typed into a guest's shell
	command  string
	first    int      // line of the output
	output   []string // as the document has it
}

// prompt is the terminal's name, $ or #, a command.
var prompt = regexp.MustCompile(`^([a-z]*)([$#]) (.*)$`)

// parse reads the steps in the blocks of a document that are marked as
// console; "> " goes before further lines of a command.
func parse(lines []string) (steps []*step, err error) {
	inside := false
	var last *step
	for i, line := range lines {
		switch {
		case !inside:
			inside, last = line == "```console", nil
			continue
		case line == "```":
			inside = false
			continue
		}
		m := prompt.FindStringSubmatch(line)
		switch {
		case m != nil:
			last = &step{line: i + 1, terminal: m[1], guest: m[2] == "#" && m[1] != "root", command: m[3], first: i + 1}
			steps = append(steps, last)
		case last == nil:
			return nil, fmt.Errorf("%s:%d: output without a command", cookbook, i+1)
		case strings.HasPrefix(line, "> ") && len(last.output) == 0:
			last.command += "\n" + line[2:]
			last.first = i + 1
		default:
			last.output = append(last.output, line)
		}
	}
	return steps, nil
}

// What differs each time or elsewhere: times, counted frames and bytes,
// processes, MAC addresses, releases of kernels and how they say goodbye. Three
// dots stand for anything.
var volatile = regexp.MustCompile(strings.Join([]string{
	`\b\d+\.\d+ ?(ms|s|Mbits/sec|MBytes)\b`, `\d+\.\d+/\d+\.\d+/\d+\.\d+ ms`, `time=\d+\.\d+`, `\d+ (frames|bytes|dropped)`, `\([0-9.]+ k?B\)`,
	`\d\d:\d\d:\d\d\.\d+`, `([0-9a-f]{2}:){5}[0-9a-f]{2}`, `\b\d+\.\d+\.\d+[-+~a-z0-9]*-[a-z0-9-]+`, `\b[5-7]\.\d+\.\d+\b`, `reboot: [A-Z][a-z]+ [a-z]+`,
	`^\[\d\] \d+$`, `\[ *\d+\.\d+\]`, `\.\.\.`,
}, "|"))

// pattern makes an expression of a line of the document.
func pattern(line string) *regexp.Regexp {
	var b strings.Builder
	b.WriteString("^")
	rest := line
	for loc := volatile.FindStringIndex(rest); loc != nil; loc = volatile.FindStringIndex(rest) {
		b.WriteString(regexp.QuoteMeta(rest[:loc[0]]))
		found := rest[loc[0]:loc[1]]
		if found == "..." {
			b.WriteString(".*")
		} else {
			b.WriteString("(" + volatile.String() + ")")
		}
		rest = rest[loc[1]:]
	}
	b.WriteString(regexp.QuoteMeta(rest) + "$")
	return regexp.MustCompile(b.String())
}

// same says whether output is what the document expects, in which a line "..."
// stands for any lines.
func same(want, output []string) bool {
	if len(want) == 0 {
		return len(output) == 0
	}
	if want[0] == "..." {
		for i := range len(output) + 1 {
			if same(want[1:], output[i:]) {
				return true
			}
		}
		return false
	}
	return len(output) > 0 && pattern(want[0]).MatchString(output[0]) && same(want[1:], output[1:])
}

// Every command of the cookbook prints what it says there.
func TestCookbook(t *testing.T) {
	text, err := os.ReadFile(cookbook)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(string(text), "\n")
	steps, err := parse(lines)
	if err != nil {
		t.Fatal(err)
	}
	if len(steps) < 10 {
		t.Fatalf("only %d commands in %s", len(steps), cookbook)
	}
	s := openSandbox(t)
	for i, st := range steps {
		term := s.terminal(st.terminal)
		goesOn := st.guest // in a guest, or back on the host, as after the last command of all
		for _, next := range steps[i+1:] {
			if next.terminal == st.terminal {
				goesOn = next.guest != st.guest
				break
			}
		}
		output := term.run(st, goesOn)
		if same(st.output, output) {
			continue
		}
		if !*update {
			t.Errorf("%s:%d: %s\nprinted:\n%s\nand not:\n%s", cookbook, st.line, st.command, strings.Join(output, "\n"), strings.Join(st.output, "\n"))
			continue
		}
		if st.output = output; goesOn && !st.guest {
			st.output = []string{"..."} // what a kernel prints while it boots
		}
	}
	if *update {
		if err := os.WriteFile(cookbook, []byte(render(lines, steps)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// render is the document with the outputs that the steps have now.
func render(lines []string, steps []*step) string {
	old, err := parse(lines)
	if err != nil {
		panic(err) // it has been parsed before
	}
	var out []string
	from := 0
	for i, st := range steps {
		out = append(append(out, lines[from:st.first]...), st.output...)
		from = st.first + len(old[i].output)
	}
	return strings.Join(append(out, lines[from:]...), "\n")
}
