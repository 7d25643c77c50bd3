package uml

import (
	"fmt"
	"strconv"
	"strings"
)

// A Link is what a vecN:transport=vde argument asks for; what it does not
// mention is empty.
type Link struct {
	Unit  int
	VNL   string // cleaned; "" is the user's default network
	Descr string
	Port  string
	Mode  string
	Group string
	Limit int // the longest frame that the guest takes, bytes
}

// maxPath is the longest path of a socket, in bytes (unix(7)).
const maxPath = 107

// Rewrite makes a command line that any UML kernel since 5.4 understands: each
// vecN:transport=vde becomes a vecN:transport=bess that connects to path(N),
// with its other options. Links says who has to be served there.
func Rewrite(args []string, path func(unit int) string) (argv []string, links []Link, err error) {
	seen := make(map[int]bool)
	for i, arg := range args {
		spec, isVec, err := Parse(arg)
		if i == 0 || !isVec || err == nil && !spec.Is("vde") {
			argv = append(argv, arg) // the kernel's program, or nothing of ours
			continue
		}
		if err != nil && !strings.Contains(arg, "vde") {
			argv = append(argv, arg) // the kernel may know better
			continue
		}
		if err == nil {
			arg, err = spec.toBess(path(spec.Unit))
		}
		if err != nil {
			return nil, nil, err
		}
		if seen[spec.Unit] {
			return nil, nil, fmt.Errorf("there are two vec%d", spec.Unit)
		}
		seen[spec.Unit] = true
		argv = append(argv, arg)
		links = append(links, spec.link())
	}
	return argv, links, nil
}

// toBess returns the argument for transport=bess.
func (s Spec) toBess(dst string) (string, error) {
	if len(dst) > maxPath || strings.ContainsAny(dst, ",= \t\"") {
		return "", fmt.Errorf("a kernel's command line cannot hold the path %q", dst)
	}
	out := Spec{Unit: s.Unit, Options: []Option{{"transport", "bess"}, {"dst", dst}}}
	for _, o := range s.Options {
		switch o.Key {
		case "mac", "mtu", "depth", "headroom", "vec", "gro", "bpffile", "bpfflash":
			if strings.ContainsAny(o.Value, ",= \t\"") {
				return "", fmt.Errorf("vec%d: %s=%s: no value of that kind can hold ',', '=' or a blank", s.Unit, o.Key, o.Value)
			}
			out.Options = append(out.Options, o)
		case "transport", "vnl", "descr", "port", "mode", "group":
		default:
			return "", fmt.Errorf("vec%d: transport=vde has no option %s=", s.Unit, o.Key)
		}
	}
	if v, ok := s.Get("mtu"); ok {
		if n, err := strconv.Atoi(v); err != nil || n < minMTU || n > maxMTU {
			return "", fmt.Errorf("vec%d: mtu=%s is not a number from %d to %d", s.Unit, v, minMTU, maxMTU)
		}
	}
	return out.String(), nil
}

func (s Spec) link() Link {
	l := Link{Unit: s.Unit, Limit: FrameLimit(s.size())}
	for key, field := range map[string]*string{
		"vnl": &l.VNL, "descr": &l.Descr, "port": &l.Port, "mode": &l.Mode, "group": &l.Group,
	} {
		*field, _ = s.Get(key)
	}
	l.VNL = CleanVNL(l.VNL)
	return l
}
