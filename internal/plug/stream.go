package plug

import (
	"encoding/binary"
	"fmt"
	"io"

	"github.com/umlvde/umlvde/internal/mmsg"
	"github.com/umlvde/umlvde/internal/relay"
	"golang.org/x/sys/unix"
)

// A Stream is a plug on a stream of bytes, such as standard input and output: each
// frame comes after its length in two bytes, big endian (libvdestream.c). It
// never changes the flags of a descriptor, whose description may be in use by
// others, and yet does not wait.
type Stream struct {
	r, w     streamFd
	in       []byte // in[from:to] is read, but not yet cut into frames
	from, to int
	out      []byte // frames on their way out
	rest     []byte // of out: the end of a frame that Send has counted
	unheard  bool   // nobody reads what is written, but there are frames to read
}

const (
	// maxStreamFrame is the longest frame of a vdestream, in bytes (VDE_ETHBUFSIZE).
	maxStreamFrame = 9234
	// streamBuffer holds a batch of ordinary frames, or several of the longest, in bytes.
	streamBuffer = 128 << 10
	// pipeBuf is how many bytes a pipe takes at once that is ready for any (PIPE_BUF).
	pipeBuf = 4096
)

// NewStream makes a plug that reads frames from r and writes them to w, which
// may be the same descriptor. -1 stands for nothing to read. Close closes
// neither.
func NewStream(r, w int) *Stream {
	return newStream(newStreamFd(r, unix.O_RDONLY), newStreamFd(w, unix.O_WRONLY))
}

func newStream(r, w streamFd) *Stream {
	return &Stream{r: r, w: w, in: make([]byte, streamBuffer), out: make([]byte, 0, streamBuffer)}
}

// Recv returns what is left of the last read, else reads until there is a whole
// frame or nothing more. A length that no frame has ends it: the stream has
// something else than frames in it.
func (s *Stream) Recv(b *mmsg.Batch) error {
	b.Clear()
	for {
		if err := s.cut(b); err != nil || b.Len() > 0 {
			return err
		}
		if s.r.fd < 0 {
			return unix.EAGAIN
		}
		n, errno := s.r.read(s.in[s.to:])
		switch {
		case errno == unix.EAGAIN, errno == unix.EINTR:
			return unix.EAGAIN
		case errno == unix.ECONNRESET, errno == 0 && n == 0 && s.to == s.from:
			return io.EOF
		case errno == 0 && n == 0:
			return &endError{why: "the stream ended within a frame"}
		case errno != 0:
			return fmt.Errorf("reading the stream: %w", errno)
		}
		s.to += n
	}
}

// cut moves whole frames from the buffer to b, and a rest to the front of the
// buffer.
func (s *Stream) cut(b *mmsg.Batch) error {
	for s.to-s.from >= 2 && b.Len() < mmsg.Max {
		n := int(binary.BigEndian.Uint16(s.in[s.from:]))
		if n > maxStreamFrame {
			return fmt.Errorf("there is something else than frames in the stream (a greeting of a login shell?): a length of %d bytes", n)
		}
		if s.to-s.from < 2+n {
			break
		}
		b.Append(s.in[s.from+2 : s.from+2+n])
		s.from += 2 + n
	}
	if b.Len() < mmsg.Max {
		s.to = copy(s.in, s.in[s.from:s.to])
		s.from = 0
	}
	return nil
}

// Send writes as many frames at a time as the descriptor surely takes. A frame
// counts as sent when its first byte is written; the others follow.
func (s *Stream) Send(b *mmsg.Batch, count *relay.Counters) error {
	for {
		fresh := len(s.rest) == 0
		if fresh {
			if b.Len() == 0 {
				return nil
			}
			s.rest = s.frame(b)
		}
		n, errno := s.w.write(s.rest)
		if fresh && (errno != 0 || n == 0) {
			s.rest = nil // none of them has begun
		}
		switch {
		case errno == unix.EAGAIN, errno == unix.EINTR:
			return unix.EAGAIN
		case errno == unix.EPIPE, errno == unix.ECONNRESET:
			return io.EOF
		case errno != 0:
			return fmt.Errorf("writing the stream: %w", errno)
		case fresh:
			s.begun(n, b, count)
		}
		s.rest = s.rest[n:]
	}
}

// frame returns the first frames of b with their lengths before them, at least
// one.
func (s *Stream) frame(b *mmsg.Batch) []byte {
	out := s.out[:0]
	for i := range b.Len() {
		f := b.Frame(i)
		if i > 0 && len(out)+2+len(f) > s.w.most {
			break
		}
		out = append(binary.BigEndian.AppendUint16(out, uint16(len(f))), f...)
	}
	return out
}

