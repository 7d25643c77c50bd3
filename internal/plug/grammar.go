package plug

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// A grammar is how a plugin's VNLs are written. The plugins themselves print
// what they do not know, silently take 0 for what is no number, cut what is too
// long or crash, so a VNL is looked at before they get it.
type grammar struct {
	form   string // as a message shows it
	mark   byte   // '[': parameters are in brackets; '/': each has a slash before it; 0: there are none
	params params
	base   func(base string) error // of what comes before the parameters; nil: anything goes
}

// params are a plugin's parameters, in the order in which it tries them: the
// first one that begins with what is given is meant, as in "m=0700".
type params []param

type param struct {
	name  string
	check func(value string) error // nil: anything goes
}

// marks is the mark, or 0 if nothing is known.
func (g *grammar) marks() byte {
	if g == nil {
		return 0
	}
	return g.mark
}

// check says what is wrong with a VNL.
func (g *grammar) check(v VNL) error {
	if g == nil {
		return nil
	}
	fault := func(err error) error { return &grammarError{err, g.form} }
	base, elems := elements(v.outside(), g.mark)
	if g.mark == '/' && strings.ContainsAny(base, "=[") {
		return fault(fmt.Errorf("each parameter needs a slash before it: %q", base))
	}
	if g.base != nil {
		if err := g.base(base); err != nil {
			return fault(err)
		}
	}
	for _, e := range elems {
		name, value, has := strings.Cut(e, "=")
		p, known := g.params.find(name)
		switch {
		case name == "", !known && !has && g.params.positional():
		case !known:
			return fault(fmt.Errorf("there is no parameter %q", name))
		case p.check != nil:
			if err := p.check(value); err != nil {
				return fault(fmt.Errorf("%s=%s: %w", p.name, value, err))
			}
		}
	}
	return nil
}

// A grammarError says what is wrong with a VNL, and what a right one looks like.
type grammarError struct {
	why  error
	form string
}

func (e *grammarError) Error() string { return fmt.Sprintf("%v (it is written %s)", e.why, e.form) }

// Unwrap gives the cause and what the library would say, if it saw the VNL.
func (e *grammarError) Unwrap() []error { return []error{e.why, unix.EINVAL} }

func (ps params) find(name string) (param, bool) {
	for _, p := range ps {
		if strings.HasPrefix(p.name, name) {
			return p, true
		}
	}
	return param{}, false
}

// positional says that a parameter may be given without its name.
func (ps params) positional() bool { return len(ps) > 0 && ps[0].name == "" }

// outside is the argument of a VNL without what is nested in it. To a plugin that
// does not nest, a brace is a letter.
func (v VNL) outside() string {
	if !table[v.Plugin].nests {
		return v.Arg
	}
	arg, _, _ := strings.Cut(v.Arg, "{")
	return arg
}

// elements cuts the argument of a VNL, without what is nested, into what comes
// before the parameters and the parameters (vde_parseparms and
// vde_parsepathparms in parseparms.c).
func elements(arg string, mark byte) (base string, elems []string) {
	switch mark {
	case '/':
		words := cut(arg, '/')
		return words[0], words[1:]
	case '[':
		words := cut(arg, '[')
		base = words[0]
		if path, err := url.PathUnescape(base); err == nil {
			base = path
		}
		if len(words) == 1 {
			return base, nil
		}
		return base, cut(cut(words[1], ']')[0], '/')
	}
	return arg, nil
}

// cut cuts a text at each mark that no quote or backslash protects, and takes
// those away (strtokq_r).
func cut(s string, mark byte) []string {
	var words []string
	var word []byte
	var quote byte
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case quote == '\\':
			word, quote = append(word, c), 0
		case quote != 0 && c == quote:
			quote = 0
		case quote != 0:
			word = append(word, c)
		case c == '\'' || c == '"' || c == '\\':
			quote = c
		case c == mark:
			words, word = append(words, string(word)), nil
		default:
			word = append(word, c)
		}
	}
	return append(words, string(word))
}

// between makes a check for whole numbers.
func between(low, high int) func(string) error {
	return func(s string) error {
		if n, err := strconv.Atoi(s); err != nil || n < low || n > high {
			return fmt.Errorf("it must be a number from %d to %d", low, high)
		}
		return nil
	}
}

func octal(s string) error {
	if _, err := strconv.ParseUint(s, 8, 12); err != nil {
		return errors.New("it must be an octal mode such as 0700")
	}
	return nil
}

func size(s string) error {
	if _, err := strconv.ParseUint(strings.TrimRight(s, "kKmMgG"), 0, 31); err != nil {
		return errors.New("it must be a number of bytes such as 256k")
	}
	return nil
}

func group(s string) error {
	if _, err := strconv.ParseUint(s, 10, 32); err == nil {
		return nil
	}
	if _, err := user.LookupGroup(s); err != nil {
		return errors.New("there is no such group")
	}
	return nil
}

func netif(s string) error {
	if _, err := net.InterfaceByName(s); err != nil {
		return errors.New("there is no such network interface")
	}
	return nil
}

func ipv4(s string) error { return address(s, netip.Addr.Is4) }
func ipv6(s string) error { return address(s, netip.Addr.Is6) }

