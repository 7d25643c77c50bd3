// Package uml reads and rewrites the command lines of User-Mode Linux kernels.
package uml

import (
	"fmt"
	"slices"
	"strings"
)

// A Spec is one vecN: argument of a kernel, such as
// vec0:transport=vde,vnl=slirp://,mac=02:00:00:00:00:01.
type Spec struct {
	Unit    int // N
	Options []Option
}

// An Option is one key=value of a Spec.
type Option struct{ Key, Value string }

// keys are the options that the vector drivers know (vector_kern.c and
// vector_user.c under arch/um/drivers, Linux 4.17 to 7.2).
var keys = []string{
	"transport",
	"vnl", "descr", "port", "mode", "group",
	"mac", "mtu", "depth", "headroom", "vec", "gro", "bpffile", "bpfflash",
	"fd", "dst", "src", "ifname", "srcport", "dstport",
	"v6", "udp", "key", "rx_key", "tx_key", "sequence", "pin_sequence",
	"cookie64", "counter", "pincounter", "rx_cookie", "tx_cookie",
	"rx_session", "tx_session",
}

// Get returns the value of the first option named key, as the kernel does.
func (s Spec) Get(key string) (value string, ok bool) {
	for _, o := range s.Options {
		if o.Key == key {
			return o.Value, true
		}
	}
	return "", false
}

// Is says that the Spec's transport is name, which a kernel recognises by
// prefix (get_vector_user: "vdefoo" is vde).
func (s Spec) Is(name string) bool {
	transport, _ := s.Get("transport")
	return strings.HasPrefix(transport, name)
}

// String returns the argument, without quotes.
func (s Spec) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "vec%d:", s.Unit)
	for i, o := range s.Options {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(o.Key + "=" + o.Value)
	}
	return b.String()
}

// Parse reads one argument of a kernel; ok says that it is a vecN: one at all.
//
// A kernel ends a value at each comma and gives up at a second '='
// (uml_parse_vector_ifspec). Here a value may hold any character: a comma ends
// it only where the name of an option and '=' follow. What a kernel
// understands is understood the same, and so are the quotes that it strips:
// around the whole argument, or around all that follows the first '='.
func Parse(arg string) (spec Spec, ok bool, err error) {
	unit, rest, ok := cutUnit(unquote(arg))
	if !ok {
		return Spec{}, false, nil
	}
	spec.Unit = unit
	// next_arg in the kernel's lib/cmdline.c strips these.
	if key, value, found := strings.Cut(rest, "="); found {
		rest = key + "=" + unquote(value)
	}
	for rest != "" {
		key, value, found := strings.Cut(rest, "=")
		if !found || !slices.Contains(keys, key) {
			return Spec{}, true, fmt.Errorf("%s: %q is not an option of a vector device", arg, firstWord(rest))
		}
		end := valueEnd(value)
		spec.Options = append(spec.Options, Option{key, value[:end]})
		rest = strings.TrimPrefix(value[end:], ",")
	}
	return spec, true, nil
}

// valueEnd returns where a value ends: at the comma before the next option, or
// at the end of the text.
func valueEnd(text string) int {
	for i := range len(text) {
		if text[i] != ',' {
			continue
		}
		if key, _, found := strings.Cut(text[i+1:], "="); found && slices.Contains(keys, key) {
			return i
		}
	}
	return len(text)
}

func firstWord(text string) string {
	word, _, _ := strings.Cut(text, ",")
	return word
}

// unquote strips a pair of double quotes around text.
func unquote(text string) string {
	if len(text) >= 2 && text[0] == '"' && text[len(text)-1] == '"' {
		return text[1 : len(text)-1]
	}
	return text
}
