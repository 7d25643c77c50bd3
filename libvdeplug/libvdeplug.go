// Package libvdeplug connects a Go program to Virtual Distributed Ethernet
// networks: a vde_switch, a tap interface, slirp, a hub in another process and
// whatever else the host's VDE plugins reach.
//
//	conn, err := libvdeplug.Open("vde:///run/vde.ctl", nil)
//
// A network is named by a VNL, PLUGIN://ADDRESS, as in vde_plug(1). What comes
// of [Open] is a [Conn], a [net.Conn] that carries one Ethernet frame, from the
// destination address to the end of the payload and without checksum, in each
// Read and Write.
//
// The C library libvdeplug (version 4) is looked for when it is first needed,
// not when the program is linked: a program builds and starts without it, and
// [Available] tells whether it is there. $LIBVDEPLUG names a file to load in
// its place. cmd:// and seqpacket:// need no library.
//
// Plugins are C code in the process of the caller, and not all of them can
// stand every frame. A program that must outlive a plugin's crash puts a
// process between them: umlvde, of the same module, is one.
package libvdeplug

import (
	"path/filepath"

	"github.com/umlvde/umlvde/internal/plug"
)

const (
	// MinFrameSize is the length of an Ethernet header, in bytes. Shorter
	// frames are neither sent nor received.
	MinFrameSize = 14

	// MaxFrameSize is the length, in bytes, of the longest frame that the C
	// library provides for: a payload of 9216 bytes behind a header with
	// a VLAN tag (VDE_ETHBUFSIZE of libvdeplug.h). Some networks carry less,
	// and not all of them say so: vde_switch cuts frames to 1518 bytes. Others
	// (ptp, seqpacket, udp) carry up to 64 KiB if somebody sends it.
	MaxFrameSize = 9234
)

// Available reports why the C library cannot be used, or nil. An error for
// which errors.Is(err, [fs.ErrNotExist]) is true says that it is not installed.
func Available() error {
	_, err := plug.Load("")
	return loadError(err)
}

// Info describes the C library in use.
type Info struct {
	Path string // as the dynamic linker found it
	File string // the same with symbolic links resolved; its name ends in the version
}

// Version tells which file the C library was loaded from. It fails as
// [Available] does.
func Version() (Info, error) {
	lib, err := plug.Load("")
	if err != nil {
		return Info{}, loadError(err)
	}
	info := Info{Path: lib.Path(), File: lib.Path()}
	if file, err := filepath.EvalSymlinks(info.Path); err == nil {
		info.File = file
	}
	return info, nil
}

// Plugin is a kind of network that [Open] can reach.
type Plugin struct {
	Name string // the part of a VNL before "://"
	Path string // its file; "" if it is built into this package
}

// Plugins lists the plugins where the C library would look for them
// ($VDEPLUGIN_PATH if that is set), sorted by name. It fails as [Available] does.
func Plugins() ([]Plugin, error) {
	lib, err := plug.Load("")
	if err != nil {
		return nil, loadError(err)
	}
	var found []Plugin
	for _, p := range plug.Plugins(lib) {
		found = append(found, Plugin(p))
	}
	return found, nil
}

func loadError(err error) error {
	if err == nil {
		return nil
	}
	return &OpError{Op: "load", Err: err}
}
