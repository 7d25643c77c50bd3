package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/spf13/pflag"
	"github.com/umlvde/umlvde/internal/guard"
	"github.com/umlvde/umlvde/internal/plug"
	"github.com/umlvde/umlvde/internal/uml"
	"golang.org/x/sys/unix"
)

// plugMain is vde_plug: the helper of a UML kernel, and a cable for everybody
// else.
func plugMain(name string, args []string, stdout, stderr io.Writer, end *ending, bg *background) error {
	o, err := parsePlugOptions(name, args, stdout)
	if err != nil {
		return err
	}
	if o.daemon && bg == nil {
		return daemonize(name, args, stderr)
	}
	o.ipLog = o.ipLog || bool(o.login) && logsIP()
	log, err := o.openLog(end)
	if err != nil {
		fmt.Fprintf(stderr, "%s: %v\n", name, err)
		o.ipLog = false
	}
	if o.hasGuest() {
		return o.helper(name, end, bg, isLibraryCall(args))
	}
	return cable(o, prefixed{stderr, name}, log, end, bg)
}

// openLog starts the log that the options ask for.
func (o *plugOptions) openLog(end *ending) (*sysLog, error) {
	if !o.log && !o.ipLog && !bool(o.login) {
		return nil, nil
	}
	log, err := openSysLog("START")
	if err == nil {
		end.add(func() { log.close("STOP") })
	}
	return log, err
}

// hasGuest says that one end is a socket on which a guest may be, which has to be
// kept open and empty.
func (o *plugOptions) hasGuest() bool {
	return o.command == nil && slices.ContainsFunc(o.vnls, func(vnl string) bool { return strings.HasPrefix(vnl, seqpacket) })
}

const seqpacket = "seqpacket://"

// helper serves a guest.
func (o *plugOptions) helper(name string, end *ending, bg *background, mayBeLibrary bool) error {
	guest, network, vnl, err := o.guestAndNetwork()
	if err != nil {
		return err
	}
	if o.descr == "" {
		o.descr = "vdeplug"
	}
	kernel := uml.KernelOf(os.Getppid())
	return o.tendGuest(name, guest, kernel, end, bg, guard.Job{
		VNL: uml.CleanVNL(vnl), Descr: o.descr, Port: int(network.port), Group: network.group, Mode: uint32(network.mode),
		Once: mayBeLibrary && kernel == 0,
	})
}

// keepGuest is what is done about a wrong command line if there is a guest: UML does
// not look at the options that it passes on, and would spin if its helper ended. So
// the guest has no network, and is told why. Without a guest it returns wrong.
func keepGuest(name string, args []string, wrong error) error {
	kernel := uml.KernelOf(os.Getppid())
	if isLibraryCall(args) && kernel == 0 {
		return wrong // it waits for the end of its socket
	}
	for _, arg := range args {
		number, ok := strings.CutPrefix(arg, seqpacket)
		guest, err := strconv.Atoi(number)
		if !ok || err != nil {
			continue
		}
		job := guard.Job{VNL: args[len(args)-1], Descr: "UML", Wrong: wrong.Error()}
		if errors.Is(wrong, pflag.ErrHelp) {
			job.Wrong = "a VNL does not begin with -"
		}
		if _, err := plug.NewSocket(guest); err == nil {
			return errors.Join(new(plugOptions).tendGuest(name, guest, kernel, nil, nil, job), exitStatus(exitUsage))
		}
	}
	return wrong
}

// isLibraryCall says that the arguments are such as a program with the static
// library (libvdeplug.a) starts vde_plug with: --descr first, then other long
// options of the second VNL, the socket and the VNL. To such a program the end
// of its socket says that the VNL is no good. UML kernels write the same, but
// call themselves UML if nothing else was asked for, and must not be left alone.
func isLibraryCall(args []string) bool {
	if len(args) < 3 || args[0] != "--descr" || strings.HasPrefix(args[1], "UML") {
		return false
	}
	for args = args[2:]; len(args) > 2 && slices.Contains([]string{"--port2", "--mod2", "--group2"}, args[0]); {
		args = args[2:]
	}
	return len(args) <= 2 && strings.HasPrefix(args[0], seqpacket)
}

