package uml

import (
	"fmt"
	"slices"
	"strings"
)

// maxSocketPath is the longest path of a socket in bytes (sun_path, less its
// final NUL).
const maxSocketPath = 107

// A Link is what a vecN:transport=vde,... asks for. Descr, Port, Mode and Group
// are the text given, "" if none.
type Link struct {
	Unit                     int    // the N of vecN
	VNL                      string // as by [CleanVNL]; "" is the user's default switch
	Descr, Port, Mode, Group string
	Limit                    int // the longest frame that the guest takes, bytes
}

// kept are the options that mean the same to another transport.
var kept = []string{"mac", "mtu", "depth", "headroom", "vec", "gro", "bpffile", "bpfflash"}

// numeric are those of which a kernel ignores what is no number.
var numeric = []string{"mtu", "depth", "headroom", "vec", "gro", "bpfflash"}

// Rewrite replaces transport=vde in the arguments of a UML kernel (its name may
// be among them) by transport=bess, to which kernels since 5.4 connect at each
// ifup, at the socket that sock names for a unit, and returns what was asked
// for. All else stays as it is: other arguments, other transports, and what
// follows "--", which is for init.
//
// An error names the argument and tells what to write instead.
func Rewrite(args []string, sock func(unit int) string) (newArgs []string, links []Link, err error) {
	isVDE := make(map[int]bool) // of each unit so far
	for len(args) > 0 && args[0] != "--" {
		n := wordLen(args)
		words, arg := args[:n], strings.Join(args[:n], " ")
		args = args[n:]
		if isVector(arg) {
			spec, err := read(arg)
			if err != nil {
				return nil, nil, err
			}
			vde := spec.Is("vde")
			if other, seen := isVDE[spec.Unit]; seen && (vde || other) {
				return nil, nil, fmt.Errorf("%q: there is a vec%d already: give each device a number of its own", arg, spec.Unit)
			}
			isVDE[spec.Unit] = vde
			if vde {
				word, err := spec.bess(sock(spec.Unit))
				if err != nil {
					return nil, nil, fmt.Errorf("%q: %w", arg, err)
				}
				words, links = []string{word}, append(links, spec.link())
			}
		}
		newArgs = append(newArgs, words...)
	}
	return append(newArgs, args...), links, nil
}

// isVector tells whether a kernel would take arg for a vecN:...
func isVector(arg string) bool {
	name, ok := strings.CutPrefix(strings.TrimPrefix(arg, `"`), "vec")
	end := strings.IndexAny(name, ":=")
	return ok && end >= 0 && (name[end] == ':' || end > 0 && strings.Trim(name[:end], "0123456789") == "")
}

// wordLen is the number of arguments that are one word for a kernel: several
// if a shell has split what stands between quotes meant for the kernel, as in
// vec0:transport=\"vde,vnl=cmd://ssh host //bin/x\".
func wordLen(args []string) int {
	start := strings.IndexByte(args[0], '"')
	if !isVector(args[0]) || start > 0 && (args[0][start-1] != '=' || hasSpace(args[0][:start])) {
		return 1 // it has none, or one that is meant for the plugin
	}
	quotes := 0
	for i, arg := range args {
		if quotes += strings.Count(arg, `"`); quotes%2 == 0 {
			return i + 1
		}
	}
	return 1
}

// read reads an argument. For another transport than vde the kernel's own
// reading does: it may know options that we do not.
func read(arg string) (Spec, error) {
	word, rest := nextWord(arg)
	if spec, ok := kernelParse(word); ok && rest == "" {
		if transport, ok := spec.Get("transport"); ok && !spec.Is("vde") && !hasStrayQuote(transport) {
			return spec, nil
		}
	}
	return Parse(arg)
}

// bess is the argument for the same device over a socket.
func (s Spec) bess(sock string) (string, error) {
	if err := CheckSocket(sock); err != nil {
		return "", err
	}
	to := Spec{Unit: s.Unit, Options: []Option{{"transport", "bess"}, {"dst", sock}}}
	for _, o := range s.Options {
		if _, repeated := to.Get(o.Key); repeated || !slices.Contains(kept, o.Key) {
			continue
		}
		n, isNumber := number(o.Value)
		switch {
		case !kernelTakes(o.Value):
			return "", fmt.Errorf("a kernel cannot take %s=%q: write a value without spaces, '=', ',' and '\"'", o.Key, o.Value)
		case !isNumber && slices.Contains(numeric, o.Key):
			return "", fmt.Errorf("a kernel ignores %s=%s: write a number", o.Key, o.Value)
		case o.Key == "mtu" && (n < minMTU || n > maxMTU):
			return "", fmt.Errorf("a kernel ignores mtu=%d: write one of %d to %d bytes", n, minMTU, maxMTU)
		}
		to.Options = append(to.Options, o)
	}
	return to.String(), nil
}

// kernelTakes tells whether a kernel takes a value as it is.
func kernelTakes(value string) bool {
	return value != "" && !isQuote(value[0]) && !hasSpace(value) && !strings.ContainsAny(value, "=,\"\x00")
}

// CheckSocket says what is wrong with the path of a socket that a kernel is to
// connect to, for transport=bess,dst=PATH, if anything is.
func CheckSocket(path string) error {
	switch {
	case !kernelTakes(path):
		return fmt.Errorf("a kernel cannot connect to the socket %q: choose a path without spaces, '=', ',' and '\"'", path)
	case len(path) > maxSocketPath:
		return fmt.Errorf("the socket's path %q has %d bytes: choose one of at most %d", path, len(path), maxSocketPath)
	}
	return nil
}

func (s Spec) link() Link {
	l := Link{Unit: s.Unit, Limit: s.frameLimit()}
	l.VNL, _ = s.Get("vnl")
	l.Descr, _ = s.Get("descr")
	l.Port, _ = s.Get("port")
	l.Mode, _ = s.Get("mode")
	l.Group, _ = s.Get("group")
	return l
}
