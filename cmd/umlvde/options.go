package main

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/pflag"
)

// plugOptions are the options of vde_plug(1) and its operands.
type plugOptions struct {
	descr   string // "" if not given
	verbose bool
	daemon  bool
	pidfile string
	log     bool
	ipLog   bool
	login   login         // what -c says
	ends    [2]endOptions // of the first and the second VNL
	vnls    []string
	command []string // what follows a lone "=", with its arguments
}

// endOptions are those that vde_plug has once for either VNL.
type endOptions struct {
	port  port
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

// port is that of a switch on the command line, 0 for any.
type port int

func (p *port) String() string { return strconv.Itoa(int(*p)) }
func (p *port) Type() string   { return "PORT" }

func (p *port) Set(s string) error {
	v, err := strconv.ParseInt(s, 10, 32) // decimal, and an int in C, as for vde_plug
	if err != nil || v < 0 {
		return fmt.Errorf("%q is not a port of a switch", s)
	}
	*p = port(v)
	return nil
}

const plugUsage = `usage: %[1]s [OPTIONS] VNL VNL              a cable between two networks
       %[1]s [OPTIONS] [VNL] = COMMAND...   the same, to the network that COMMAND joins
       %[1]s [OPTIONS] [VNL]                frames on standard input and output
       %[1]s [OPTIONS] seqpacket://FD [VNL] serves a User-Mode Linux guest

A VNL names a network: tap://NAME, slirp://, vde:///PATH, vxvde://GROUP ...; without
one, or with '', it is your default switch. COMMAND speaks frames on its standard
input and output, as in: %[1]s vde:///tmp/switch = ssh HOST vde_plug tap://NAME
UML starts this program for vecN:transport=vde,vnl=VNL when it finds it in PATH as
vde_plug.
`

const moreUsage = `
  umlvde run LINUX ARGS...   starts a UML kernel, any since 5.4, with its vecN:transport=vde
  umlvde listen PATH VNL     serves UML guests over vecN:transport=bess,dst=PATH
  umlvde version             the version, the VDE library and the plugins found
`

// parsePlugOptions reads the command line of vde_plug.
func parsePlugOptions(name string, args []string, stdout io.Writer) (*plugOptions, error) {
	o := &plugOptions{}
	fs := newFlagSet(name)
	fs.BoolVarP(&o.daemon, "daemon", "d", false, "go on in the background, once the networks are joined")
	fs.StringVarP(&o.pidfile, "pidfile", "p", "", "write the process id to `FILE`, until the end")
	fs.BoolVarP(&o.log, "log", "l", false, "tell syslog of the start and of the end")
	fs.BoolVarP(&o.ipLog, "iplog", "L", false, "tell it of the IP addresses that come from the second end, too")
	fs.StringVarP(&o.descr, "descr", "D", "", "`DESCR`iption of the connection, as the switch shows it")
	for i, suffix := range []string{"", "2"} {
		e := &o.ends[i]
		which := [...]string{"first", "second"}[i]
		fs.Var(&e.port, "port"+suffix, "`PORT` of the switch that the "+which+" VNL names")
		fs.StringVarP(&e.group, "group"+suffix, [...]string{"g", "G"}[i], "", "`GROUP` that owns the data socket of the "+which+" VNL")
		fs.VarP(&e.mode, "mod"+suffix, [...]string{"m", "M"}[i], "octal permissions of the data socket of the "+which+" VNL")
	}
	fs.VarP(&o.login, "command", "c", "as a login shell; it must be vde_plug")
	fs.BoolVarP(&o.verbose, "verbose", "v", false, "tell when the link comes up, and count the frames at the end")
	more := ""
	if name != "vde_plug" {
		more = moreUsage
	}
	rest, err := o.operands(fs, args, stdout, fmt.Sprintf(plugUsage, name)+more)
	if err != nil {
		return nil, err
	}
	for i, word := range rest {
		if word == "=" && i < 2 {
			rest, o.command = rest[:i], rest[i+1:]
			if len(o.command) == 0 {
				return nil, usagef("no command follows the =")
			}
			break
		}
	}
	if len(rest) > 2 {
		return nil, usagef("%d VNLs are too many for a cable with two ends: %s", len(rest), strings.Join(rest, " "))
	}
	o.vnls = rest
	return o, nil
}

// operands parses args and returns the words that are no options, which may come
// in between. What follows a lone "=" belongs to the command, even if it looks
// like an option.
func (o *plugOptions) operands(fs *pflag.FlagSet, args []string, stdout io.Writer, usage string) (words []string, err error) {
	fs.SetInterspersed(false)
	for {
		if err := parse(fs, args, stdout, usage); err != nil {
			return nil, err
		}
		args = fs.Args()
		if len(args) == 0 || fs.ArgsLenAtDash() >= 0 || args[0] == "=" && len(words) < 2 {
			return append(words, args...), nil
		}
		words, args = append(words, args[0]), args[1:]
	}
}

func newFlagSet(name string) *pflag.FlagSet {
	fs := pflag.NewFlagSet(name, pflag.ContinueOnError)
	fs.SortFlags = false
	fs.Usage = func() {} // parse prints it, on stdout and only when asked
	fs.SetOutput(io.Discard)
	return fs
}

// parse parses args; --help prints usage and the options on stdout and returns
// pflag.ErrHelp. As with getopt_long(3), an option's name may be cut short.
func parse(fs *pflag.FlagSet, args []string, stdout io.Writer, usage string) error {
	if fs.Lookup("help") == nil { // else it parses what is left
		fs.BoolP("help", "h", false, "print this and exit")
	}
	var names []string
	fs.VisitAll(func(f *pflag.Flag) { names = append(names, f.Name) })
	fs.SetNormalizeFunc(func(_ *pflag.FlagSet, name string) pflag.NormalizedName {
		if full := completions(names, name); len(full) == 1 {
			name = full[0]
		}
		return pflag.NormalizedName(name)
	})
	if err := fs.Parse(args); err != nil {
		var unknown *pflag.NotExistError
		if errors.As(err, &unknown) {
			if full := completions(names, unknown.GetSpecifiedName()); len(full) > 1 {
				err = fmt.Errorf("--%s is ambiguous: --%s", unknown.GetSpecifiedName(), strings.Join(full, " or --"))
			}
		}
		return usageError{err}
	}
	if help, err := fs.GetBool("help"); err == nil && help {
		fmt.Fprintf(stdout, "%s\n%s", usage, fs.FlagUsages())
		return pflag.ErrHelp
	}
	return nil
}

// completions lists the names that begin with part, or the one that is it.
func completions(names []string, part string) (full []string) {
	if slices.Contains(names, part) {
		return []string{part}
	}
	for _, name := range names {
		if strings.HasPrefix(name, part) {
			full = append(full, name)
		}
	}
	return full
}