// guestAndNetwork tells the VNL that is the guest's socket from the network's,
// which may be missing: then it is the default one.
func (o *plugOptions) guestAndNetwork() (guest int, end endOptions, vnl string, err error) {
	for i, v := range o.vnls {
		arg, ok := strings.CutPrefix(v, seqpacket)
		if !ok {
			continue
		}
		guest, err = strconv.Atoi(arg)
		if err != nil || guest < 0 {
			return 0, end, "", usagef("%s: %q is not the number of a descriptor", v, arg)
		}
		if len(o.vnls) == 2 {
			vnl = o.vnls[1-i]
		}
		return guest, o.ends[1-i], vnl, nil
	}
	return 0, end, "", usagef("there is no seqpacket://FD among the VNLs")
}

// tendGuest serves the guest behind a socket that this process was born with,
// until the guest ends. kernel is the UML kernel that has started us, 0 if none has.
func (o *plugOptions) tendGuest(name string, guest, kernel int, end *ending, bg *background, job guard.Job) error {
	if _, err := plug.NewSocket(guest); err != nil {
		return fmt.Errorf("seqpacket://%d: %w", guest, err)
	}
	if vnl := plug.ParseVNL(job.VNL); vnl.Plugin == "seqpacket" && job.Wrong == "" {
		fd, err := strconv.Atoi(vnl.Arg)
		if err != nil {
			return usagef("%s: %q is not the number of a descriptor", job.VNL, vnl.Arg)
		}
		if _, err := plug.NewSocket(fd); err != nil {
			return usagef("%s: %w", job.VNL, err)
		}
		job.Fd = fd
	}
	closeInherited(guest, job.Fd)
	unix.CloseOnExec(guest)
	if job.Fd > 0 {
		unix.CloseOnExec(job.Fd)
	}
	job.Limit = uml.DefaultFrameLimit
	pidfd := -1 // the end of the socket must do
	if bg == nil && !job.Once {
		owner := kernel // our parent may be a script
		if owner == 0 {
			owner = os.Getppid()
		}
		if limit, ok := uml.RunningLimit(owner, isHelperOf(job.VNL)); ok {
			job.Limit = limit
		}
		// UML up to 6.12, when killed, leaves threads that keep the socket open.
		if fd, err := unix.PidfdOpen(owner, 0); err == nil {
			pidfd = fd
		}
	}
	g, err := guard.New(guard.Stderr(name, o.verbose))
	if err != nil {
		return err
	}
	if err := stopOnSignal(g); err != nil {
		return err
	}
	if err := g.Tend(guest, pidfd, job); err != nil {
		return err
	}
	if err := bg.stays(); err != nil {
		return err
	}
	if err := o.settle(end, bg); err != nil {
		return err
	}
	return g.Run()
}

// isHelperOf tells which vecN of a kernel's command line starts a helper for vnl.
func isHelperOf(vnl string) func(uml.Spec) bool {
	return func(s uml.Spec) bool {
		v, _ := s.Get("vnl")
		return s.Is("vde") && uml.CleanVNL(v) == vnl
	}
}

// closeInherited closes what UML has leaked to this process: every descriptor
// but the standard ones and those to keep that survived the exec, such as files
// that the guest has open over hostfs.
func closeInherited(keep ...int) {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return
	}
	for _, e := range entries {
		fd, err := strconv.Atoi(e.Name())
		if err != nil || fd < 3 || slices.Contains(keep, fd) {
			continue
		}
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil && flags&unix.FD_CLOEXEC == 0 {
			_ = unix.Close(fd)
		}
	}
}

// stopOnSignal makes SIGTERM and SIGINT stop the guardian. SIGHUP stays as it
// was inherited: UML ignores it, and lives on when its terminal hangs up.
func stopOnSignal(g *guard.Guardian) error {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return err
	}
	var stop []os.Signal
	for _, sig := range []os.Signal{syscall.SIGTERM, syscall.SIGINT} {
		if !signal.Ignored(sig) {
			stop = append(stop, sig)
		}
	}
	if len(stop) == 0 {
		return unix.Close(fd)
	}
	c := make(chan os.Signal, 1)
	signal.Notify(c, stop...)
	go func() { // ends with the process
		for range c {
			_, _ = unix.Write(fd, []byte{0, 0, 0, 0, 0, 0, 0, 1}) // the loop wakes up in any case
		}
	}()
	return g.Watch(fd, func() {
		var b [8]byte
		_, _ = unix.Read(fd, b[:])
		g.Stop()
	})
}
