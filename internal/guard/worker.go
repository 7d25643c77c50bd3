package guard

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// worker is a process that opens a link's plug and, once told, serves the guest.
type worker struct {
	l       *Link
	pid     int
	pidfd   int
	ctl     int // our end of its CtlFd
	stderr  int // read end of the pipe that is its standard error
	page    *Page
	started time.Time

	since    time.Time // told to go on
	looked   time.Time // at its progress, last
	progress uint64
	moved    bool          // it had made some then
	stuck    time.Duration // without progress though busy or awaited
	robbed   bool          // frames were taken in its place since looked
	quiet    int           // ticks without anything to do, in a row
	doom     time.Time     // when to be less patient: SIGTERM, then SIGKILL
	termed   bool

	why      string // its own words
	watchFor string
	killed   bool   // by us
	killedBy string // our reason, if it is worth telling
	output   Output
	status   unix.WaitStatus
}

// spawn starts a worker.
func (l *Link) spawn(now time.Time) (_ *worker, err error) {
	l.job.Protocol = Protocol
	job, err := json.Marshal(l.job)
	if err != nil {
		return nil, err
	}
	w := &worker{l: l, started: now, pidfd: -1}
	var fds []int // to close if this fails
	defer func() {
		if err != nil {
			for _, fd := range fds {
				_ = unix.Close(fd)
			}
			if w.page != nil {
				w.page.Unmap()
			}
		}
	}()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	fds = append(fds, pair[0], pair[1])
	var pipe [2]int
	if err = unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		return nil, err
	}
	fds = append(fds, pipe[0], pipe[1])
	if err = unix.SetNonblock(pipe[0], true); err != nil {
		return nil, err
	}
	page, memfd, err := NewPage()
	if err != nil {
		return nil, err
	}
	fds = append(fds, memfd)
	w.ctl, w.stderr, w.page = pair[0], pipe[0], page

	files := []uintptr{l.g.null.Fd(), l.g.null.Fd(), uintptr(pipe[1]), uintptr(l.guest), uintptr(pair[1]), uintptr(memfd)}
	if l.job.Fd > 0 {
		files = append(files, uintptr(l.job.Fd)) // NetFd
	}
	w.pid, err = syscall.ForkExec(l.g.exe, []string{"umlvde", Command, l.job.VNL}, &syscall.ProcAttr{
		Env:   os.Environ(),
		Files: files,
		// Until it serves the guest, a worker has no reason to outlive us: see Line.Opened.
		Sys: &syscall.SysProcAttr{PidFD: &w.pidfd, Pdeathsig: syscall.SIGKILL},
	})
	if err != nil {
		return nil, err
	}
	fds = append(fds, w.pidfd)
	err = errors.Join(
		send(w.ctl, string(job)),
		l.g.loop.add(w.pidfd, unix.EPOLLIN, func(uint32) { w.onExit() }),
		l.g.loop.add(w.ctl, unix.EPOLLIN, func(uint32) { w.onCtl() }),
		l.g.loop.add(w.stderr, unix.EPOLLIN, func(uint32) { w.onStderr() }))
	if err != nil {
		w.kill("")
		_, _ = unix.Wait4(w.pid, nil, 0, nil)
		w.unwatch()
		return nil, err
	}
	_, _, _ = unix.Close(pair[1]), unix.Close(pipe[1]), unix.Close(memfd)
	return w, nil
}

// onExit reaps the worker, after its last words.
func (w *worker) onExit() {
	w.onStderr()
	w.output.Ended(w.tell)
	w.onCtl()
	if pid, err := unix.Wait4(w.pid, &w.status, unix.WNOHANG, nil); err != nil || pid != w.pid {
		return
	}
	w.unwatch()
	_, _, _ = unix.Close(w.pidfd), unix.Close(w.ctl), unix.Close(w.stderr)
	w.l.gone(w)
	w.page.Unmap()
}

func (w *worker) unwatch() {
	for _, fd := range []int{w.pidfd, w.ctl, w.stderr} {
		w.l.g.loop.del(fd)
	}
}

// onCtl reads what the worker says.
func (w *worker) onCtl() {
	for range 16 { // more would be a worker out of its mind, which must not keep us here
		text, err := recv(w.ctl, unix.MSG_DONTWAIT)
		switch {
		case err == unix.EAGAIN: //nolint:errorlint // a bare errno
			return
		case err != nil: // it has ended, or is about to
			w.l.g.loop.del(w.ctl)
			return
		}
		switch word := ParseWord(text); {
		case word.Opened:
			w.l.opened(w)
		case word.Woke && w == w.l.serving:
			w.l.watch()
		case word.Failed != nil:
			w.watchFor, w.why = string(word.Failed.Watch), word.Failed.Why
		}
	}
}

// onStderr reads what the plugin prints.
func (w *worker) onStderr() {
	var buf [4096]byte
	for range 16 { // all that a pipe holds; who prints for ever must not keep us here
		n, err := unix.Read(w.stderr, buf[:])
		if n <= 0 {
			if err != unix.EAGAIN && err != unix.EINTR {
				w.l.g.loop.del(w.stderr)
			}
			return
		}
		w.output.Printed(buf[:n], w.tell)
	}
}

// tell passes on a line of the plugin's.
func (w *worker) tell(line string) { w.l.g.log.Error(w.l.job, line) }

// reason says why the worker ended.
func (w *worker) reason() error {
	switch {
	case w.why != "":
		return errors.New(w.why)
	case w.killedBy != "":
		return errors.New(w.killedBy)
	case w.output.Crash != "":
		return fmt.Errorf("the plugin crashed: %s", w.output.Crash)
	case w.status.Signaled():
		return fmt.Errorf("the worker was ended by a signal: %v", w.status.Signal())
	}
	return fmt.Errorf("the worker ended with exit status %d", w.status.ExitStatus())
}

func (w *worker) send(text string) error { return send(w.ctl, text) }

// kill ends the worker at once; why is told to the user, unless the worker says more.
func (w *worker) kill(why string) {
	if w.killedBy == "" {
		w.killedBy = why
	}
	w.killed, w.doom = true, time.Time{}
	_ = unix.Kill(w.pid, unix.SIGKILL) // it may have ended, but has not been reaped
}

// terminate lets the worker close its plug and end, for a while. One that has not
// served yet learns in Line.Opened that it never will.
func (w *worker) terminate() {
	_ = unix.Shutdown(w.ctl, unix.SHUT_WR) // it is connected
	w.termed, w.doom = true, time.Now().Add(termGrace)
	_ = unix.Kill(w.pid, unix.SIGTERM) // as in kill
}

// doomed is called when the worker's time to end by itself is over.
func (w *worker) doomed() {
	if w.termed {
		w.kill("")
	} else {
		w.terminate()
	}
}
