//go:build !race

package rig

// Race says whether the race detector is on.
const Race = false
