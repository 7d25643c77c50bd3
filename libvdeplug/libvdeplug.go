// Package libvdeplug connects a Go program to Virtual Distributed Ethernet
// networks: a vde_switch, a tap interface, slirp, a hub in another process and
// whatever else the host's VDE plugins reach.
//
//	conn, err := libvdeplug.Open("vde:///run/vde.ctl", nil)
//
// A network is named by a VNL, PLUGIN://ADDRESS, as in vde_plug(1). What comes
// of [Open] is a [Conn], a [net.Conn] that carries one Ethernet frame, from the
// destination address to the end of the payload and without checksum, in each
// Read and Write; ReadBatch and WriteBatch carry many in a call. [Bridge] joins
// two of them, [Stream] takes frames through a stream of bytes.
//
// # The C library
//
// The C library libvdeplug (version 4) is looked for when it is first needed,
// not when the program is linked: a program builds and starts without it, and
// [Available] tells whether it is there. $LIBVDEPLUG names a file to load in
// its place. cmd:// and seqpacket:// need no library.
//
// Without cgo, and for other systems than Linux, programs build as well. An
// Open that would need the library then fails with [errors.ErrUnsupported]; on
// Linux, what needs none and what is isolated works without cgo, too.
//
// # Plugins in their own process
//
// Plugins are C code in the process of the caller, and not all of them can
// stand every frame. Options with an [Isolation] run the plugin in a child
// process, umlvde, of the same module: it may crash or hang, and the Conn says
// so, or starts another.
//
// # Errors
//
// All errors are of type *[OpError], except a bare [io.EOF], and are told apart
// with [errors.Is] and [errors.As], for example:
//
//	fs.ErrNotExist          Open: no library, plugin, switch, device or umlvde
//	fs.ErrPermission        Open: not allowed
//	*PluginError            Open: which plugin is missing, and the package to install
//	io.EOF                  the network has ended
//	net.ErrClosed           Close was called
//	os.ErrDeadlineExceeded  the deadline has passed
//	io.ErrShortBuffer       a frame was longer than the buffer, and is lost
//	ErrFrameSize            a frame was not sent: too short or too long
//	ErrBridged              the Conn belongs to a Bridge
//	*CrashError             an isolated plugin has crashed, or hung
//
// # Not a PacketConn
//
// A Conn is no [net.PacketConn]. A frame has its addresses in it, an address
// for each would cost an allocation, and packages that look for that interface
// (net.Resolver is one) would treat a Conn as a UDP socket.
package libvdeplug

import "io/fs"

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

// Options are the particulars of [Open]. A nil *Options and the zero value are
// good.
type Options struct {
	Descr     string      // shown in a switch's list of ports; "" means the program's name
	Port      int         // port of a switch; 0 means any
	Group     string      // group that may use the data socket; "" means no change
	Mode      fs.FileMode // permission bits of the data socket; 0 means 0700
	Library   string      // file of the C library; "" means $LIBVDEPLUG, or else the host's
	Isolation *Isolation  // runs the plugin in a process of its own; nil means in this one
}

// Info describes the C library in use.
type Info struct {
	Path string // as the dynamic linker found it
	File string // the same with symbolic links resolved; its name ends in the version
}

// Plugin is a kind of network that [Open] can reach.
type Plugin struct {
	Name string // the part of a VNL before "://"
	Path string // its file; "" if it is built into this package
}

// Stats counts what a [Conn] has carried.
type Stats struct {
	RxFrames uint64 // frames that reads have returned
	RxBytes  uint64 // their bytes
	RxDrops  uint64 // frames too short or too long, and those that were lost to io.ErrShortBuffer
	TxFrames uint64 // frames that the network took
	TxBytes  uint64 // their bytes
	TxDrops  uint64 // frames that the network turned down
}

// addr is the net.Addr of a Conn.
type addr string

func (a addr) Network() string { return "vde" }
func (a addr) String() string  { return string(a) }
