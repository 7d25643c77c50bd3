package guard

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Protocol names all that a worker and who started it must agree on: the
// descriptors, the words and the Page. A guardian and its workers are the same
// program, but package isolate starts the umlvde that it finds. The number
// changes with anything but the Page, which is here by its size.
var Protocol = fmt.Sprintf("3/%d", unsafe.Sizeof(Page{}))

// A Job is what a worker has to do: to join a guest's socket and a network.
type Job struct {
	Protocol string // of who sends it: Protocol

	VNL   string
	Descr string // shown in a switch's port list and before each message
	Port  int    // of the switch; 0 means any
	Group string // that owns the data socket; "" means unchanged
	Mode  uint32 // permissions of the data socket; 0 means 0700
	Limit int    // the longest frame that the guest takes, bytes
	Fd    int    // a descriptor that VNL, a seqpacket://, names; its number is the guardian's. 0: none

	Wrong string // why nothing can serve this guest: its frames are dropped; "" if that is not so

	Once    bool // the guest takes the end of its socket for the answer if the first open fails: there is no second one
	Patient bool // the guest can wait: its frames are not dropped when the network is full
}

// rawJob is a Job whose names are kept byte by byte: JSON's strings are UTF-8 only,
// and those of files are not.
type rawJob struct {
	plainJob
	VNL, Descr, Group []byte
}

type plainJob Job

// MarshalJSON is json.Marshaler's.
func (j Job) MarshalJSON() ([]byte, error) {
	return json.Marshal(rawJob{plainJob(j), []byte(j.VNL), []byte(j.Descr), []byte(j.Group)})
}

// UnmarshalJSON is json.Unmarshaler's.
func (j *Job) UnmarshalJSON(text []byte) error {
	var r rawJob
	if err := json.Unmarshal(text, &r); err != nil {
		return err
	}
	*j = Job(r.plainJob)
	j.VNL, j.Descr, j.Group = string(r.VNL), string(r.Descr), string(r.Group)
	return nil
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
// is lost (Failed). It outlives a guardian that was killed, but not the program that
// a patient guest is.
const (
	Command = "worker" // the first argument of a worker

	opened = "opened " // + Protocol
	failed = "failed " // + a Failure in JSON
	wake   = "wake"

	// GoOn lets a worker that has opened its plug serve the guest.
	GoOn = "go"
)

// A Failure is why a worker is about to end.
type Failure struct {
	Why    string          // for people, one line
	Watch  []byte          // what path's appearance makes another try worthwhile, byte by byte; none if empty
	Detail json.RawMessage `json:",omitempty"` // the same for programs; package plug knows its form
}

// A Line is the worker's end of CtlFd.
type Line struct{ fd int }

// NewLine makes a Line of the descriptor, which it takes over.
func NewLine(fd int) Line { return Line{fd} }

// Job waits for the worker's job. It fails if that comes from another version.
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
	if job.Protocol != Protocol {
		return job, fmt.Errorf("this umlvde speaks protocol %s, and was asked for %q: it is of another version", Protocol, job.Protocol)
	}
	return job, nil
}

// Opened says that the plug is open and waits until the worker may serve the
// guest; io.EOF says that it never will, as its guardian is gone. From then on the
// worker outlives its guardian, if it must; before, it is killed with the thread
// that has started it, which so must not end earlier. It must be called on the
// process's first thread, to which prctl(2) has to apply.
func (l Line) Opened() error {
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, 0, 0, 0, 0); err != nil {
		return err
	}
	if err := l.send(opened + Protocol); err != nil {
		return err
	}
	text, err := l.recv()
	if err == nil && text != GoOn {
		err = errors.New("unexpected word from the guardian")
	}
	return err
}

// Left waits until who has started the worker is gone.
func (l Line) Left() {
	for {
		if _, err := l.recv(); err != nil {
			return
		}
	}
}

// Failed says why the worker is about to end.
func (l Line) Failed(f Failure) {
	if text, err := json.Marshal(f); err == nil { // it cannot fail
		_ = l.send(failed + string(text)) // a guardian that is gone need not know
	}
}

// Wake makes the guardian look at the page from now on. It is called by the relay,
// which does without the scheduler's bookkeeping.
func (l Line) Wake() {
	_, _, _ = unix.RawSyscall6(unix.SYS_SENDTO, uintptr(l.fd), uintptr(unsafe.Pointer(unsafe.StringData(wake))),
		uintptr(len(wake)), unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT, 0, 0)
}

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

// A Word is what a worker has said. Exactly one of the fields is set, none if
// it was something else.
type Word struct {
	Opened bool
	Woke   bool
	Failed *Failure
}

// ParseWord understands what came over CtlFd from a worker of this version.
func ParseWord(text string) (w Word) {
	if rest, ok := strings.CutPrefix(text, failed); ok {
		var f Failure
		if json.Unmarshal([]byte(rest), &f) == nil {
			w.Failed = &f
		}
		return w
	}
	return Word{Opened: text == opened+Protocol, Woke: text == wake}
}
