package mmsg

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// Recv replaces the batch's frames by those that wait on socket fd, up to
// [Batch.Room], without blocking. After [Batch.BorrowRoom] they are in the
// caller's buffers. errno is 0 if there is at least one, EAGAIN if there
// is none. At the end of a SEQPACKET stream the kernel fills the rest of the
// batch with frames of 0 bytes. A frame longer than [FrameCap] has its true
// length and must not be read: [Batch.Screen] removes it.
//
// The call cannot block, so it does without the scheduler's bookkeeping.
func (b *Batch) Recv(fd int) unix.Errno {
	if b.borrowed > 0 {
		b.Clear()
		b.r = b.lent
	} else {
		b.Empty()
	}
	if b.room == 1 { // which saves the kernel a quarter of its work
		iov := &b.r.iovs[0][0]
		n, _, errno := unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(iov.Base)), uintptr(iov.Len),
			unix.MSG_DONTWAIT|unix.MSG_TRUNC, 0, 0)
		if errno != 0 {
			return errno
		}
		b.r.hdrs[0].len = uint32(n)
		b.Filled(1)
		return 0
	}
	n, _, errno := unix.RawSyscall6(unix.SYS_RECVMMSG, uintptr(fd), uintptr(unsafe.Pointer(&b.r.hdrs)), uintptr(b.room),
		unix.MSG_DONTWAIT|unix.MSG_TRUNC, 0, 0)
	if errno != 0 {
		return errno
	}
	b.Filled(int(n))
	return 0
}

// Send hands the batch's frames to socket fd in order, without blocking, and
// forgets those that it took. sent counts them. errno is 0 if it took all,
// else it is about the first frame still held: EAGAIN if the socket is full.
// It never raises SIGPIPE.
func (b *Batch) Send(fd int) (sent int, errno unix.Errno) {
	for b.Len() > 0 {
		n := b.Len()
		var r uintptr
		var e unix.Errno
		if n == 1 { // as in Recv
			frame := b.Frame(0)
			_, _, e = unix.RawSyscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(frame))), uintptr(len(frame)),
				unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, 0, 0)
			r = 1
		} else {
			r, _, e = unix.RawSyscall6(unix.SYS_SENDMMSG, uintptr(fd), uintptr(unsafe.Pointer(&b.r.hdrs[b.first])), uintptr(n),
				unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, 0, 0)
		}
		if e != 0 {
			return sent, e
		}
		b.Drop(int(r))
		sent += int(r)
	}
	return sent, 0
}

// Drain reads and throws away frames that wait on fd, up to [Max], without
// copying a byte of them, and returns how many they were. It does not block:
// errno is EAGAIN if there is none. zero says that a message of 0 bytes was
// among them, which is not counted: on a SEQPACKET socket that is the end of
// the stream, unless [HungUp] denies it, or [Queued] says that more follows.
func Drain(fd int) (frames int, bytes uint64, zero bool, errno unix.Errno) {
	var hdrs [Max]mmsghdr // no iovec: the kernel reports the lengths and copies nothing
	n, _, errno := unix.RawSyscall6(unix.SYS_RECVMMSG, uintptr(fd), uintptr(unsafe.Pointer(&hdrs)), Max,
		unix.MSG_DONTWAIT|unix.MSG_TRUNC, 0, 0)
	if errno != 0 {
		return 0, 0, false, errno
	}
	for i := range hdrs[:n] {
		if hdrs[i].len == 0 {
			zero = true
			continue
		}
		frames++
		bytes += uint64(hdrs[i].len)
	}
	return frames, bytes, zero, 0
}

// HungUp reports whether the other end of socket fd is closed, which tells the
// end of a SEQPACKET stream from a message of 0 bytes.
func HungUp(fd int) bool {
	return polled(fd, unix.POLLRDHUP)&(unix.POLLHUP|unix.POLLRDHUP|unix.POLLERR|unix.POLLNVAL) != 0
}

// Readable reports whether reading fd would have a result now.
func Readable(fd int) bool { return polled(fd, unix.POLLIN) != 0 }

// Writable reports whether writing fd would have a result now.
func Writable(fd int) bool { return polled(fd, unix.POLLOUT) != 0 }

// Queued returns how many bytes of frames wait on a SEQPACKET socket to be read.
func Queued(fd int) int {
	n, err := unix.IoctlGetInt(fd, unix.TIOCINQ)
	if err != nil {
		return 0
	}
	return n
}

func polled(fd int, events int16) int16 {
	p := [1]unix.PollFd{{Fd: int32(fd), Events: events}}
	if n, errno := Poll(p[:], 0); n <= 0 || errno != 0 {
		return 0
	}
	return p[0].Revents
}

// Disconnect makes a datagram socket hear everybody again.
func Disconnect(fd int) unix.Errno {
	_, errno := raw(unix.SYS_CONNECT, fd, make([]byte, 16)) // AF_UNSPEC, of which only the family counts
	return errno
}

// Poll is ppoll(2) for ns nanoseconds, of a second at most, or without an end if
// ns < 0, and without the scheduler's bookkeeping: Go does not know meanwhile
// that the thread sleeps. It returns how many of the descriptors have events.
func Poll(set []unix.PollFd, ns int64) (int, unix.Errno) {
	var timeout *unix.Timespec
	if ns >= 0 {
		t := unix.NsecToTimespec(ns)
		timeout = &t // the kernel writes to it
	}
	n, _, errno := unix.RawSyscall6(unix.SYS_PPOLL, uintptr(unsafe.Pointer(unsafe.SliceData(set))), uintptr(len(set)),
		uintptr(unsafe.Pointer(timeout)), 0, 0, 0)
	return int(n), errno
}

// Read is read(2) on a descriptor that does not wait, a tap for instance,
// without the scheduler's bookkeeping.
func Read(fd int, buf []byte) (int, unix.Errno) { return raw(unix.SYS_READ, fd, buf) }

// Write is write(2), as [Read].
func Write(fd int, buf []byte) (int, unix.Errno) { return raw(unix.SYS_WRITE, fd, buf) }

// ReadAt is pread(2), as [Read].
func ReadAt(fd int, buf []byte, offset int64) (int, unix.Errno) {
	n, _, errno := unix.RawSyscall6(unix.SYS_PREAD64, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(buf))), uintptr(len(buf)),
		uintptr(offset), 0, 0)
	return int(n), errno
}

func raw(call uintptr, fd int, buf []byte) (int, unix.Errno) {
	n, _, errno := unix.RawSyscall(call, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(buf))), uintptr(len(buf)))
	return int(n), errno
}
