package plug

import (
	"slices"

	"github.com/umlvde/umlvde/internal/cvde"
	"golang.org/x/sys/unix"
)

// path says how frames get to and from a plugin.
type path int

const (
	throughLibrary path = iota // vde_recv and vde_send: always right
	bySocket                   // datafd is a socket of bare frames
	byPtp                      // the same, and the other end may be replaced by another
	byTap                      // datafd is a tap device
)

// traits is what a plugin is known to do. The zero value is the careful way,
// for plugins and versions that nobody has looked at: through the library, one
// call at a time, only when datafd is readable.
type traits struct {
	path     path
	sockType int  // with bySocket and byPtp: the type that datafd must have, else the careful way
	parallel bool // vde_recv and vde_send of one connection may run at the same time
	nonblock bool // O_NONBLOCK on datafd is honoured, so vde_send does not wait

	// pumps: the plugin serves others inside vde_recv, which must be called
	// whatever happens to the frames.
	pumps bool
	// connects: sends fail until the plugin has connected datafd in vde_send.
	connects bool
	// emptyIsNothing: a message of 0 bytes from datafd is an empty datagram, not the end.
	emptyIsNothing bool
	// nests: the VNL has another one in braces, which is opened as what it is
	// and joined to the plugin by a socket.
	nests bool
	// overhead: how many bytes a nesting plugin adds to a frame, at most.
	overhead int
	// minSend, minRecv: shorter frames make a nesting plugin crash, bytes.
	minSend, minRecv int
	// maxRecv: a nesting plugin cuts longer frames, bytes.
	maxRecv int
	// peek: vde_recv returns the buffer's length for that of a frame with this tag.
	peek func(VNL) (tpid uint16)
	// primes: vde_recv reads an address family from the stack before it sets it.
	primes bool
	// oneByOne: vde_recv waits for the rest of a frame that has begun, so it is asked
	// for one at a time.
	oneByOne bool
	// pollOut: datafd's POLLOUT tells whether vde_send would wait.
	pollOut bool
	// serialSends: sends of all connections in the process must take turns.
	serialSends bool
	// keepsOnExec: opens descriptors without O_CLOEXEC, and does not wait in that.
	keepsOnExec bool
	// shutdownFirst, closeFirst: what has to be done to datafd before vde_close.
	shutdownFirst, closeFirst bool

	unnamed func() string          // what an empty base stands for; nil: that is the plugin's to say
	reclaim func(base string)      // removes what a killed process of the same VNL left
	grammar *grammar               // how its VNLs are written; nil if nothing is known
	ready   func(VNL) error        // finds what the plugin would fail in, and be silent
	rewrite func(VNL) VNL          // makes a VNL harmless; nil if all are
	hints   map[unix.Errno]string  // what the errno of a failed open means; 0 is none, {} the VNL's base
	why     func(VNL, error) error // the same, if it has to be found out

	maxFrame  int          // bytes; 0 means no limit of its own
	transient []unix.Errno // errors after which the connection is still good
	pkg       string       // Debian's package, if not that of the library
}

// library4 is Debian's package of the library and most plugins (a virtual name
// of libvdeplug2t64 in Debian 13).
const library4 = "libvdeplug2"

// networkErrors come from a peer that is away or a device that is down, or has no
// address that may be used yet (IPv6 makes sure first that nobody has it). One that was
// deleted (ENXIO, ENODEV) is none of them: a socket does not find its successor.
var networkErrors = []unix.Errno{
	unix.ECONNREFUSED, unix.ECONNRESET, unix.ENOTCONN, unix.EHOSTUNREACH, unix.ENETUNREACH,
	unix.ENETDOWN, unix.EHOSTDOWN, unix.EADDRNOTAVAIL, unix.EPERM, unix.EIO,
}

const noRoute = "there is no way to the multicast group (name an interface: /if=NAME)"

var hubTraits = traits{pumps: true, unnamed: usersHub, reclaim: reclaimHub, grammar: hubGrammar, hints: map[unix.Errno]string{
	unix.EEXIST: "another program serves a network there, or there is something else (if it is of no use, remove {})",
	unix.ENOENT: "the directory in which it should be does not exist",
	unix.EACCES: "nothing may be made there",
}}

