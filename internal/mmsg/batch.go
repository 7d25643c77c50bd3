// Package mmsg keeps Ethernet frames in batches and moves a whole batch
// through a socket with one system call: recvmmsg(2) and sendmmsg(2), for
// which golang.org/x/sys/unix has no wrappers.
package mmsg

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// Max is how many frames a batch holds: UML's own batch
	// (the default depth= of arch/um/drivers/vector_kern.c).
	Max = 64

	// FrameCap is how many bytes of one frame a batch can keep. No frame of
	// any plugin and no UML guest's MTU (65534 at most) exceeds it.
	FrameCap = 65600

	// stride is the distance between two frames' buffers. It is not a
	// multiple of the page size, so the first lines of the 64 buffers spread
	// over the sets of the first level cache. Pages that no frame reaches
	// are never touched and cost nothing.
	stride = FrameCap + 64
)

// mmsghdr is struct mmsghdr of recvmmsg(2).
type mmsghdr struct {
	hdr unix.Msghdr
	len uint32
}

// region is what the kernel or C sees of a batch. A frame has one iovec, or a
// second one for what its buffer has no room for (see [Batch.BorrowRoom]).
type region struct {
	hdrs [Max]mmsghdr
	iovs [Max][2]unix.Iovec
}

// A Batch holds up to [Max] frames, in order. It is made once and used again
// and again; it must not be used by two goroutines at a time.
type Batch struct {
	mem   []byte
	own   *region // in mem, outside the Go heap, so that C may see it: nothing has to be pinned
	lent  *region // names memory of the caller's; for the kernel only
	r     *region // where the frames are: own or lent
	first int     // the first frame that is still held
	end   int     // one past the last one
	room  int     // how many frames a call may bring

	borrowed int      // how many buffers of the caller's lent names
	caps     [Max]int // their lengths
}

// NewBatch maps the memory of a batch. [Batch.Free] gives it back.
func NewBatch() (*Batch, error) {
	head := (int(unsafe.Sizeof(region{})) + 63) &^ 63
	mem, err := unix.Mmap(-1, 0, head+Max*stride, unix.PROT_READ|unix.PROT_WRITE,
		unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
	if err != nil {
		return nil, fmt.Errorf("memory for a batch of frames: %w", err)
	}
	own := (*region)(unsafe.Pointer(&mem[0]))
	for i := range Max {
		own.iovs[i][0].Base = &mem[head+i*stride]
		own.hdrs[i].hdr.Iov = &own.iovs[i][0]
		own.hdrs[i].hdr.SetIovlen(1)
	}
	return &Batch{mem: mem, own: own, r: own, room: Max}, nil
}

// Free unmaps the batch, which must not be used afterwards.
func (b *Batch) Free() {
	_ = unix.Munmap(b.mem) // cannot fail for memory that Mmap returned
	*b = Batch{}
}

// Len returns how many frames the batch holds.
func (b *Batch) Len() int { return b.end - b.first }

// Frame returns frame i, counted from the first one still held. The slice is
// valid until the batch is filled again.
func (b *Batch) Frame(i int) []byte {
	v := &b.r.iovs[b.first+i][0]
	return unsafe.Slice(v.Base, v.Len)
}

// Size returns the length of frame i.
func (b *Batch) Size(i int) int { return int(b.r.iovs[b.first+i][0].Len) }

// Clear forgets all frames.
func (b *Batch) Clear() { b.first, b.end, b.r = 0, 0, b.own }

// Drop forgets the first n frames.
func (b *Batch) Drop(n int) {
	if b.first += n; b.first >= b.end {
		b.Clear()
	}
}

// Append adds a copy of frame; false if the batch is full or the frame is
// longer than [FrameCap].
func (b *Batch) Append(frame []byte) bool {
	buf := b.Tail()
	if buf == nil || len(frame) > len(buf) {
		return false
	}
	b.Extend(copy(buf, frame))
	return true
}

// Tail returns the [FrameCap] bytes of the next free buffer, nil if the batch
// is full. Whoever writes a frame there adds it with [Batch.Extend].
func (b *Batch) Tail() []byte {
	if b.end == Max {
		return nil
	}
	return unsafe.Slice(b.r.iovs[b.end][0].Base, FrameCap)
}

// Extend adds the n bytes written to [Batch.Tail] as one frame.
func (b *Batch) Extend(n int) {
	b.r.iovs[b.end][0].SetLen(n)
	b.end++
}

// Screen removes the frames shorter than minimum or longer than maximum
// bytes, keeps the others in their order, and returns how many of either kind
// it removed. If there are any, it does what [Batch.Keep] does.
func (b *Batch) Screen(minimum, maximum int) (runts, giants int) {
	keep := b.first
	for i := b.first; i < b.end; i++ {
		switch n := int(b.r.iovs[i][0].Len); {
		case n < minimum:
			runts++
		case n > maximum:
			giants++
		default:
			if keep != i { // the buffers change places, so none is lost
				b.Keep()
				b.r.iovs[keep][0], b.r.iovs[i][0] = b.r.iovs[i][0], b.r.iovs[keep][0]
			}
			keep++
		}
	}
	if b.end = keep; b.end == b.first {
		b.Clear()
	}
	return runts, giants
}

// EndsEmpty reports whether the last frame has 0 bytes.
func (b *Batch) EndsEmpty() bool { return b.end > b.first && b.r.iovs[b.end-1][0].Len == 0 }

// TrimEmpty removes the frames of 0 bytes at the end.
func (b *Batch) TrimEmpty() {
	for b.EndsEmpty() {
		b.end--
	}
	if b.end == b.first {
		b.Clear()
	}
}

// Bytes returns the sum of the lengths of the first n frames held.
func (b *Batch) Bytes(n int) (sum uint64) {
	for i := b.first; i < b.first+n; i++ {
		sum += uint64(b.r.iovs[i][0].Len) //nolint:unconvert // 32 bits on some machines
	}
	return sum
}

// Headers returns the frames held as a struct mmsghdr vector for C: each has
// one iovec with the frame's bytes. A C function that fills the batch instead
// (see [Batch.Filled]) is given [Max] buffers of [FrameCap] bytes.
func (b *Batch) Headers() (first unsafe.Pointer, n int) {
	b.Keep()
	return unsafe.Pointer(&b.r.hdrs[b.first]), b.Len()
}

// Limit makes the calls that fill the batch bring n frames at most, 1 to [Max], from
// now on. Who wants only one pays for no more.
func (b *Batch) Limit(n int) { b.room = n }

// Room returns how many frames a call that fills the batch may bring: [Max], or
// what [Batch.Limit] or [Batch.BorrowRoom] said.
func (b *Batch) Room() int { return b.room }

// Empty prepares the batch to be filled by the kernel or by C and returns the
// headers of its [Batch.Room] frames: every iovec names a whole buffer.
func (b *Batch) Empty() unsafe.Pointer {
	b.Clear()
	for i := range b.r.iovs[:b.room] {
		b.r.iovs[i][0].SetLen(FrameCap)
	}
	return unsafe.Pointer(&b.r.hdrs[0])
}

// Filled takes over n frames that were written to the batch after
// [Batch.Empty], with their lengths in msg_len. A length above [FrameCap] is
// kept as the length, so that [Batch.Screen] removes the frame.
func (b *Batch) Filled(n int) {
	for i := range n {
		b.r.iovs[i][0].SetLen(int(b.r.hdrs[i].len))
	}
	b.first, b.end = 0, n
}
