package main

import (
	"fmt"
	"os"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// daemonCommand is the argument under which -d starts the process that goes on in
// the background. It is followed by the number of a descriptor, on which the
// process says that it is ready, and the command line of vde_plug, beginning
// with its name.
const daemonCommand = "daemon"

// background is the line of a daemon to the process that has started it; nil if
// this is no daemon.
type background struct{ fd int }

// exitStatus is the failure of another process, which has said why.
type exitStatus int

func (s exitStatus) Error() string { return "exit status " + strconv.Itoa(int(s)) }

// daemonize starts a daemon and waits until it is ready. It is left in the
// caller's directory, as VNLs may be paths, and gets standard error until then,
// so that what is wrong is told to whom it concerns.
func daemonize(name string, args []string) error {
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		return err
	}
	defer unix.Close(p[0])
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
		Env: os.Environ(), Files: []uintptr{null.Fd(), null.Fd(), 2},
		Sys: &syscall.SysProcAttr{Setsid: true},
	})
	_ = unix.Close(p[1])
	if err != nil {
		return fmt.Errorf("the daemon cannot be started: %w", err)
	}
	var ready [1]byte
	for {
		n, err := unix.Read(p[0], ready[:])
		if n == 1 {
			return nil
		}
		if err != unix.EINTR {
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

// ready lets go of the terminal and of the process that waits.
func (bg *background) ready() error {
	if bg == nil {
		return nil
	}
	if err := unix.Dup2(0, 2); err != nil { // 0 is the null device
		return err
	}
	_, err := unix.Write(bg.fd, []byte{0})
	_ = unix.Close(bg.fd)
	return err
}
