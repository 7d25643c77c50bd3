package plug

import (
	"errors"
	"strings"
)

// splitCommand cuts the command of a cmd:// VNL into words as libexecs' s2argv
// does for the library's plugin: blanks separate; single quotes, double quotes
// and backslashes protect; there is no shell.
func splitCommand(line string) ([]string, error) {
	var argv []string
	var word strings.Builder
	open := false // a word has begun, if only with empty quotes
	quote := rune(0)
	escaped := false
	for _, r := range line {
		switch {
		case escaped:
			escaped = false
			word.WriteRune(r)
		case r == '\\' && quote != '\'':
			open, escaped = true, true
		case quote != 0 && r == quote:
			quote = 0
		case quote != 0:
			word.WriteRune(r)
		case r == '\'' || r == '"':
			open, quote = true, r
		case r == ' ' || r == '\t' || r == '\n':
			if open {
				argv = append(argv, word.String())
				word.Reset()
				open = false
			}
		default:
			open = true
			word.WriteRune(r)
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
