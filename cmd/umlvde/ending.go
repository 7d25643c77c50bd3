package main

import (
	"fmt"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/umlvde/umlvde/internal/plug"
	"github.com/umlvde/umlvde/internal/relay"
	"golang.org/x/sys/unix"
)

// An ending is what has to be done before this process ends, be it by itself or
// by a signal.
type ending struct {
	mu    sync.Mutex
	todo  []func()
	relay *relay.Relay
	sig   os.Signal // that has stopped it
}

// add makes f be done before what was added earlier.
func (e *ending) add(f func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.todo = append(e.todo, f)
}

// closes makes p be closed, unless that takes too long.
func (e *ending) closes(p plug.Plug) { e.add(func() { plug.CloseWithin(p, closeTime) }) }

// run does it all, once.
func (e *ending) run() {
	e.mu.Lock()
	defer e.mu.Unlock()
	for ; len(e.todo) > 0; e.todo = e.todo[:len(e.todo)-1] {
		e.todo[len(e.todo)-1]()
	}
}

// stops makes a signal stop r; before, it ends the process, as what opens a plug
// may never return.
func (e *ending) stops(r *relay.Relay) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.relay = r; e.sig != nil {
		r.Stop()
	}
}

// onSignal makes SIGTERM, SIGINT and SIGHUP end the process in good order, or
// without the plugin's consent.
func (e *ending) onSignal() {
	// What reads our standard error may end before us.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	c := make(chan os.Signal, 1)
	for _, sig := range []os.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP} {
		if !signal.Ignored(sig) {
			signal.Notify(c, sig)
		}
	}
	go func() { // ends with the process
		sig := <-c
		e.mu.Lock()
		e.sig = sig
		r := e.relay
		e.mu.Unlock()
		if r != nil {
			r.Stop()
			time.Sleep(closeTime) // which is to be the end, unless a plugin does not return
		}
		e.run()
		os.Exit(e.status(exitOK))
	}()
}

// status is the exit status, unless a signal has stopped the process that is no
// polite way to say so: then it ends by that signal, as its parent expects.
func (e *ending) status(code int) int {
	e.mu.Lock()
	defer e.mu.Unlock()
	if sig, ok := e.sig.(syscall.Signal); ok && sig != syscall.SIGTERM {
		signal.Reset(sig)
		_ = unix.Kill(os.Getpid(), sig)
		select {} // it comes
	}
	return code
}

// settle is called when all is joined: it writes the pidfile and, of a daemon, lets
// the process go that has started it.
func (o *plugOptions) settle(end *ending, bg *background) error {
	if o.pidfile != "" {
		if err := writePidfile(o.pidfile, end); err != nil {
			return err
		}
	}
	return bg.ready()
}

// writePidfile writes the process id to a file, which is removed at the end if it
// is still ours.
func writePidfile(path string, end *ending) error {
	text := fmt.Sprintln(os.Getpid())
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil { //nolint:gosec // others may read it
		return fmt.Errorf("the pidfile cannot be written: %w", err)
	}
	end.add(func() {
		if now, err := os.ReadFile(path); err == nil && string(now) == text {
			_ = os.Remove(path)
		}
	})
	return nil
}
