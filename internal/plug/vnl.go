package plug

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// A VNL (Virtual Network Locator) names a network: "tap://tap0", "slirp://",
// "vde:///run/vde.ctl". This is the one parser of the project.
type VNL struct {
	Text   string // as vde_open is given it
	Plugin string // "vde" where the text names none
	Arg    string // what follows "://", or all of a bare path
}

// ParseVNL splits a VNL at its first "://", as libvdeplug does. It does not
// look at the file system: see [Resolve].
func ParseVNL(text string) VNL {
	if plugin, arg, ok := strings.Cut(text, "://"); ok {
		return VNL{Text: text, Plugin: plugin, Arg: arg}
	}
	return VNL{Text: text, Plugin: "vde", Arg: text}
}

// Resolve parses a VNL that a user gave. An empty one stands for the user's
// default network, ~/.vdeplug/default or else ~/.vde2/default.switch; a path of
// a regular file stands for the VNL in its first line (libvdeplug.c,
// vde_open_real, whose reader loses the line's last byte if it is not a
// newline; this one does not).
func Resolve(text string) (VNL, error) {
	if text == "" {
		text = defaultNetwork()
	}
	if strings.Contains(text, "://") {
		return ParseVNL(text), nil
	}
	if st, err := os.Stat(text); err != nil || !st.Mode().IsRegular() {
		return ParseVNL(text), nil
	}
	line, err := firstLine(text)
	if err != nil {
		return VNL{}, fmt.Errorf("the file that should hold the VNL: %w", err)
	}
	return ParseVNL(line), nil
}

func defaultNetwork() string {
	home := os.Getenv("HOME")
	if home == "" {
		return ""
	}
	for _, name := range []string{".vdeplug/default", ".vde2/default.switch"} {
		path := filepath.Join(home, name)
		if _, err := os.Stat(path); err == nil {
			return path
		}
	}
	return ""
}

func firstLine(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	in := bufio.NewScanner(f)
	in.Scan()
	return in.Text(), in.Err()
}

// base is the argument without the parameters and without what is nested in
// braces: the directory of a vde or hub VNL.
func (v VNL) base() string {
	t := table[v.Plugin]
	base, _ := elements(v.outside(), t.grammar.marks())
	if base == "" && t.unnamed != nil {
		return t.unnamed()
	}
	return base
}

// Innermost returns the VNL in the braces of v, and in the braces of that, and so
// on; v if it has none. A plugin that is not known may nest; what follows cmd:// is
// no VNL.
func (v VNL) Innermost() VNL {
	for v.Plugin != "cmd" {
		nested, _, err := v.split()
		if err != nil || nested == "" {
			break
		}
		inner, err := Resolve(nested)
		if err != nil {
			break // an open says it better
		}
		v = inner
	}
	return v
}

// Watch returns the path whose appearance makes a failed open worth another
// try, or "": the control socket of a switch, the socket of a ptp peer.
func (v VNL) Watch() string {
	base := v.base()
	switch {
	case v.Plugin == "vde" && base == "":
		return "/var/run/vde.ctl/ctl" // vde_vde_open's first guess
	case v.Plugin == "vde":
		return filepath.Join(base, "ctl")
	case v.Plugin == "ptp" && base != "":
		return base
	case table[v.Plugin].nests:
		if nested, _, err := v.split(); err == nil {
			return ParseVNL(nested).Watch()
		}
	}
	return ""
}
