package mmsg

import "unsafe"

// Borrow replaces the batch's frames by those of the caller, up to [Max], each of
// at most [FrameCap] bytes, without copying them; what is given to C is copied
// then. The caller must not touch them until [Batch.Return].
func (b *Batch) Borrow(frames [][]byte) {
	b.borrow(frames, 1)
	b.r, b.end = b.lent, b.borrowed
}

// BorrowRoom prepares the batch to be filled with as many frames as bufs holds, up
// to [Max], by [Batch.Recv] right in the caller's buffers: frame i in bufs[i], as
// far as it has room there, and the rest in the batch. Whatever else fills the
// batch does so in its own memory; [Batch.InPlace] tells which.
//
// Of a single frame there is no rest: what is longer than its buffer is cut.
func (b *Batch) BorrowRoom(bufs [][]byte) {
	b.borrow(bufs, 2)
	b.room = b.borrowed
}

func (b *Batch) borrow(bufs [][]byte, vecs int) {
	b.Clear()
	b.Return()
	if b.lent == nil {
		b.lent = new(region)
		for i := range Max {
			b.lent.hdrs[i].hdr.Iov = &b.lent.iovs[i][0]
		}
	}
	bufs = bufs[:min(len(bufs), Max)]
	for i, buf := range bufs {
		n := min(len(buf), FrameCap)
		v := &b.lent.iovs[i]
		v[0].Base = unsafe.SliceData(buf)
		v[0].SetLen(n)
		b.caps[i] = n
		if vecs > 1 {
			v[1].Base = (*byte)(unsafe.Add(unsafe.Pointer(b.own.iovs[i][0].Base), n))
			v[1].SetLen(FrameCap - n)
		}
		b.lent.hdrs[i].hdr.SetIovlen(vecs)
	}
	b.borrowed = len(bufs)
}

// InPlace reports whether the frames held are in memory of the caller's.
func (b *Batch) InPlace() bool { return b.r == b.lent }

// Keep copies the frames that are in memory of the caller's to the batch's own, as
// they are to stay, or to be given to C. It makes whole what [Batch.Recv] has
// parted.
func (b *Batch) Keep() {
	if !b.InPlace() {
		return
	}
	for i := b.first; i < b.end; i++ {
		from, to := &b.lent.iovs[i][0], &b.own.iovs[i][0]
		n := int(from.Len)
		copy(unsafe.Slice(to.Base, FrameCap), unsafe.Slice(from.Base, min(n, b.caps[i])))
		to.SetLen(n)
	}
	b.r = b.own
}

// Return gives the caller's memory back: nothing points to it any more. The frames
// still held become the batch's own. It ends what Borrow or BorrowRoom began.
func (b *Batch) Return() {
	b.Keep()
	for i := range b.borrowed {
		b.lent.iovs[i][0].Base = nil
	}
	b.borrowed, b.room = 0, Max
}
