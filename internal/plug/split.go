package plug

import (
	"errors"
	"strings"
)

// splitCommand cuts the command of a cmd:// VNL into words as libexecs' s2argv
// does for the library's plugin: blanks separate; single quotes, double quotes
// and backslashes protect; there is no shell. There, $X is replaced by nothing
// and ; ends the command; here, both are letters.
func splitCommand(line string) ([]string, error) {
	var argv []string
	var word strings.Builder
	open := false // a word has begun, if only with empty quotes
	quote := byte(0)
	escaped := false
	for i := range len(line) { // bytes: a name of a file may be any
		c := line[i]
		switch {
		case escaped:
			escaped = false
			word.WriteByte(c)
		case c == '\\' && quote != '\'':
			open, escaped = true, true
		case quote != 0 && c == quote:
			quote = 0
		case quote != 0:
			word.WriteByte(c)
		case c == '\'' || c == '"':
			open, quote = true, c
		case c == ' ' || c == '\t' || c == '\n':
			if open {
				argv = append(argv, word.String())
				word.Reset()
				open = false
			}
		default:
			open = true
			word.WriteByte(c)
		}
	}
	switch {
	case quote != 0:
		return nil, errors.New("a quote in the command is not closed")
	case open:
		argv = append(argv, word.String())
	}
	if len(argv) == 0 {
		return nil, errors.New("the VNL names no command")
	}
	return argv, nil
}
