package libvdeplug

// Bridged is what a [Bridge] has carried.
type Bridged struct {
	AB Flow // from its first Conn to the second
	BA Flow // from the second to the first
}

// Flow counts one direction of a [Bridge]. All that one Conn has read is either
// carried or dropped.
type Flow struct {
	Frames uint64 // that the other network took
	Bytes  uint64 // their bytes
	Drops  uint64 // frames that it refused, or cannot carry, or that were in hand at the end
}
