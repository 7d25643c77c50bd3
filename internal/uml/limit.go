package uml

import (
	"os"
	"strconv"
	"strings"
)

const (
	defaultMTU = 1500  // bytes (get_mtu in arch/um/drivers/vector_kern.c)
	minMTU     = 576   // bytes
	maxMTU     = 65534 // bytes

	defaultHeadroom = 2  // bytes (DEFAULT_HEADROOM in vector_kern.c)
	maxHeader       = 32 // bytes (ETH_HEADER_OTHER in vector_kern.h)
	safetyMargin    = 32 // bytes (SAFETY_MARGIN in vector_kern.c)

	groBuffer = 65536 // bytes (get_req_size in vector_kern.c)
)

// DefaultFrameLimit is the longest frame, in bytes, that a device without options takes.
const DefaultFrameLimit = defaultMTU + maxHeader + defaultHeadroom + safetyMargin

// frameLimit is the length in bytes of the longest frame that a guest takes,
// without FCS: a longer one is cut to it, and delivered as if it were good. It
// is the size of the receive buffers (prep_skb in
// arch/um/drivers/vector_kern.c), for a device with mtu= and headroom= (in
// bytes) and gro=1.
func frameLimit(mtu, headroom int, gro bool) int {
	n := mtu + maxHeader + headroom + safetyMargin
	if gro {
		n = max(n, groBuffer)
	}
	return n
}

// frameLimit is that of a device, in bytes. What a kernel cannot use it replaces
// by the default, silently.
func (s Spec) frameLimit() int {
	headroom := defaultHeadroom
	if n, ok := s.number("headroom"); ok && n <= maxMTU { // with more it has no memory for a frame
		headroom = n
	}
	return frameLimit(s.mtu(), headroom, s.gro())
}

func (s Spec) mtu() int {
	if n, ok := s.number("mtu"); ok && minMTU <= n && n <= maxMTU {
		return n
	}
	return defaultMTU
}

func (s Spec) gro() bool {
	n, ok := s.number("gro")
	return ok && n > 0
}

func (s Spec) number(key string) (int, bool) {
	value, _ := s.Get(key)
	return number(value)
}

// RunningLimit is the length in bytes of the longest frame that a device of the
// UML kernel with process id pid takes: the longest among those for which
// match reports true. It reports false if there are none, or if the
// process cannot be looked at.
//
// match sees each device as the kernel does: a VNL is what a helper's argument
// is. UML leaves its arguments as they were started (seen with 6.1, 6.12, 7.2).
func RunningLimit(pid int, match func(Spec) bool) (limit int, ok bool) {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cmdline")
	if err != nil {
		return 0, false
	}
	args := strings.Split(strings.TrimSuffix(string(text), "\x00"), "\x00")
	for _, spec := range kernelSpecs(args[1:]) {
		if match(spec) {
			limit, ok = max(limit, spec.frameLimit()), true
		}
	}
	return limit, ok
}
