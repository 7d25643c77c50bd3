package uml

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

const (
	// DefaultMTU is the MTU of a vector device without mtu=, in bytes.
	DefaultMTU = 1500
	minMTU     = 576 // get_mtu in vector_kern.c
	maxMTU     = 65534

	// rxSpare is what a receive buffer holds beyond the MTU, in bytes:
	// MAX_PACKET's 32, the headroom's 2 and 32 for safety. Longer frames are
	// cut, and delivered as if they were whole.
	rxSpare = 66
	// groLimit is the size of the receive buffers with gro=1, in bytes.
	groLimit = 65536
)

// DefaultFrameLimit is the longest frame, in bytes, that a vector device
// without options takes.
const DefaultFrameLimit = DefaultMTU + rxSpare

// FrameLimit is the longest frame, in bytes, that a vector device with this
// mtu=, in bytes, takes.
func FrameLimit(mtu int, gro bool) int {
	if gro {
		return groLimit
	}
	return mtu + rxSpare
}

// size reads mtu= and gro=; a number out of range counts as absent, as in the
// kernel.
func (s Spec) size() (mtu int, gro bool) {
	mtu = DefaultMTU
	if v, ok := s.Get("mtu"); ok {
		if n, err := strconv.Atoi(v); err == nil && n >= minMTU && n <= maxMTU {
			mtu = n
		}
	}
	v, _ := s.Get("gro")
	n, err := strconv.Atoi(v)
	return mtu, err == nil && n > 0
}

// RunningLimit returns the longest frame, in bytes, that the UML kernel with
// process id pid takes on those of its vector devices that match; false if its
// command line, which it leaves readable, names none.
func RunningLimit(pid int, match func(Spec) bool) (limit int, ok bool) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		return 0, false
	}
	args := strings.Split(strings.TrimSuffix(string(text), "\x00"), "\x00")
	for _, s := range kernelSpecs(args[1:]) {
		if match(s) {
			limit, ok = max(limit, FrameLimit(s.size())), true
		}
	}
	return limit, ok
}
