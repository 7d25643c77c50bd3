package main

import (
	"encoding/binary"
	"hash/crc32"
	"math/rand/v2"

	"github.com/umlvde/umlvde/internal/mmsg"
)

// A frame is a prefix (the headers, which some far ends take off or put on) and
// a payload: which measurement it belongs to, its number, a checksum, noise.
const (
	runAt     = 0  // uint32
	numberAt  = 4  // uint64
	checkAt   = 12 // uint32
	noiseAt   = 16
	etherLen  = 14
	etherType = 0x88b5 // IEEE Std 802: local experimental
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

var (
	guestMAC = [6]byte{2, 0, 0, 0, 0, 1}
	farMAC   = [6]byte{2, 0, 0, 0, 0, 2}
)

func ether(dst, src [6]byte, proto uint16) []byte {
	return binary.BigEndian.AppendUint16(append(append([]byte(nil), dst[:]...), src[:]...), proto)
}

// A source makes the frames of one direction, all of one size. The bytes stay
// in the batch's buffers from one use to the next, so that to make a frame is
// to number it, and the measurement is not about making frames.
type source struct {
	batch  *mmsg.Batch
	skip   int // where the payload begins
	length int
	run    uint32
	sums   [mmsg.Max]uint32 // of the noise in each buffer
	next   uint64
}

// prepare writes the frames of a run into the source's buffers.
func (s *source) prepare(prefix []byte, length int, run uint32) {
	s.skip, s.length, s.run, s.next = len(prefix), length, run, 0
	noise := rand.NewChaCha8([32]byte{byte(run), byte(run >> 8)})
	s.batch.Clear()
	for i := range mmsg.Max {
		buf := s.batch.Tail()[:length]
		copy(buf, prefix)
		payload := buf[s.skip:]
		binary.BigEndian.PutUint32(payload[runAt:], run)
		_, _ = noise.Read(payload[noiseAt:]) // never fails
		s.sums[i] = crc32.Checksum(payload[noiseAt:], castagnoli)
		s.batch.Extend(length)
	}
	s.batch.Clear()
}

// fill puts up to n frames into the batch, which is empty.
func (s *source) fill(n int) {
	for i := range min(n, mmsg.Max) {
		payload := s.batch.Tail()[s.skip:]
		binary.BigEndian.PutUint64(payload[numberAt:], s.next)
		binary.BigEndian.PutUint32(payload[checkAt:], mix(s.sums[i], s.run, s.next))
		s.batch.Extend(s.length)
		s.next++
	}
}

// mix binds the checksum of the noise to the rest of the payload.
func mix(sum, run uint32, number uint64) uint32 {
	return sum ^ run*0x9e3779b1 ^ uint32(number*0x9e3779b97f4a7c15>>32)
}

// A check is what a receiver found out about the frames of a run.
type check struct {
	run    uint32
	skip   int
	length int
	next   uint64 // the number that is due
	all    bool   // look at each byte of each frame; else at one frame in 64

	came, lost, disordered, altered uint64
}

// frame looks at one frame; false if it is of another run, or none of ours.
func (c *check) frame(f []byte) bool {
	if len(f) < c.skip+noiseAt {
		return false
	}
	p := f[c.skip:]
	if binary.BigEndian.Uint32(p[runAt:]) != c.run {
		return false
	}
	c.came++
	number := binary.BigEndian.Uint64(p[numberAt:])
	if len(f) != c.length {
		c.altered++
	} else if c.all || number%mmsg.Max == 0 {
		if mix(crc32.Checksum(p[noiseAt:], castagnoli), c.run, number) != binary.BigEndian.Uint32(p[checkAt:]) {
			c.altered++
		}
	}
	switch {
	case number < c.next:
		c.disordered++
		return true
	case number > c.next:
		c.lost += number - c.next
	}
	c.next = number + 1
	return true
}
