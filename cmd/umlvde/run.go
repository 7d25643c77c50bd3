package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"unicode/utf8"

	"github.com/umlvde/umlvde/internal/guard"
	"github.com/umlvde/umlvde/internal/uml"
	"golang.org/x/sys/unix"
)

const runUsage = `usage: umlvde run [-v] [--] LINUX ARGS...

Starts a User-Mode Linux kernel. Its arguments vecN:transport=vde,vnl=VNL work
with any kernel since 5.4 and any character in the VNL; descr=, port=, group= and
mode= are known too. All other arguments are the kernel's own.
`

// keepCommand is the argument under which run starts the process that keeps the
// guest's links.
const keepCommand = "keep"

// run becomes the UML kernel, after it has started a keeper for its links. As
// the kernel takes over the process, its terminal, its signals and its exit
// status are what they would be without us.
func run(args []string, stdout io.Writer) error {
	fs := newFlagSet("umlvde run")
	fs.SetInterspersed(false)
	verbose := fs.BoolP("verbose", "v", false, "tell when a link comes up, and count the frames at its end")
	if err := parse(fs, args, stdout, runUsage); err != nil {
		return err
	}
	if fs.NArg() == 0 {
		return usagef("run needs the UML kernel to start")
	}
	linux, err := exec.LookPath(fs.Arg(0))
	if err != nil {
		return fmt.Errorf("the UML kernel cannot be started: %w", err)
	}
	dir, err := socketDir()
	if err != nil {
		return err
	}
	argv, err := startKeeper(dir, fs.Args(), *verbose)
	if err == nil {
		err = unix.Exec(linux, argv, os.Environ())
		err = fmt.Errorf("the UML kernel cannot be started: %s: %w", linux, err) // the keeper sees us end, and tidies up
	} else {
		_ = os.RemoveAll(dir)
	}
	return err
}

// socketDir makes a directory whose path a kernel's command line, and JSON, can hold.
func socketDir() (string, error) {
	tmp := os.TempDir()
	if uml.CheckSocket(filepath.Join(tmp, "umlvde-1234567890", "vec1234567890")) != nil || !utf8.ValidString(tmp) {
		tmp = "/tmp"
	}
	dir, err := os.MkdirTemp(tmp, "umlvde-")
	if err != nil {
		err = fmt.Errorf("there can be no sockets for the guest (TMPDIR may name another directory): %w", err)
	}
	return dir, err
}

// keeping is what a keeper has to do. Its listening sockets are the descriptors
// from keepFd on, in the order of Jobs.
type keeping struct {
	Dir     string // to be removed at the end
	Verbose bool
	Jobs    []guard.Job
}

// keepFd is the first of a keeper's descriptors: a socket for what it has to do
// and its answer, then the listening ones.
const keepFd = 3

// startKeeper starts the keeper of the links that a kernel's arguments ask for
// and returns the arguments to start it with.
func startKeeper(dir string, args []string, verbose bool) (argv []string, err error) {
	path := func(unit int) string { return filepath.Join(dir, "vec"+strconv.Itoa(unit)) }
	argv, links, err := uml.Rewrite(args, path)
	if err != nil {
		return nil, usageError{err}
	}
	if len(links) == 0 {
		return argv, os.Remove(dir)
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(pair[0])
	// Not an os/exec.Cmd, which could change the flags of the terminal behind stderr.
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer null.Close()
	files := []uintptr{null.Fd(), null.Fd(), 2, uintptr(pair[1])}
	defer func() {
		for _, fd := range files[keepFd:] {
			_ = unix.Close(int(fd))
		}
	}()
	k := keeping{Dir: dir, Verbose: verbose}
	for _, link := range links {
		job, err := jobOf(link)
		if err != nil {
			return nil, usageError{err}
		}
		fd, err := listenSeqpacket(path(link.Unit))
		if err != nil {
			return nil, err
		}
		k.Jobs = append(k.Jobs, job)
		files = append(files, uintptr(fd))
	}
	text, err := json.Marshal(k)
	if err == nil {
		err = unix.Sendto(pair[0], text, unix.MSG_NOSIGNAL, nil)
	}
	if err != nil {
		return nil, err
	}
	_, err = syscall.ForkExec("/proc/self/exe", []string{"umlvde", keepCommand}, &syscall.ProcAttr{
		Env: os.Environ(), Files: files,
		Sys: &syscall.SysProcAttr{Setsid: true}, // the terminal's signals are for the guest
	})
	if err != nil {
		return nil, err
	}
	_ = unix.Close(pair[1]) // so that the keeper's end is the only one
	files[keepFd] = files[len(files)-1]
	files = files[:len(files)-1]
	var answer [1]byte
	if n, _, _ := unix.Recvfrom(pair[0], answer[:], 0); n != 1 {
		return nil, errors.New("the process that should keep the guest's links has ended")
	}
	return argv, nil
}

// jobOf reads the options of a link.
func jobOf(link uml.Link) (guard.Job, error) {
	end := endOptions{group: link.Group}
	if link.Port != "" {
		if err := end.port.Set(link.Port); err != nil {
			return guard.Job{}, fmt.Errorf("vec%d: port=%w", link.Unit, err)
		}
	}
	if link.Mode != "" {
		if err := end.mode.Set(link.Mode); err != nil {
			return guard.Job{}, fmt.Errorf("vec%d: mode=%w", link.Unit, err)
		}
	}
	descr := link.Descr
	if descr == "" {
		descr = fmt.Sprintf("UML vec%d", link.Unit)
	}
	return guard.Job{
		VNL: link.VNL, Descr: descr, Port: int(end.port), Group: end.group, Mode: uint32(end.mode),
		Limit: link.Limit,
	}, nil
}

// keep is the keeper: it serves the links of the UML kernel that its parent
// becomes, and ends after it.
func keep(args []string) error {
	if t, err := unix.GetsockoptInt(keepFd, unix.SOL_SOCKET, unix.SO_TYPE); err != nil || t != unix.SOCK_SEQPACKET || len(args) > 0 {
		return usagef("umlvde %s is not for use by hand", keepCommand)
	}
	var (
		buf [64 << 10]byte
		k   keeping
	)
	n, _, err := unix.Recvfrom(keepFd, buf[:], 0)
	if err == nil {
		err = json.Unmarshal(buf[:n], &k)
	}
	if err != nil {
		return err
	}
	defer os.RemoveAll(k.Dir)
	g, err := guard.New(guard.Stderr("umlvde", k.Verbose))
	if err != nil {
		return err
	}
	kernel, err := unix.PidfdOpen(os.Getppid(), 0)
	if err != nil {
		return err
	}
	if err := errors.Join(stopOnSignal(g), g.Watch(kernel, func() {
		g.Unwatch(kernel)
		g.Release() // its links see for themselves that it has ended
	})); err != nil {
		return err
	}
	for i, job := range k.Jobs {
		fd := keepFd + 1 + i
		unix.CloseOnExec(fd)
		if err := serveListener(g, fd, func(int) guard.Job { return job }); err != nil {
			return err
		}
	}
	closeInherited(keepFd)
	g.Hold()
	_, err = unix.Write(keepFd, []byte{0})
	_ = unix.Close(keepFd)
	if err != nil {
		return nil // there will be no kernel
	}
	return g.Run()
}
