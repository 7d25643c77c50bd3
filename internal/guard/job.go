package guard

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"golang.org/x/sys/unix"
)

// A Job is what a worker has to do: to join a guest's socket and a network.
type Job struct {
	VNL   string
	Descr string // shown in a switch's port list and before each message
	Port  int    // of the switch; 0 means any
	Group string // that owns the data socket; "" means unchanged
	Mode  uint32 // permissions of the data socket; 0 means 0700
	Limit int    // the longest frame that the guest takes, bytes
	Fd    int    // a descriptor that VNL, a seqpacket://, names; its number is the guardian's. 0: none
}

// The descriptors that a worker is born with.
const (
	GuestFd = 3 // the guest's socket, shared with the guardian
	CtlFd   = 4 // a SEQPACKET socket to the guardian
	PageFd  = 5 // a memfd with the Page
	NetFd   = 6 // Job.Fd, if there is one
)

// A worker is started as
//
//	umlvde worker VNL
//
// (the VNL is there for ps(1)), receives its Job over CtlFd, opens the plug and
// sends Opened, or Failed and exits. It touches the guest's socket only after
// it has received Go. It ends when the guest does, on SIGTERM, or when the plug
// is lost (Failed). It outlives a guardian that was killed.
const (
	Command = "worker" // the first argument of a worker

	opened = "opened"
	failed = "failed " // + what to watch for + NUL + why
	wake   = "wake"
	goOn   = "go"
)

// A Line is the worker's end of CtlFd.
type Line struct{ fd int }

// NewLine makes a Line of the descriptor, which it takes over.
func NewLine(fd int) Line { return Line{fd} }

// Job waits for the worker's job.
func (l Line) Job() (job Job, err error) {
	if t, err := unix.GetsockoptInt(l.fd, unix.SOL_SOCKET, unix.SO_TYPE); err != nil || t != unix.SOCK_SEQPACKET {
		return job, errors.New("no guardian")
	}
	text, err := l.recv()
	if err == nil {
		err = json.Unmarshal([]byte(text), &job)
	}
	if err != nil {
		return job, fmt.Errorf("no job from a guardian: %w", err)
	}
	return job, nil
}

// Opened says that the plug is open and waits until the worker may serve the
// guest; io.EOF says that it never will. From then on the worker outlives its
// guardian, if it must; before, it is killed with it. It must be called on the
// process's first thread, to which prctl(2) has to apply.
func (l Line) Opened() error {
	if err := l.send(opened); err != nil {
		return err
	}
	text, err := l.recv()
	if err == nil && text != goOn {
		err = errors.New("unexpected word from the guardian")
	}
	if err != nil {
		return err
	}
	return unix.Prctl(unix.PR_SET_PDEATHSIG, 0, 0, 0, 0)
}

// Failed says why the worker is about to end, and what path's appearance makes
// another try worthwhile ("" if none).
func (l Line) Failed(why error, watch string) {
	_ = l.send(failed + watch + "\x00" + why.Error()) // a guardian that is gone need not know
}

// Wake makes the guardian look at the page from now on.
func (l Line) Wake() { _ = l.send(wake) }

func (l Line) send(text string) error { return send(l.fd, text) }

func (l Line) recv() (string, error) { return recv(l.fd, 0) }

func send(fd int, text string) error {
	return unix.Sendto(fd, []byte(text), unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT, nil)
}

func recv(fd, flags int) (string, error) {
	var buf [16 << 10]byte
	for {
		n, _, err := unix.Recvfrom(fd, buf[:], flags)
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return "", err
		case n == 0:
			return "", io.EOF
		}
		return string(buf[:n]), nil
	}
}

// parseFailed splits the message of Failed.
func parseFailed(text string) (watch, why string) {
	watch, why, _ = strings.Cut(strings.TrimPrefix(text, failed), "\x00")
	return watch, why
}
