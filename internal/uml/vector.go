// Package uml knows the command lines of User-Mode Linux kernels: the arguments
// vecN:key=value,... of the vector network drivers. It holds no policy.
package uml

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// A Spec is one argument vecN:key=value,... of a UML kernel.
type Spec struct {
	Unit    int      // the N of vecN
	Options []Option // as given, repeated keys too; of those the first counts
}

// An Option is one key=value of a [Spec].
type Option struct{ Key, Value string }

// optionNames are all that a UML kernel looks up (uml_vector_fetch_arg in
// arch/um/drivers/vector_kern.c, vector_user.c and vector_transports.c).
var optionNames = []string{
	"transport",
	"vnl", "descr", "port", "mode", "group", // vde
	"mac", "mtu", "depth", "headroom", "vec", "gro", "bpffile", "bpfflash", // all transports
	"fd", "ifname", "src", "dst", "srcport", "dstport", "v6", "udp",
	"rx_key", "tx_key", "sequence", "pin_sequence", // gre
	"rx_session", "tx_session", "rx_cookie", "tx_cookie", "cookie64", "counter", "pin_counter", // l2tpv3
}

// Get returns the value of an option: the first one if the key is repeated
// (uml_vector_fetch_arg).
func (s Spec) Get(key string) (value string, ok bool) {
	for _, o := range s.Options {
		if o.Key == key {
			return o.Value, true
		}
	}
	return "", false
}

// Is tells whether a kernel takes the transport for the one named: it looks at
// the first characters only (uml_vector_user_open in
// arch/um/drivers/vector_user.c).
func (s Spec) Is(transport string) bool {
	value, _ := s.Get("transport")
	return strings.HasPrefix(value, transport)
}

// Parse reads an argument as its writer meant it, which is more than a kernel
// takes: in a VNL and a description, a comma ends the value only where the name
// of an option and '=' follow, and '=' and spaces are like any other character.
// A VNL within quotes may hold even a comma with such a name. The quotes around
// the argument, around all that follows its first '=' (both as in a kernel) and
// around a value are taken off; a VNL is decoded as by [CleanVNL].
//
// An error tells what is wrong with the argument and what to write instead.
func Parse(arg string) (Spec, error) {
	spec, err := parse(arg)
	if err != nil {
		return Spec{}, fmt.Errorf("%q: %w", arg, err)
	}
	return spec, nil
}

func parse(text string) (Spec, error) {
	if strings.HasPrefix(text, `"`) {
		if len(text) < 2 || !strings.HasSuffix(text, `"`) {
			return Spec{}, errors.New(`the quote at its start is not closed: end it with a '"', too`)
		}
		text = text[1 : len(text)-1]
	}
	unit, rest, ok := cutUnit(text)
	if !ok {
		return Spec{}, errors.New("no number of a device: write vecN:transport=... with N from 0 on")
	}
	rest = unquoteOptions(rest)
	spec := Spec{Unit: unit}
	for rest != "" {
		if rest[0] == ',' { // an empty option, which a kernel skips
			rest = rest[1:]
			continue
		}
		end := strings.IndexAny(rest, "=,")
		if end < 0 || rest[end] == ',' {
			word, _, _ := strings.Cut(rest, ",")
			return Spec{}, fmt.Errorf("a kernel drops the option %q, as it has no value: write %s=VALUE or leave it out", word, word)
		}
		o := Option{Key: rest[:end]}
		if !slices.Contains(optionNames, o.Key) {
			return Spec{}, fmt.Errorf("no kernel knows the option %q: write one of %s", o.Key, strings.Join(optionNames, " "))
		}
		o.Value, rest = cutValue(o.Key, rest[end+1:])
		spec.Options = append(spec.Options, o)
	}
	switch transport, ok := spec.Get("transport"); {
	case !ok:
		return Spec{}, fmt.Errorf("transport= is missing: write vec%d:transport=vde,vnl=VNL", unit)
	case hasStrayQuote(transport):
		return Spec{}, fmt.Errorf("a quote is out of place in transport=%s: quote all of vec%d:transport=vde,vnl=VNL for the shell", transport, unit)
	}
	return spec, nil
}

func hasStrayQuote(transport string) bool { return strings.ContainsAny(transport, `"'\`) }

// unquoteOptions takes off the quotes around all that follows the first '=':
// transport="vde,vnl=...". They are not those if the first value's own end there.
func unquoteOptions(text string) string {
	start := strings.IndexByte(text, '=') + 1
	if start == 0 || !strings.HasPrefix(text[start:], `"`) {
		return text
	}
	end := start + 1 + closing(text[start+1:], '"')
	if end != len(text)-1 || end == start {
		return text
	}
	return text[:start] + text[start+1:end]
}

// cutValue cuts the value of an option off the front of text, and the comma
// behind it.
func cutValue(key, text string) (value, rest string) {
	end := strings.IndexByte(text, ',')
	if key == "vnl" || key == "descr" {
		end = nextOption(text)
	}
	if key == "vnl" && text != "" && isQuote(text[0]) {
		if i := closing(text[1:], text[0]); i >= 0 {
			end = i + 2
		}
	}
	if end < 0 {
		end = len(text)
	}
	value, rest = unquote(text[:end]), strings.TrimPrefix(text[end:], ",")
	if key == "vnl" {
		value = decode(value)
	}
	return value, rest
}

// closing is the index in text of the first quote that ends a value, -1 if
// there is none.
func closing(text string, quote byte) int {
	for i := range len(text) {
		if text[i] == quote && (i == len(text)-1 || startsOption(text[i+1:])) {
			return i
		}
	}
	return -1
}

// nextOption is the index in text of the first comma behind which an option
// starts, -1 if there is none.
func nextOption(text string) int {
	for i := range len(text) {
		if startsOption(text[i:]) {
			return i
		}
	}
	return -1
}

func startsOption(text string) bool {
	if !strings.HasPrefix(text, ",") {
		return false
	}
	name, _, ok := strings.Cut(text[1:], "=")
	return ok && slices.Contains(optionNames, name)
}

// String gives the argument back so that [Parse] understands the same. A kernel
// does, too, with the VNL encoded for [CleanVNL], unless a value begins with a
// quote or holds '"', or one that is not the VNL holds '=' or ','.
func (s Spec) String() string {
	var b strings.Builder
	space := false
	for i, o := range s.Options {
		if i > 0 {
			b.WriteByte(',')
		}
		value := o.Value
		if o.Key == "vnl" {
			value = encode(value)
		}
		space = space || hasSpace(value)
		if value != "" && isQuote(value[0]) { // or Parse would take it for quoted
			q := string('"' ^ '\'' ^ rune(value[0]))
			value = q + value + q
		}
		b.WriteString(o.Key + "=" + value)
	}
	arg := "vec" + strconv.Itoa(s.Unit) + ":" + b.String()
	if space {
		arg = `"` + arg + `"`
	}
	return arg
}