// table is all that is known about the plugins; the facts are those of
// vdeplug4 4.0.1 and the plugins of Debian 12 and 13, from their sources and
// from tests against the installed binaries (docs/plugs.md).
var table = map[string]traits{
	"vde": {
		path: bySocket, sockType: unix.SOCK_DGRAM, parallel: true, nonblock: true, emptyIsNothing: true, reclaim: reclaimVde, grammar: vdeGrammar,
		hints: map[unix.Errno]string{
			0:                 "the switch refused the connection",
			unix.ENOENT:       "no switch there (start one with: vde_switch -s {})",
			unix.ENOTDIR:      "it is no directory of a switch",
			unix.ECONNREFUSED: "the switch has ended and left its directory",
			unix.EACCES:       "the switch is not for you (see its options --mode and --group)",
		},
	},
	// The control thread of slirp takes messages of 0 and 8 bytes for its own, so
	// nothing shorter than a header may be written; vde_close joins that thread,
	// which ends only when datafd is shut down.
	"slirp": {path: bySocket, sockType: unix.SOCK_SEQPACKET, parallel: true, nonblock: true, shutdownFirst: true, ready: forwardable, grammar: slirpGrammar, pkg: "libvdeplug-slirp"},
	"udp": {
		path: bySocket, sockType: unix.SOCK_DGRAM, parallel: true, nonblock: true, connects: true,
		emptyIsNothing: true, transient: networkErrors, grammar: udpGrammar, why: whyUDP,
	},
	// Upstream's next ptp has an epoll descriptor for datafd, which sockType finds out.
	"ptp": {
		path: byPtp, sockType: unix.SOCK_DGRAM, parallel: true, nonblock: true, connects: true,
		emptyIsNothing: true, transient: networkErrors, reclaim: reclaimPtp, grammar: ptpGrammar,
		hints: map[unix.Errno]string{
			unix.EADDRINUSE: "both ends of the cable are taken",
			unix.EPERM:      "the other end has not noticed yet that the one before has left (it does when it sends a frame)",
			unix.ENOENT:     "the directory in which it should be does not exist",
			unix.EACCES:     "nothing may be made there",
		},
	},
	"tap": {
		path: byTap, parallel: true, nonblock: true, keepsOnExec: true, transient: networkErrors, grammar: tapGrammar,
		hints: map[unix.Errno]string{
			unix.EBUSY:  "the interface is in use by another program",
			unix.EPERM:  "the interface is not yours (make it with: ip tuntap add {} mode tap user YOU)",
			unix.EINVAL: "the interface is no tap",
			unix.ENOENT: "/dev/net/tun is missing (load the kernel's module tun)",
			unix.EACCES: "/dev/net/tun is not for you",
		},
	},
	"null": {parallel: true},

	"hub": hubTraits, "switch": hubTraits, "multi": hubTraits, "bonding": hubTraits,

	// vxlan keeps one struct msghdr for the whole process in vde_vxlan_send; its
	// vde_vxlan_recv stores senders without an address, to which it then cannot
	// send, if it has not been primed.
	"vxlan": {
		parallel: true, nonblock: true, serialSends: true, primes: true, transient: append(networkErrors, unix.EDESTADDRREQ), grammar: vxlanGrammar, hints: map[unix.Errno]string{
			unix.ENETUNREACH: "its UDP port is taken: there can be one vxlan for each port",
			unix.ENODEV:      noRoute,
		},
	},
	// vxvde forgets its epoll descriptor in vde_close, which does not use it.
	"vxvde": {parallel: true, closeFirst: true, transient: networkErrors, grammar: vxvdeGrammar, hints: map[unix.Errno]string{unix.ENETUNREACH: noRoute, unix.ENODEV: noRoute}},
	"pcap": {nonblock: true, keepsOnExec: true, transient: networkErrors, grammar: pcapGrammar, pkg: "libvdeplug-pcap", hints: map[unix.Errno]string{
		unix.ENODEV: "there is no network interface {}",
		unix.EPERM:  "that needs root, or CAP_NET_RAW",
	}},
	// vlan subtracts the size of a tag from the length of a frame that has one,
	// even if there is no room for it.
	"vlan": {nests: true, nonblock: true, peek: tagType, overhead: 4, minSend: 18, minRecv: 18, maxRecv: cvde.EthBufSize, grammar: vlanGrammar, rewrite: finishTags, pkg: "libvdeplug-vlan"},
	// agno does the same with its header: 14 bytes of Ethernet, a block for its
	// own header and at least one of what is encrypted are a whole frame. It reads
	// 30 bytes more than it was asked for.
	"agno": {nests: true, nonblock: true, overhead: 31, minRecv: 14 + 2*16, maxRecv: cvde.EthBufSize + 30, grammar: agnoGrammar, pkg: "libvdeplug-agno", hints: map[unix.Errno]string{
		unix.ENOENT: "the key cannot be read (make one with: head -c 16 /dev/urandom | od -An -tx1 >~/.vde_agno_key)",
		unix.EINVAL: "there is no key in the file: that is 32 hexadecimal digits",
	}},
	// vdesl's open may wait for a carrier; its vde_recv and vde_send share nothing
	// but the descriptor.
	"vdesl": {parallel: true, oneByOne: true, pollOut: true, maxFrame: 9234, grammar: vdeslGrammar, pkg: "libvdeplug-vdesl", hints: map[unix.Errno]string{
		unix.ENOTTY: "it is no serial line",
		unix.ENOENT: "there is no such device",
		unix.EACCES: "the device is not for you (in Debian, add yourself to the group dialout)",
	}},
}

// refuses reports whether a send error is about one frame only.
func (t *traits) refuses(errno unix.Errno) bool {
	return errno == unix.EMSGSIZE || errno == unix.EINVAL || errno == unix.ENOBUFS || slices.Contains(t.transient, errno)
}

// DebianPackage names the package that holds a plugin, "" if none is known or
// umlvde serves it by itself.
func DebianPackage(plugin string) string {
	t, known := table[plugin]
	switch {
	case !known:
		return ""
	case t.pkg != "":
		return t.pkg
	}
	return library4
}
