package uml

import (
	"strconv"
	"strings"
)

// kernelSpecs are the devices that a kernel makes of its command line, which is
// its arguments with spaces in between (add_arg in arch/um/kernel/um_arch.c).
func kernelSpecs(args []string) (specs []Spec) {
	line := strings.Join(args, " ")
	for line != "" {
		var word string
		if word, line = nextWord(line); word == "--" {
			break // what follows is for init (parse_args in kernel/params.c)
		}
		if spec, ok := kernelParse(word); ok {
			specs = append(specs, spec)
		}
	}
	return specs
}

// kernelParse is what a kernel makes of a word: no quotes, no escapes, every ','
// separates (uml_parse_vector_ifspec in arch/um/drivers/vector_user.c). It does
// not make a device of one that has a second '=' in an option.
func kernelParse(word string) (Spec, bool) {
	unit, text, ok := cutUnit(word)
	if !ok {
		return Spec{}, false
	}
	spec := Spec{Unit: unit}
	for text != "" {
		var piece string
		piece, text, ok = strings.Cut(text, ",")
		key, value, set := strings.Cut(piece, "=")
		switch {
		case strings.Contains(value, "="):
			return Spec{}, false
		case !set, value == "" && !ok: // at the very end "vnl=" is no option, either
		default:
			spec.Options = append(spec.Options, Option{key, value})
		}
	}
	return spec, true
}

// cutUnit splits vecN:... as vector_parse in arch/um/drivers/vector_kern.c does.
func cutUnit(word string) (unit int, options string, ok bool) {
	number, options, ok := strings.Cut(strings.TrimPrefix(word, "vec"), ":")
	if !ok || !strings.HasPrefix(word, "vec") {
		return 0, "", false
	}
	// As kstrtouint with base 0.
	base := 10
	if hex, ok := strings.CutPrefix(strings.ToLower(number), "0x"); ok {
		number, base = hex, 16
	} else if strings.HasPrefix(number, "0") {
		base = 8
	}
	n, err := strconv.ParseUint(number, base, 31)
	return int(n), options, err == nil
}

// nextWord cuts the first word off a command line, without the quotes around it
// or around all that follows its first '=' (next_arg in lib/cmdline.c).
func nextWord(line string) (word, rest string) {
	quoted := strings.HasPrefix(line, `"`)
	if quoted {
		line = line[1:]
	}
	end, equals, open := 0, 0, quoted
	for ; end < len(line) && (open || !isSpace(line[end])); end++ {
		switch {
		case line[end] == '=' && equals == 0:
			equals = end
		case line[end] == '"':
			open = !open
		}
	}
	word, rest = line[:end], line[end:]
	for rest != "" && isSpace(rest[0]) {
		rest = rest[1:]
	}
	if equals > 0 && strings.HasPrefix(word[equals+1:], `"`) {
		word = word[:equals+1] + strings.TrimSuffix(word[equals+2:], `"`)
	} else if quoted {
		word = strings.TrimSuffix(word, `"`)
	}
	return word, rest
}

// isSpace is the kernel's (lib/ctype.c), which knows Latin-1 only: it splits a
// word at the second byte of "à" in UTF-8.
func isSpace(c byte) bool { return c == ' ' || '\t' <= c && c <= '\r' || c == 0xa0 }

func hasSpace(s string) bool {
	for i := range len(s) {
		if isSpace(s[i]) {
			return true
		}
	}
	return false
}

// number reads a number as kstrtoul with base 10.
func number(s string) (int, bool) {
	n, err := strconv.ParseUint(strings.TrimPrefix(s, "+"), 10, 31)
	return int(n), err == nil
}
