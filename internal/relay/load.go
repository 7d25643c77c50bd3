package relay

import (
	"bytes"
	"strconv"

	"github.com/umlvde/umlvde/internal/mmsg"
	"golang.org/x/sys/unix"
)

// A load tells whether there are more threads that want to run than CPUs.
type load struct {
	fd   int // /proc/loadavg; -1 if it cannot be used
	cpus int
}

// open prepares the question for the CPUs that this process may use.
func (l *load) open() {
	l.fd = -1
	var set unix.CPUSet
	if unix.SchedGetaffinity(0, &set) != nil { // more CPUs than it has room for
		return
	}
	l.cpus = set.Count()
	if fd, err := unix.Open("/proc/loadavg", unix.O_RDONLY|unix.O_CLOEXEC, 0); err == nil {
		l.fd = fd
	}
}

func (l *load) close() {
	if l.fd >= 0 {
		_ = unix.Close(l.fd)
	}
}

// scarce reports whether more threads run, or want to, than there are CPUs; the
// caller is one of them. If that cannot be found out, they are. It takes about
// two microseconds.
func (l *load) scarce() bool {
	var buf [64]byte // "0.20 0.18 0.12 1/80 11206\n": proc(5), the fourth field
	n, errno := mmsg.ReadAt(l.fd, buf[:], 0)
	if errno != 0 {
		return true
	}
	rest := buf[:n]
	for range 3 {
		_, rest, _ = bytes.Cut(rest, []byte{' '})
	}
	running, _, _ := bytes.Cut(rest, []byte{'/'})
	r, err := strconv.Atoi(string(running))
	return err != nil || r > l.cpus
}
