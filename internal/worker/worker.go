// Package worker is the process that serves one guest: it opens the plug and
// relays frames between it and the guest's socket. It may crash, hang or be
// killed at any time; package guard sees to the guest.
package worker

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
	"time"

	"github.com/umlvde/umlvde/internal/guard"
	"github.com/umlvde/umlvde/internal/plug"
	"github.com/umlvde/umlvde/internal/relay"
	"golang.org/x/sys/unix"
)

// closeTime is how long a plug may take to close before the worker ends
// without it; less than the guardian's patience.
const closeTime = 300 * time.Millisecond

// lastTime is how long a guest that is patient, and gone, is patient still: its
// network may never take what it has left.
const lastTime = 250 * time.Millisecond

// Main is the program of a worker: guard.Job says what it gets and what is
// expected of it. It returns the exit status.
func Main() int {
	if os.Getenv("GOTRACEBACK") == "" {
		debug.SetTraceback("none") // a plugin's crash shall not fill the guest's console
	}
	unix.CloseOnExec(guard.GuestFd)
	unix.CloseOnExec(guard.CtlFd)
	unix.CloseOnExec(guard.PageFd)
	terminated := make(chan os.Signal, 1)
	signal.Notify(terminated, syscall.SIGTERM)
	signal.Ignore(syscall.SIGINT) // a terminal's is for the guardian, who may ignore it

	line := guard.NewLine(guard.CtlFd)
	job, err := line.Job()
	if err != nil {
		fmt.Fprintf(os.Stderr, "%v (umlvde %s is not for use by hand)\n", err, guard.Command)
		return 2
	}
	page, err := guard.MapPage(guard.PageFd)
	if err != nil {
		line.Failed(failure(err, ""))
		return 1
	}
	network, watch, err := open(job)
	if err != nil {
		line.Failed(failure(err, watch))
		return 1
	}
	err = serve(job, line, page, network, terminated)
	plug.CloseWithin(network, closeTime)
	switch {
	case err == nil, errors.Is(err, relay.ErrGuestGone), errors.Is(err, relay.ErrStopped):
		return 0
	}
	line.Failed(failure(err, watch))
	return 1
}

// failure describes err for who started this process.
func failure(err error, watch string) guard.Failure {
	f := guard.Failure{Why: err.Error(), Watch: []byte(watch)}
	if err == io.EOF { //nolint:errorlint // a bare one says nothing more
		f.Why = "the network has closed the connection"
	}
	f.Detail, _ = json.Marshal(plug.NewReport(err)) // a struct of texts and numbers
	return f
}

// open opens the job's plug; watch is what to wait for if it fails.
func open(job guard.Job) (network plug.Plug, watch string, err error) {
	text := job.VNL
	if job.Fd > 0 {
		text = fmt.Sprintf("seqpacket://%d", guard.NetFd)
	}
	vnl, err := plug.Resolve(text)
	if err != nil {
		return nil, "", err
	}
	network, err = plug.Open(vnl, plug.Options{Descr: job.Descr, Port: job.Port, Group: job.Group, Mode: fs.FileMode(job.Mode)})
	return network, vnl.Watch(), err
}

// serve relays until the guest or the plug ends, or a signal comes.
func serve(job guard.Job, line guard.Line, page *guard.Page, network plug.Plug, terminated <-chan os.Signal) error {
	guest, err := plug.NewSocket(guard.GuestFd)
	if err != nil {
		return err
	}
	wake := func() {
		if page.Watched.Load() == 0 {
			line.Wake()
		}
	}
	r, err := relay.New(guest, network, network.MaxFrame(), job.Limit, &page.Up, &page.Down,
		relay.Monitor{Progress: &page.Progress, Busy: &page.Busy, Wake: wake})
	if err != nil {
		return err
	}
	if job.Patient {
		r.Patient()
	}
	if err := line.Opened(); err != nil {
		return nil // the guardian has no use for this plug any more
	}
	if job.Patient {
		go func() { // ends with the process
			line.Left()
			time.Sleep(lastTime)
			r.Stop()
			time.Sleep(2 * closeTime) // which is to be the end, unless a plugin does not return
			os.Exit(1)
		}()
	}
	if err := r.Alone(); err != nil {
		return err
	}
	go func() { // ends with the process
		<-terminated
		r.Stop()
	}()
	return r.Run()
}
