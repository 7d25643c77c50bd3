// Package gopacketio lets gopacket read frames from a virtual Ethernet, decode
// them, and write frames to it.
//
//	conn, err := libvdeplug.Open("vde:///run/vde.ctl", nil)
//	...
//	handle := gopacketio.New(conn)
//	for packet := range gopacket.NewPacketSource(handle, layers.LayerTypeEthernet).Packets() {
//		...
//	}
//
// A switch sends to a port what is for everybody or for an address that it has
// seen there; a hub, or a switch told to be one, sends all there is.
package gopacketio

import (
	"errors"
	"io"
	"net"
	"os"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/umlvde/umlvde/libvdeplug"
)

// Handle is a source and a sink of packet data. Reads belong to one goroutine at
// a time; WritePacketData may be called at any time from any.
type Handle struct {
	conn net.Conn
	buf  []byte
	err  error
}

var (
	_ gopacket.PacketDataSource         = (*Handle)(nil)
	_ gopacket.ZeroCopyPacketDataSource = (*Handle)(nil)
)

// New makes a Handle of conn, a [libvdeplug.Conn] or, for tests, a Conn of package
// vdetest. To end reads, close conn or set its read deadline.
func New(conn net.Conn) *Handle {
	return &Handle{conn: conn, buf: make([]byte, libvdeplug.MaxFrameSize)}
}

// ReadPacketData waits for a frame and returns it, in memory of its own, with the
// time at which it was read.
//
// Every error is [io.EOF] for errors.Is, as a gopacket.PacketSource stops there and
// would go on for ever with another one. It is nothing but that when the network has
// ended, the Conn was closed or its read deadline has passed; otherwise it is the
// error of the Conn, too. [Handle.Err] returns it again.
func (h *Handle) ReadPacketData() ([]byte, gopacket.CaptureInfo, error) {
	frame, info, err := h.ZeroCopyReadPacketData()
	return append([]byte(nil), frame...), info, err
}

// ZeroCopyReadPacketData is ReadPacketData with a frame that is good until the next
// read.
func (h *Handle) ZeroCopyReadPacketData() ([]byte, gopacket.CaptureInfo, error) {
	for {
		n, err := h.conn.Read(h.buf)
		switch {
		case err == nil:
			return h.buf[:n], gopacket.CaptureInfo{Timestamp: time.Now(), CaptureLength: n, Length: n}, nil
		case errors.Is(err, io.ErrShortBuffer): // longer than VDE frames are, and lost
			continue
		case errors.Is(err, net.ErrClosed), errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, io.EOF):
			h.err = io.EOF
		default:
			h.err = &final{err}
		}
		return nil, gopacket.CaptureInfo{}, h.err
	}
}

// Err returns the error of the last read that failed, nil if none has. It belongs to
// the goroutine that reads: it tells why a gopacket.PacketSource has closed its
// channel, and must not be called before that.
func (h *Handle) Err() error { return h.err }

// final is an error that is also io.EOF.
type final struct{ error }

func (e *final) Unwrap() []error { return []error{e.error, io.EOF} }

// WritePacketData sends one frame, from the destination address to the end of the
// payload. The errors are those of the Write of a [libvdeplug.Conn].
func (h *Handle) WritePacketData(frame []byte) error {
	_, err := h.conn.Write(frame)
	return err
}
