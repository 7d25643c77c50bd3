package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/umlvde/umlvde/internal/guard"
	"github.com/umlvde/umlvde/internal/plug"
	"github.com/umlvde/umlvde/internal/uml"
	"golang.org/x/sys/unix"
)

const listenUsage = `usage: umlvde listen [OPTIONS] PATH VNL

Serves any number of UML guests over vecN:transport=bess,dst=PATH (kernels since
5.4): each of them gets a plug of its own into the network that VNL names.
`

// listen serves UML guests that connect to a socket.
func listen(args []string, stdout io.Writer) error {
	var (
		end endOptions
		job guard.Job
	)
	fs := newFlagSet("umlvde listen")
	fs.StringVarP(&job.Descr, "descr", "D", "", "`DESCR`iption of the connections, as the switch shows it (default: UML and the guest's process id)")
	fs.StringVarP(&end.group, "group", "g", "", "`GROUP` that owns the data sockets")
	fs.VarP(&end.mode, "mod", "m", "octal permissions of the data sockets")
	verbose := fs.BoolP("verbose", "v", false, "tell when a link comes up, and count the frames at its end")
	if err := parse(fs, args, stdout, listenUsage); err != nil {
		return err
	}
	if fs.NArg() != 2 {
		return usagef("listen takes a path and a VNL, not %d words", fs.NArg())
	}
	path := fs.Arg(0)
	job.VNL, job.Group, job.Mode = uml.CleanVNL(fs.Arg(1)), end.group, uint32(end.mode)
	job.Limit = uml.DefaultFrameLimit // for a guest that cannot be asked
	fd, err := listenSeqpacket(path)
	if err != nil {
		return err
	}
	if socket, err := os.Lstat(path); err == nil {
		defer removeSame(path, socket)
	}
	signal.Ignore(syscall.SIGHUP) // the guests may be on other terminals
	g, err := guard.New(guard.Stderr("umlvde", *verbose))
	if err != nil {
		return err
	}
	if err := stopOnSignal(g); err != nil {
		return err
	}
	g.Hold()
	err = serveListener(g, fd, func(pid int) guard.Job {
		job := job
		if limit, ok := uml.RunningLimit(pid, isGuestOf(path, pid)); ok {
			job.Limit = limit
		}
		if job.Descr == "" { // so that they can be told apart
			job.Descr = fmt.Sprintf("UML %d", pid)
		}
		return job
	})
	if err != nil {
		return err
	}
	return g.Run()
}

// isGuestOf tells which vecN on the command line of the kernel with a process id
// connects to path.
func isGuestOf(path string, pid int) func(uml.Spec) bool {
	return func(s uml.Spec) bool {
		dst, _ := s.Get("dst")
		if !filepath.IsAbs(dst) {
			dst = fmt.Sprintf("/proc/%d/cwd/%s", pid, dst)
		}
		return s.Is("bess") && sameFile(dst, path)
	}
}

func sameFile(a, b string) bool {
	x, err := os.Stat(a)
	if err != nil {
		return false
	}
	y, err := os.Stat(b)
	return err == nil && os.SameFile(x, y)
}

// removeSame removes path, unless it is another file by now.
func removeSame(path string, file os.FileInfo) {
	if now, err := os.Lstat(path); err == nil && os.SameFile(now, file) {
		_ = os.Remove(path)
	}
}

// listenSeqpacket listens on path, whose socket is replaced if a process that
// was killed has left it. The descriptor does not block.
func listenSeqpacket(path string) (int, error) {
	if err := uml.CheckSocket(path); err != nil {
		return -1, err
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, err
	}
	addr := plug.FileAddr(path)
	err = unix.Bind(fd, addr)
	if errors.Is(err, unix.EADDRINUSE) {
		switch file, missing := os.Lstat(path); {
		case missing != nil: // by now
		case file.Mode().Type() != os.ModeSocket:
			err = errors.New("there is something else than a socket")
		case !plug.Abandoned(path):
			err = errors.New("another program listens there")
		default:
			if err = os.Remove(path); err == nil {
				err = unix.Bind(fd, addr)
			}
		}
	}
	if err == nil {
		err = unix.Listen(fd, 128)
	}
	if err != nil {
		_ = unix.Close(fd)
		return -1, fmt.Errorf("cannot listen on %s: %w", path, err)
	}
	return fd, nil
}

// serveListener makes g serve each guest that connects to fd; job says how, for
// the UML kernel with a process id, which may be 0.
func serveListener(g *guard.Guardian, fd int, job func(pid int) guard.Job) error {
	return g.Watch(fd, func() {
		guest, _, err := unix.Accept4(fd, unix.SOCK_CLOEXEC)
		if err != nil {
			return // it has gone again
		}
		pid, pidfd := 0, -1
		if cred, err := unix.GetsockoptUcred(guest, unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil && cred.Pid > 0 {
			pid = int(cred.Pid)
			if pidfd, err = unix.PidfdOpen(pid, 0); err != nil {
				pidfd = -1 // the end of the socket must do
			}
		}
		_ = g.Tend(guest, pidfd, job(pid)) // or the guest sees its socket closed
	})
}
