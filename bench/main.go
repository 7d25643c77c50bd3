// Command bench compares umlvde with the C vde_plug, and with a small shuttle
// written in C for the purpose. It plays a UML guest, and whoever is at the
// other end of the cable, and drives the programs in turn, so that whatever
// else the machine does meets all of them alike: what counts are the ratios of
// measurements that were made one after the other.
//
//	go run ./bench [-quick] [-uml | -scale] [-rounds N] [-only REGEXP] [-write FILE]
//
// It needs root, and works in a network namespace of its own.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"regexp"
	"runtime"
	"runtime/debug"
	"syscall"
	"time"
)

// config is what the command line says.
type config struct {
	quick  bool
	uml    bool
	scale  bool
	rounds int
	during time.Duration
	idle   time.Duration
	only   *regexp.Regexp
	write  string
	umlvde string // the program
	dir    string // for sockets; set for the inner process
}

func main() {
	c, err := parseFlags(os.Args[1:])
	switch {
	case errors.Is(err, flag.ErrHelp):
		os.Exit(0)
	case err == nil && c.dir == "":
		err = outer()
	case err == nil:
		err = inner(c)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "bench: %v\n", err)
		os.Exit(1)
	}
}

func parseFlags(args []string) (c config, err error) {
	fs := flag.NewFlagSet("bench", flag.ContinueOnError)
	fs.BoolVar(&c.quick, "quick", false, "fewer and shorter measurements: under a minute")
	fs.BoolVar(&c.uml, "uml", false, "boot UML guests and measure TCP with iperf3 instead")
	fs.BoolVar(&c.scale, "scale", false, "measure up to 100 links at once instead")
	fs.IntVar(&c.rounds, "rounds", 0, "measure each program `N` times (default 7; quick: 3; UML: 5)")
	fs.DurationVar(&c.during, "time", 0, "how long one measurement takes (default 150ms; quick: 70ms; UML: 3s)")
	only := fs.String("only", "", "measure only what matches `REGEXP`, for instance 'socketpair 64 .* pinned'")
	fs.StringVar(&c.write, "write", "", "put the tables into their places in `FILE`, a Markdown document")
	fs.StringVar(&c.umlvde, "umlvde", "bin/umlvde", "the `PROGRAM` to measure")
	fs.StringVar(&c.dir, "inner", "", "of no use by hand: the directory of the inner process")
	if err = fs.Parse(args); err != nil {
		return c, err
	}
	set := func(quick, uml, full int) int {
		switch {
		case c.uml:
			return uml
		case c.quick:
			return quick
		}
		return full
	}
	if c.rounds <= 0 {
		c.rounds = set(3, 5, 7)
	}
	if c.during <= 0 {
		c.during = time.Duration(set(70, 3000, 150)) * time.Millisecond
	}
	c.idle = time.Duration(set(2, 10, 10)) * time.Second
	c.only, err = regexp.Compile(*only)
	return c, err
}

// outer starts this program again in a network namespace and with a directory
// of its own, of which nothing is left at the end.
func outer() error {
	dir, err := os.MkdirTemp("/tmp", "vdebench") // the paths of sockets are short
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	args := append([]string{"-inner", dir}, os.Args[1:]...)
	for _, f := range fars(dir) { // as if this were a UML kernel: umlvde finds the mtu= of its parent
		for _, id := range linkIDs() {
			args = append(args, fmt.Sprintf("vec0:transport=vde,vnl=%s,mtu=9000", f.vnl(id)))
		}
	}
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), "GOMAXPROCS=8", "GODEBUG=asyncpreemptoff=1") // a P for each player, and no signals
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGTERM}
	runtime.LockOSThread() // that Pdeathsig is about
	signal.Ignore(syscall.SIGINT)
	return cmd.Run()
}

// inner measures.
func inner(c config) error {
	interrupted := make(chan os.Signal, 1)
	signal.Notify(interrupted, syscall.SIGINT, syscall.SIGTERM)
	go func() {
		<-interrupted
		os.Exit(1) // the starter's end is that of all processes it started
	}()
	go starter()
	if err := network(); err != nil {
		return err
	}
	p, err := findPrograms(c)
	if err != nil {
		return err
	}
	r := newReport(c)
	switch {
	case c.uml:
		err = measureUML(c, p, r)
	case c.scale:
		err = measureScale(c, p, r)
	default:
		debug.SetGCPercent(-1) // between measurements only
		err = measureAll(c, p, r)
	}
	if err != nil {
		return err
	}
	return r.finish(p)
}

// queueLength is net.unix.max_dgram_qlen as systemd sets it at boot; a network
// namespace has the kernel's default of 10, at which a vde_switch loses most of
// what is sent through it.
const queueLength = "512"

// network prepares the network namespace.
func network() error {
	for file, text := range map[string]string{
		"/proc/sys/net/unix/max_dgram_qlen":            queueLength,
		"/proc/sys/net/ipv6/conf/default/disable_ipv6": "1", // no frames of the kernel's own
	} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil && !os.IsNotExist(err) {
			return err
		}
	}
	if err := run("ip", "link", "set", "lo", "multicast", "on", "up"); err != nil {
		return err
	}
	return run("ip", "route", "add", "224.0.0.0/4", "dev", "lo")
}
