package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"sync/atomic"
	"time"

	"github.com/umlvde/umlvde/internal/guard"
	"github.com/umlvde/umlvde/internal/plug"
	"github.com/umlvde/umlvde/internal/relay"
	"golang.org/x/sys/unix"
)

// openTime is how long a plug may take to open before the user is told. It may never
// return: vde's does not if the switch has no such port.
const openTime = 2 * time.Second

// closeTime is how long a plug may take to close before the process ends without
// it. A command may need its time.
const closeTime = 3 * time.Second

// A cableEnd is one of the two plugs of a cable.
type cableEnd struct {
	plug.Plug
	name string // as the user gave it
}

// cable joins two networks, or a network and a command or the standard input and
// output, in this process: there is no guest to be protected. It ends when
// either end does.
func cable(o *plugOptions, stderr io.Writer, log *sysLog, end *ending, bg *background) error {
	stream := len(o.vnls) < 2 && o.command == nil
	if stream {
		if err := checkStream(o.daemon); err != nil {
			return err
		}
	}
	end.onSignal()
	first, err := openEnd(o, 0, stderr, end)
	if err != nil {
		return err
	}
	second := cableEnd{name: "standard input and output"}
	switch {
	case stream:
		second.Plug = plug.NewStream(standardInput(), 1)
	case o.command != nil:
		second.name = o.command[0]
		if second.Plug, err = plug.Command(o.command); err != nil {
			return fmt.Errorf("%s: %w", second.name, err)
		}
		end.closes(second)
	default:
		if second, err = openEnd(o, 1, stderr, end); err != nil {
			return err
		}
	}
	if o.ipLog {
		second.Plug = &ipLog{Plug: second.Plug, log: log}
	}
	var (
		up, down relay.Counters
		progress atomic.Uint64
		busy     atomic.Uint32
	)
	r, err := relay.New(first, second, second.MaxFrame(), first.MaxFrame(), &up, &down,
		relay.Monitor{Progress: &progress, Busy: &busy})
	if err != nil {
		return err
	}
	r.Patient()
	if err := bg.stays(); err != nil {
		return err
	}
	if err := r.Alone(); err != nil {
		return err
	}
	if err := o.settle(end, bg); err != nil {
		return err
	}
	end.stops(r)
	if o.verbose {
		fmt.Fprintf(stderr, "%s and %s are joined\n", first.name, second.name)
	}
	err = r.Run()
	if o.verbose {
		u, d := up.Totals(), down.Totals()
		fmt.Fprintf(stderr, "%s to %s %v; back %v\n", first.name, second.name, &u, &d)
	}
	return whichEnd(err, first.name, second.name, stream)
}

// whichEnd makes of the relay's end that of the program.
func whichEnd(err error, first, second string, stream bool) error {
	name := second
	var guest *relay.GuestError
	switch {
	case errors.Is(err, relay.ErrStopped), errors.Is(err, plug.ErrDone):
		return nil
	case errors.As(err, &guest):
		name, err = first, guest.Err
	case err == io.EOF && stream: //nolint:errorlint // a bare one says nothing more
		return nil
	}
	if err == io.EOF { //nolint:errorlint // as above
		err = errors.New("the network has closed the connection")
	}
	return fmt.Errorf("%s: %w", name, err)
}

// openEnd opens VNL i of the command line.
func openEnd(o *plugOptions, i int, stderr io.Writer, end *ending) (e cableEnd, err error) {
	text := ""
	if i < len(o.vnls) {
		text = o.vnls[i]
	}
	e.name = guard.Show(text)
	vnl, err := plug.Resolve(text)
	if err == nil {
		opts := plug.Options{Descr: o.descr, Port: int(o.ends[i].port), Group: o.ends[i].group, Mode: fs.FileMode(o.ends[i].mode)}
		if opts.Descr == "" {
			opts.Descr = "vdeplug:" // as the C program calls itself
		}
		told := make(chan struct{})
		slow := time.AfterFunc(openTime, func() {
			fmt.Fprintf(stderr, "%s: the plugin does not return from opening it; waiting\n", e.name)
			close(told)
		})
		e.Plug, err = plug.Open(vnl, opts)
		if !slow.Stop() {
			<-told
		}
	}
	if err != nil {
		return e, fmt.Errorf("%s: %w", e.name, err)
	}
	end.closes(e)
	return e, nil
}

// checkStream refuses to write frames to a terminal, and into nothing.
func checkStream(daemon bool) error {
	const instead = "name a second VNL, or a command after ="
	switch {
	case daemon:
		return usagef("a daemon has no standard input and output for the frames: " + instead)
	case isTerminal(1):
		return usagef("frames are not for a terminal: " + instead + ", or use a pipe, as dpipe does")
	}
	return nil
}

// standardInput is the descriptor of frames, or -1: what is typed is no frame.
func standardInput() int {
	if isTerminal(0) {
		return -1
	}
	return 0
}

func isTerminal(fd int) bool {
	_, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	return err == nil
}
