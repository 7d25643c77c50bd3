package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// daemonCommand is the argument under which -d starts the process that goes on in
// the background. It is followed by the number of a descriptor, on which the
// process says what the user has to know, and then that it is ready, and by the
// command line of vde_plug, beginning with its name.
const daemonCommand = "daemon"

// background is the line of a daemon to the process that has started it; nil if
// this is no daemon.
type background struct{ fd int }

// isReady ends what a daemon says.
const isReady = 0

// Write passes on what the user has to know, as long as somebody listens.
func (bg *background) Write(text []byte) (int, error) {
	if bg.fd < 0 {
		return len(text), nil
	}
	return unix.Write(bg.fd, text)
}

// stays is called on the process's first thread when all is open: from now on the
// daemon outlives the process that has started it, with which it ends before, as
// what opens a plug may never return.
func (bg *background) stays() error {
	if bg == nil {
		return nil
	}
	return unix.Prctl(unix.PR_SET_PDEATHSIG, 0, 0, 0, 0)
}

// ready lets the process go that waits.
func (bg *background) ready() error {
	if bg == nil {
		return nil
	}
	_, err := unix.Write(bg.fd, []byte{isReady})
	_ = unix.Close(bg.fd)
	bg.fd = -1
	return err
}

// exitStatus is the failure of another process, which has said why.
type exitStatus int

func (s exitStatus) Error() string { return "exit status " + strconv.Itoa(int(s)) }

// daemonize starts a daemon, tells the user what it says, and waits until it is
// ready. The daemon stays in the caller's directory, as VNLs may be paths, and has
// nothing else of the caller's, nor have its commands.
func daemonize(name string, args []string, stderr io.Writer) error {
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		return err
	}
	in := os.NewFile(uintptr(p[0]), "the daemon")
	defer in.Close()
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	if _, err := unix.FcntlInt(uintptr(p[1]), unix.F_SETFD, 0); err != nil {
		return err
	}
	argv := append([]string{"umlvde", daemonCommand, strconv.Itoa(p[1]), name}, args...)
	pid, err := syscall.ForkExec("/proc/self/exe", argv, &syscall.ProcAttr{
		Env: os.Environ(), Files: []uintptr{null.Fd(), null.Fd(), null.Fd()},
		Sys: &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGTERM}, // see stays
	})
	_ = unix.Close(p[1])
	if err != nil {
		return fmt.Errorf("the daemon cannot be started: %w", err)
	}
	for r := bufio.NewReader(in); ; {
		text, err := r.ReadString('\n')
		said, ready := strings.CutSuffix(text, string(rune(isReady)))
		if fmt.Fprint(stderr, said); ready {
			return nil
		}
		if err != nil {
			break
		}
	}
	var status unix.WaitStatus
	if _, err := unix.Wait4(pid, &status, 0, nil); err != nil {
		return err
	}
	if status.Signaled() {
		return fmt.Errorf("the daemon was ended by a signal: %v", status.Signal())
	}
	return exitStatus(status.ExitStatus())
}

// newBackground reads what daemonize has put before the arguments.
func newBackground(args []string) (bg *background, rest []string, err error) {
	if len(args) >= 2 {
		fd, err := strconv.Atoi(args[0])
		if _, errno := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil && fd > 2 && errno == nil {
			unix.CloseOnExec(fd)
			return &background{fd}, args[1:], nil
		}
	}
	return nil, nil, usagef("umlvde %s is not for use by hand", daemonCommand)
}