// begun counts the frames of b of which n bytes are written, and takes them out
// of b. It cuts the others off s.rest.
func (s *Stream) begun(n int, b *mmsg.Batch, count *relay.Counters) {
	frames, end := 0, 0
	for ; end < n; frames++ {
		end += 2 + len(b.Frame(frames))
	}
	s.rest = s.rest[:end]
	count.Sent(frames, b.Bytes(frames))
	b.Drop(frames)
}

// Unsent is relay.Port's.
func (s *Stream) Unsent() bool { return len(s.rest) > 0 }

// Fds is relay.Port's. A pipe that is written to says on ctl that its reader has
// gone; after Check has learned it, that is for when all frames are read.
func (s *Stream) Fds() (r, w, ctl int) {
	if !s.w.tells || s.unheard && s.readable() {
		return s.r.fd, s.w.fd, -1
	}
	return s.r.fd, s.w.fd, s.w.fd
}

// Check says whether what is written is still read by somebody.
func (s *Stream) Check() error {
	s.unheard = mmsg.HungUp(s.w.fd)
	if s.unheard && !s.readable() {
		return io.EOF
	}
	return nil
}

// readable reports whether there is something for Recv.
func (s *Stream) readable() bool {
	held := s.in[s.from:s.to]
	return len(held) >= 2 && len(held) >= 2+int(binary.BigEndian.Uint16(held)) || mmsg.Readable(s.r.fd)
}

// Pumps is relay.Port's.
func (s *Stream) Pumps() bool { return false }

// CallsC is relay.Port's.
func (s *Stream) CallsC() bool { return false }

// Parallel is Plug's.
func (s *Stream) Parallel() bool { return true }

// MaxFrame is Plug's.
func (s *Stream) MaxFrame() int { return maxStreamFrame }

// Close is Plug's: the descriptors of NewStream stay the caller's.
func (s *Stream) Close() error {
	for _, f := range []streamFd{s.r, s.w} {
		if f.opened {
			_ = unix.Close(f.fd)
		}
	}
	return nil
}

// streamFd is a descriptor that is read or written without waiting, though it
// may have been opened for waiting.
type streamFd struct {
	fd   int
	kind fdKind
	// most is how many bytes of frames a write should have, if these are not one.
	most int
	// tells: poll reports an event that was not asked for only when nobody reads
	// what is written.
	tells bool
	// opened: it is ours, and has to be closed.
	opened bool
}

type fdKind int

const (
	anyFile   fdKind = iota // asked first, with poll
	ownPipe                 // does not block
	anySocket               // told not to, each time
)

// newStreamFd makes the best of a descriptor that is used for reading (O_RDONLY)
// or writing (O_WRONLY).
func newStreamFd(fd, use int) streamFd {
	f := streamFd{fd: fd, most: pipeBuf}
	var st unix.Stat_t
	if fd < 0 || unix.Fstat(fd, &st) != nil {
		return f // reading and writing say what is wrong
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFSOCK:
		f.kind = anySocket // and a packet of it has at most what C programs read at once
	case unix.S_IFIFO:
		// A description of our own may be made non-blocking. It takes the right to
		// open the pipe, which may be another user's.
		own, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", fd), use|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		if err == nil {
			return streamFd{fd: own, kind: ownPipe, most: pipeSize, tells: use == unix.O_WRONLY, opened: true}
		}
		flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
		f.tells = err == nil && flags&unix.O_ACCMODE == unix.O_WRONLY
	}
	return f
}

func (f streamFd) read(buf []byte) (int, unix.Errno) {
	switch f.kind {
	case ownPipe:
		return mmsg.Read(f.fd, buf)
	case anySocket:
		n, _, err := unix.Recvfrom(f.fd, buf, unix.MSG_DONTWAIT)
		return n, errnoOf(err)
	}
	if !mmsg.Readable(f.fd) {
		return 0, unix.EAGAIN
	}
	n, err := unix.Read(f.fd, buf)
	return n, errnoOf(err)
}

func (f streamFd) write(buf []byte) (int, unix.Errno) {
	switch f.kind {
	case ownPipe:
		return mmsg.Write(f.fd, buf)
	case anySocket:
		n, err := unix.SendmsgN(f.fd, buf, nil, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
		return n, errnoOf(err)
	}
	if !mmsg.Writable(f.fd) {
		return 0, unix.EAGAIN
	}
	n, err := unix.Write(f.fd, buf[:min(len(buf), pipeBuf)])
	return n, errnoOf(err)
}

// errnoOf is the errno that package unix has returned.
func errnoOf(err error) unix.Errno {
	errno, _ := err.(unix.Errno) //nolint:errorlint // it returns nothing else
	return errno
}
