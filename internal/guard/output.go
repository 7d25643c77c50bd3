package guard

import (
	"slices"
	"strings"
)

// An Output is what a worker prints on its standard error. It is passed on line by
// line; of a crash only the first line is kept, as the reason.
type Output struct {
	Crash string // that line; "" if there was no crash
	Last  string // the last line before it

	partial string // a line that is not complete
	lines   int    // that were passed on
}

const (
	// maxLines is how many lines are passed on: a plugin may complain, but not for
	// ever.
	maxLines = 16
	// maxPartial is the longest line, in bytes.
	maxPartial = 4096
)

// crashMarks begin the lines that the Go runtime prints when it gives up.
var crashMarks = []string{"SIG", "fatal error: ", "panic: ", "runtime: ", "unexpected fault"}

// Printed calls pass for each line that is to be passed on as text has come.
func (o *Output) Printed(text []byte, pass func(line string)) {
	lines := strings.Split(o.partial+string(text), "\n")
	o.partial = lines[len(lines)-1]
	if len(o.partial) > maxPartial {
		o.partial = ""
	}
	for _, line := range lines[:len(lines)-1] {
		line = strings.TrimRight(line, "\r")
		switch {
		case o.Crash != "" || line == "":
		case slices.ContainsFunc(crashMarks, func(m string) bool { return strings.HasPrefix(line, m) }):
			o.Crash = line
		default:
			o.Last = line
			if o.lines++; o.lines <= maxLines {
				pass(line)
			}
		}
	}
}

// Ended does the same for a line that has no end.
func (o *Output) Ended(pass func(line string)) { o.Printed([]byte("\n"), pass) }
