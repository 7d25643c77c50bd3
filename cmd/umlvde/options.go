package main

import (
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/spf13/pflag"
)

// plugOptions are the options of vde_plug(1) that this program has, and its
// operands.
type plugOptions struct {
	descr   string
	verbose bool
	ends    [2]endOptions // of the first and the second VNL
	vnls    []string
}

// endOptions are those that vde_plug has once for either VNL.
type endOptions struct {
	port  int
	group string
	mode  octal
}

// octal is a file mode on the command line.
type octal uint32

func (m *octal) String() string { return strconv.FormatUint(uint64(*m), 8) }
func (m *octal) Type() string   { return "MODE" }

func (m *octal) Set(s string) error {
	v, err := strconv.ParseUint(s, 8, 12)
	if err != nil {
		return fmt.Errorf("%q is not an octal mode such as 0700", s)
	}
	*m = octal(v)
	return nil
}

const plugUsage = `usage: %[1]s [OPTIONS] seqpacket://FD [VNL]

Joins a User-Mode Linux guest, whose socket is the descriptor FD, and the
network that VNL names (tap://NAME, slirp://, vde:///PATH, cmd://COMMAND ...;
without one, your default switch). UML starts this program for
vecN:transport=vde,vnl=VNL when it finds it in PATH as vde_plug.
`

const moreUsage = `
  umlvde run LINUX ARGS...   starts a UML kernel, any since 5.4, with its vecN:transport=vde
  umlvde listen PATH VNL     serves UML guests over vecN:transport=bess,dst=PATH
  umlvde version             the version, the VDE library and the plugins found
`

// parsePlugOptions reads the command line of vde_plug.
func parsePlugOptions(name string, args []string, stdout io.Writer) (*plugOptions, error) {
	o := &plugOptions{descr: "vdeplug"}
	fs := newFlagSet(name)
	fs.StringVarP(&o.descr, "descr", "D", o.descr, "`DESCR`iption of the connection, as the switch shows it")
	for i, suffix := range []string{"", "2"} {
		e := &o.ends[i]
		which := [...]string{"first", "second"}[i]
		fs.IntVar(&e.port, "port"+suffix, 0, "`PORT` of the switch that the "+which+" VNL names")
		fs.StringVarP(&e.group, "group"+suffix, [...]string{"g", "G"}[i], "", "`GROUP` that owns the data socket of the "+which+" VNL")
		fs.VarP(&e.mode, "mod"+suffix, [...]string{"m", "M"}[i], "octal permissions of the data socket of the "+which+" VNL")
	}
	fs.BoolVarP(&o.verbose, "verbose", "v", false, "tell when the link comes up, and count the frames at the end")
	more := ""
	if name != "vde_plug" {
		more = moreUsage
	}
	if err := parse(fs, args, stdout, fmt.Sprintf(plugUsage, name)+more); err != nil {
		return nil, err
	}
	for _, e := range o.ends {
		if e.port < 0 {
			return nil, usagef("%d is not a port of a switch", e.port)
		}
	}
	o.vnls = fs.Args()
	return o, nil
}

func newFlagSet(name string) *pflag.FlagSet {
	fs := pflag.NewFlagSet(name, pflag.ContinueOnError)
	fs.SortFlags = false
	fs.Usage = func() {} // parse prints it, on stdout and only when asked
	fs.SetOutput(io.Discard)
	return fs
}

// parse parses args; --help prints usage and the options on stdout and returns
// pflag.ErrHelp.
func parse(fs *pflag.FlagSet, args []string, stdout io.Writer, usage string) error {
	help := fs.BoolP("help", "h", false, "print this and exit")
	if err := fs.Parse(args); err != nil {
		return usageError{err}
	}
	if *help {
		fmt.Fprintf(stdout, "%s\n%s", usage, strings.ReplaceAll(fs.FlagUsages(), " string ", " "))
		return pflag.ErrHelp
	}
	return nil
}