func address(s string, kind func(netip.Addr) bool) error {
	text, bits, _ := strings.Cut(s, "/")
	a, err := netip.ParseAddr(text)
	if err != nil || !kind(a) {
		return errors.New("it is no address of the kind that is needed")
	}
	if _, err := strconv.ParseUint(bits, 10, 7); bits != "" && err != nil {
		return errors.New("the prefix length is no number")
	}
	return nil
}

// multicast checks the group of a vxlan or vxvde: "" is the plugin's own.
func multicast(s string) error {
	if a, err := netip.ParseAddr(s); err == nil {
		if !a.IsMulticast() {
			return fmt.Errorf("%s is not a multicast address", s)
		}
		return nil
	}
	if s == "" {
		return nil
	}
	if _, err := net.LookupHost(s); err != nil {
		return err
	}
	return nil
}

// forwards checks slirp's list of [ADDRESS:]PORT:ADDRESS:PORT.
func forwards(s string) error {
	port := between(1, 65535)
	for _, item := range strings.Split(s, ",") {
		f := strings.Split(item, ":")
		if len(f) == 3 {
			f = append([]string{""}, f...)
		}
		if len(f) != 4 || f[0] != "" && ipv4(f[0]) != nil || port(f[1]) != nil || ipv4(f[2]) != nil || port(f[3]) != nil {
			return fmt.Errorf("%q is not [ADDRESS:]PORT:GUEST:PORT", item)
		}
	}
	return nil
}

// tags checks vlan's list of tags, "10.20-30:40".
func tags(s string) error {
	for _, item := range strings.FieldsFunc(s, func(r rune) bool { return r == '.' || r == ':' }) {
		from, to, remap := strings.Cut(item, "-")
		if vlanID(from) != nil || remap && vlanID(to) != nil {
			return fmt.Errorf("%q is not a VLAN from 2 to 4094, or two with a - between", item)
		}
	}
	return nil
}

func vlanID(s string) error {
	if n, err := strconv.ParseUint(s, 0, 12); err != nil || n < 2 || n > 4094 {
		return errors.New("it must be a VLAN from 2 to 4094")
	}
	return nil
}

// untagged checks vlan's number, which may be missing.
func untagged(s string) error {
	if s == "" || s == "0" || s == "0xfff" || s == "4095" {
		return nil
	}
	if err := vlanID(s); err != nil {
		return fmt.Errorf("%q is not a VLAN from 2 to 4094", s)
	}
	return nil
}

func ethtype(s string) error {
	switch s {
	case "copy", "ipv4", "ipv6", "rand":
		return nil
	}
	if n, err := strconv.ParseUint(s, 0, 16); err != nil || n < 0x600 || n == 0xffff {
		return errors.New("it must be copy, ipv4, ipv6, rand or a number from 0x600")
	}
	return nil
}

// sunPath is what the address of a unix socket holds, without the final 0.
const sunPath = 107

// longest makes a check for the path of a directory or socket to which the
// plugin appends up to extra bytes, and cuts what becomes too long.
func longest(extra int) func(string) error {
	return func(path string) error {
		full := path
		// The plugins resolve a directory's path; of what is yet to be made, its parent's.
		if p, err := filepath.EvalSymlinks(path); err == nil {
			full = p
		} else if p, err := filepath.EvalSymlinks(filepath.Dir(path)); err == nil {
			full = filepath.Join(p, filepath.Base(path))
		}
		if abs, err := filepath.Abs(full); err == nil && path != "" {
			full = abs
		}
		if n := len(full) + extra; n > sunPath {
			return fmt.Errorf("the path is too long: it has %d bytes, and may have %d: %s", len(full), sunPath-extra, full)
		}
		return nil
	}
}

// switchPath leaves room for the socket that vde binds beside ctl: "/.PID-00000".
func switchPath(path string) error {
	return longest(len("/.-00000") + max(5, len(strconv.Itoa(os.Getpid()))))(path)
}

func tapName(s string) error {
	if len(s) > 15 || strings.ContainsAny(s, "/ ") {
		return fmt.Errorf("%q is not the name of an interface: that has up to 15 characters", s)
	}
	return nil
}

// cable checks udp's [HOST:]PORT->HOST:PORT.
func cable(s string) error {
	src, dst, ok := strings.Cut(s, "->")
	if !ok {
		return errors.New("it has no -> between the two ends")
	}
	for _, end := range []string{src, dst} {
		port := end[strings.LastIndex(end, ":")+1:]
		if _, err := net.LookupPort("udp", port); port == "" || err != nil {
			return fmt.Errorf("%q has no port", end)
		}
	}
	if !strings.Contains(dst, ":") {
		return fmt.Errorf("%q has no host", dst)
	}
	return nil
}

func notEmpty(s string) error {
	if s == "" {
		return errors.New("something is missing")
	}
	return nil
}

func keyFile(s string) error {
	if s != "" && s[0] != '/' && s[0] != '~' {
		return fmt.Errorf("the path of the key must begin with / or ~: %q", s)
	}
	return nil
}

func speed(s string) error {
	for _, known := range strings.Fields("9600 19200 38400 57600 115200 230400 460800 500000 576000 921600 " +
		"1000000 1152000 1500000 2000000 2500000 3000000 3500000 4000000") {
		if s == known {
			return nil
		}
	}
	return errors.New("it is not a speed of serial lines, such as 115200")
}
