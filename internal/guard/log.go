package guard

import (
	"fmt"
	"strings"
	"unicode"

	"golang.org/x/sys/unix"
)

// A Log writes lines for the user on a descriptor that is often the console of
// a guest: a terminal in raw mode, non-blocking, perhaps stopped. It never
// waits, and drops what does not fit.
type Log struct {
	Name    string // of the program, before each line
	Fd      int    // 2, or its double
	Verbose bool   // write what Info is told, too
}

// maxLine keeps a line within PIPE_BUF, which a pipe that is writable takes
// without waiting.
const maxLine = 1024

// Error writes a line about the link of a job.
func (l *Log) Error(job Job, text string) {
	l.Print(job.Descr + ": " + Show(job.VNL) + ": " + text)
}

// Info does the same if Verbose is set.
func (l *Log) Info(job Job, text string) {
	if l.Verbose {
		l.Error(job, text)
	}
}

// Print writes a line that is about no link.
func (l *Log) Print(text string) {
	line := l.Name + ": " + strings.Map(printable, text)
	if len(line) > maxLine {
		line = line[:maxLine] + "..."
	}
	end := "\n"
	if t, err := unix.IoctlGetTermios(l.Fd, unix.TCGETS); err == nil && t.Oflag&unix.OPOST == 0 {
		end = "\r\n"
	}
	p := [1]unix.PollFd{{Fd: int32(l.Fd), Events: unix.POLLOUT}}
	if n, err := unix.Poll(p[:], 0); err == nil && n == 1 && p[0].Revents&unix.POLLOUT != 0 {
		_, _ = unix.Write(l.Fd, []byte(line+end)) // there is nobody to tell
	}
}

// printable keeps what a plugin or a VNL says from steering the terminal.
func printable(r rune) rune {
	if unicode.IsControl(r) { // those of 8 bits, too
		return ' '
	}
	return r
}

// Show names a VNL in a message; an empty one is the user's default network.
func Show(vnl string) string {
	if vnl == "" {
		return "the default network"
	}
	return vnl
}

// Stderr returns a Log on standard error, whose flags stay as they are
// (os.File would set it to blocking for everybody who shares it).
func Stderr(name string, verbose bool) *Log {
	return &Log{Name: name, Fd: double(2), Verbose: verbose}
}

// double opens the terminal or pipe behind fd once more, so that no write waits: one
// that is not read says that it has room as long as it has some, and then keeps who
// writes more. If it cannot be opened, as another user's terminal, fd must do.
func double(fd int) int {
	var st unix.Stat_t
	if unix.Fstat(fd, &st) != nil {
		return fd
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFCHR, unix.S_IFIFO: // a file would be written to at another place
		own, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", fd), unix.O_WRONLY|unix.O_NOCTTY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		if err == nil {
			return own
		}
	}
	return fd
}
