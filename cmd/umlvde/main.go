// Command umlvde connects User-Mode Linux guests to Virtual Distributed
// Ethernet. Under the name vde_plug it is the helper that a UML kernel starts
// for vecN:transport=vde,vnl=...
package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/spf13/pflag"
	"github.com/umlvde/umlvde/internal/guard"
	"github.com/umlvde/umlvde/internal/worker"
)

// Exit statuses.
const (
	exitOK      = 0
	exitFailure = 1
	exitUsage   = 2
)

// The main goroutine stays on the process's first thread at first: a worker has to
// speak for itself on that one (guard.Line.Opened). Children, which are told of the
// end of the thread that started them, may come from any: Go ends a thread only
// with a goroutine that was locked to it, which here is none but this.
func init() { runtime.LockOSThread() }

func main() {
	os.Exit(dispatch(os.Args, os.Stdout, os.Stderr))
}

// dispatch runs what args, with the program's name first, ask for.
func dispatch(args []string, stdout, stderr io.Writer) int {
	if len(args) > 0 && strings.HasPrefix(args[0], "-") { // as a login shell is called
		return exit(strings.TrimPrefix(args[0], "-"), errNoShell, stderr)
	}
	name, args := programName(args)
	if name != "vde_plug" && len(args) > 0 {
		switch args[0] {
		case guard.Command:
			return worker.Main()
		case keepCommand:
			return exit(name, keep(args[1:]), stderr)
		case "run":
			return exitOf(name, args[0], run(args[1:], stdout), stderr)
		case "listen":
			return exitOf(name, args[0], listen(args[1:], stdout), stderr)
		case "version", "--version":
			if len(args) > 1 {
				return exit(name, usagef("%s takes no arguments", args[0]), stderr)
			}
			return exit(name, printVersion(stdout), stderr)
		case daemonCommand:
			bg, argv, err := newBackground(args[1:])
			if err != nil {
				return exit(name, err, stderr)
			}
			return vdePlug(argv[0], argv[1:], stdout, bg, bg)
		}
	}
	return vdePlug(name, args, stdout, stderr, nil)
}

// vdePlug runs vde_plug to its end, and does what has to be done then.
func vdePlug(name string, args []string, stdout, stderr io.Writer, bg *background) int {
	var end ending
	err := plugMain(name, args, stdout, stderr, &end, bg)
	if bg == nil && (errors.As(err, new(usageError)) || errors.Is(err, pflag.ErrHelp)) { // of a daemon, the caller is told
		err = keepGuest(name, args, err)
	}
	end.run()
	return end.status(exit(name, err, stderr))
}

// programName is the name that the program was called by, and its arguments.
func programName(argv []string) (string, []string) {
	if len(argv) == 0 {
		return "umlvde", nil
	}
	return filepath.Base(argv[0]), argv[1:]
}

// usageError is a mistake on the command line.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

func usagef(format string, a ...any) error { return usageError{fmt.Errorf(format, a...)} }

// exit prints err, if there is one, in a line, and returns the exit status.
func exit(name string, err error, stderr io.Writer) int { return exitOf(name, "", err, stderr) }

// exitOf is exit for one of the program's commands.
func exitOf(name, command string, err error, stderr io.Writer) int {
	var (
		usage  usageError
		status exitStatus
	)
	switch {
	case err == nil, errors.Is(err, pflag.ErrHelp):
		return exitOK
	case errors.Is(err, errNoShell):
		if log, err := openSysLog("FAILED"); err == nil {
			log.close("")
		}
		fmt.Fprintln(stderr, errNoShell)
		return exitFailure
	case errors.As(err, &status): // that process has said why
		return int(status)
	case errors.As(err, &usage):
		help := strings.TrimSpace(name + " " + command)
		fmt.Fprintf(stderr, "%s: %v (%s --help tells more)\n", name, err, help)
		return exitUsage
	}
	fmt.Fprintf(stderr, "%s: %v\n", name, err)
	return exitFailure
}

// prefixed writes each text after the program's name.
type prefixed struct {
	io.Writer
	name string
}

func (p prefixed) Write(text []byte) (int, error) {
	return p.Writer.Write(append([]byte(p.name+": "), text...))
}
