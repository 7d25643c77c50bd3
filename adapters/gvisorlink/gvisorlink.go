// Package gvisorlink puts gVisor's network stack on a virtual Ethernet, so that
// a Go program has a TCP/IP of its own there: an address that answers to ping,
// listeners, connections, without root and without an interface of the host's.
//
//	conn, err := libvdeplug.Open("vde:///run/vde.ctl", nil)
//	...
//	link := gvisorlink.New(conn, nil)
//	s, err := gvisorlink.NewStack(link, netip.MustParsePrefix("10.0.0.1/24"))
//	...
//	listener, err := gonet.ListenTCP(s, tcpip.FullAddress{Port: 80}, ipv4.ProtocolNumber)
//
// [New] makes of a Conn what any stack of gVisor's can be given; [NewStack] makes
// the usual one. From there on it is package gonet that has a net.Listener or
// a net.Conn for it.
package gvisorlink

import (
	"errors"
	"io"
	"sync"
	"time"

	"github.com/umlvde/umlvde/libvdeplug"
	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// Conn is what an [Endpoint] works on: a [libvdeplug.Conn] or, for tests, a Conn of
// package vdetest.
type Conn interface {
	ReadBatch(bufs [][]byte, sizes []int) (int, error)
	WriteBatch(frames [][]byte) (int, error)
	SetDeadline(time.Time) error
	Close() error
}

// Options are the particulars of [New]. A nil *Options and the zero value are good.
type Options struct {
	Address tcpip.LinkAddress // the MAC address, 6 bytes; "" means a random one
	MTU     uint32            // the longest IP packet, bytes; 0 means 1500, more than which vde_switch cuts
}

const (
	batchSize = 64   // frames in a ReadBatch or WriteBatch
	queueLen  = 1024 // frames that may wait to be sent
)

// Endpoint is a [stack.LinkEndpoint] that owns a [Conn]. It can be attached to one
// stack, once. All methods may be called at any time from any goroutine.
//
// The stack never waits for the network: what it sends while 1024 frames are
// waiting already is dropped, and counted by the stack. As a network card does, an
// Endpoint drops received frames that are for another's MAC address.
type Endpoint struct {
	conn  Conn
	queue chan *stack.PacketBuffer // to be sent
	stop  chan struct{}            // closed to end the work
	work  sync.WaitGroup

	mu         sync.RWMutex
	address    tcpip.LinkAddress
	mtu        uint32
	dispatcher stack.NetworkDispatcher // nil if not attached
	onClose    func()
	err        error
}

var _ stack.LinkEndpoint = (*Endpoint)(nil)

// New makes a link of conn, which belongs to it from now on.
func New(conn Conn, o *Options) *Endpoint {
	if o == nil {
		o = new(Options)
	}
	e := &Endpoint{
		conn: conn, queue: make(chan *stack.PacketBuffer, queueLen), stop: make(chan struct{}),
		address: o.Address, mtu: o.MTU,
	}
	if e.address == "" {
		e.address = tcpip.GetRandMacAddr()
	}
	if e.mtu == 0 {
		e.mtu = 1500
	}
	return e
}

// Attach starts to pass frames to a stack or, with nil, ends that. The stack calls
// it when a NIC is made and when it is removed.
func (e *Endpoint) Attach(dispatcher stack.NetworkDispatcher) {
	if dispatcher == nil {
		e.end(nil)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.dispatcher = dispatcher; dispatcher != nil {
		e.work.Add(2) // before Wait sees that there is work
		go e.receive(dispatcher)
		go e.send()
	}
}

// IsAttached implements [stack.LinkEndpoint].
func (e *Endpoint) IsAttached() bool {
	e.mu.RLock()
	defer e.mu.RUnlock()
	return e.dispatcher != nil
}

// end ends the work, without waiting for that.
func (e *Endpoint) end(reason error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !isClosed(e.stop) {
		e.err = reason
		close(e.stop)
		_ = e.conn.SetDeadline(time.Unix(1, 0)) // wakes both; fails only if the Conn is closed
	}
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// Close closes the Conn.
func (e *Endpoint) Close() {
	e.end(nil)
	e.mu.Lock()
	action := e.onClose // removes the NIC
	e.onClose = nil
	e.mu.Unlock()
	if action != nil {
		action()
	}
	_ = e.conn.Close() // the interface has no way to tell
}

// SetOnCloseAction implements [stack.LinkEndpoint].
func (e *Endpoint) SetOnCloseAction(action func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.onClose = action
}

// Wait returns when the link has ended: the network has, or Close was called.
// [Endpoint.Err] says which. A link that is not attached, or not any more, has
// nothing to wait for.
func (e *Endpoint) Wait() {
	// Stack.Wait calls Attach(nil), Wait and Close, the first two of them with the
	// stack's lock held, for which a frame that is being delivered may wait. So the
	// work of a link whose NIC is removed is not waited for, whoever closes it.
	if e.IsAttached() {
		e.work.Wait()
	}
}

// Err tells, after Wait, why the link has ended: [io.EOF] if the network has, as
// when a switch exits, nil after Close.
func (e *Endpoint) Err() error {
	e.mu.RLock()
	defer e.mu.RUnlock()
	return e.err
}

// receive passes frames from the network to the stack.
func (e *Endpoint) receive(to stack.NetworkDispatcher) {
	defer e.work.Done()
	bufs, sizes := make([][]byte, batchSize), make([]int, batchSize)
	for i := range bufs {
		bufs[i] = make([]byte, max(libvdeplug.MaxFrameSize, header.EthernetMinimumSize+e.MTU()))
	}
	for {
		n, err := e.conn.ReadBatch(bufs, sizes)
		if err != nil && !errors.Is(err, io.ErrShortBuffer) {
			e.end(err)
			return
		}
		for i := range n {
			e.deliver(to, bufs[i][:sizes[i]])
		}
	}
}

// deliver gives the stack a copy of a frame.
func (e *Endpoint) deliver(to stack.NetworkDispatcher, frame []byte) {
	if len(frame) < header.EthernetMinimumSize {
		return
	}
	kind := tcpip.PacketHost
	switch dst := header.Ethernet(frame).DestinationAddress(); {
	case dst == header.EthernetBroadcastAddress:
		kind = tcpip.PacketBroadcast
	case header.IsMulticastEthernetAddress(dst):
		kind = tcpip.PacketMulticast
	case dst != e.LinkAddress():
		return
	}
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(frame)})
	defer pkt.DecRef()
	pkt.PktType = kind
	if e.ParseHeader(pkt) {
		to.DeliverNetworkPacket(header.Ethernet(frame).Type(), pkt)
	}
}

// WritePackets queues frames for the network.
func (e *Endpoint) WritePackets(pkts stack.PacketBufferList) (int, tcpip.Error) {
	for n, pkt := range pkts.AsSlice() {
		if isClosed(e.stop) {
			return n, &tcpip.ErrClosedForSend{}
		}
		select {
		case e.queue <- pkt.IncRef():
		default:
			pkt.DecRef()
			return n, &tcpip.ErrNoBufferSpace{}
		}
	}
	return pkts.Len(), nil
}

// send sends what is queued, as much as there is at a time.
func (e *Endpoint) send() {
	defer e.work.Done()
	bufs := make([][]byte, batchSize)
	for {
		n := 0
		select {
		case <-e.stop:
			return
		case pkt := <-e.queue:
			bufs[n] = flatten(bufs[n], pkt)
			n++
		}
		for n < batchSize && len(e.queue) > 0 {
			bufs[n] = flatten(bufs[n], <-e.queue)
			n++
		}
		for left := bufs[:n]; len(left) > 0 && !isClosed(e.stop); {
			n, err := e.conn.WriteBatch(left)
			if left = left[n:]; err != nil && len(left) > 0 {
				left = left[1:] // the network does not take this one; if it takes none any more, receive sees that
			}
		}
	}
}

// flatten consumes pkt and returns its bytes, in buf if they fit.
func flatten(buf []byte, pkt *stack.PacketBuffer) []byte {
	defer pkt.DecRef()
	buf = buf[:0]
	for _, part := range pkt.AsSlices() {
		buf = append(buf, part...)
	}
	return buf
}

// MTU returns the length of the longest IP packet, in bytes.
func (e *Endpoint) MTU() uint32 {
	e.mu.RLock()
	defer e.mu.RUnlock()
	return e.mtu
}

// SetMTU implements [stack.LinkEndpoint].
func (e *Endpoint) SetMTU(mtu uint32) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.mtu = mtu
}

// LinkAddress returns the MAC address.
func (e *Endpoint) LinkAddress() tcpip.LinkAddress {
	e.mu.RLock()
	defer e.mu.RUnlock()
	return e.address
}

// SetLinkAddress implements [stack.LinkEndpoint].
func (e *Endpoint) SetLinkAddress(address tcpip.LinkAddress) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.address = address
}

// MaxHeaderLength returns the length of an Ethernet header, in bytes.
func (*Endpoint) MaxHeaderLength() uint16 { return header.EthernetMinimumSize }

// Capabilities says that MAC addresses are looked up by ARP or NDP.
func (*Endpoint) Capabilities() stack.LinkEndpointCapabilities {
	return stack.CapabilityResolutionRequired
}

// ARPHardwareType implements [stack.LinkEndpoint].
func (*Endpoint) ARPHardwareType() header.ARPHardwareType { return header.ARPHardwareEther }

// AddHeader implements [stack.LinkEndpoint].
func (*Endpoint) AddHeader(pkt *stack.PacketBuffer) {
	header.Ethernet(pkt.LinkHeader().Push(header.EthernetMinimumSize)).Encode(&header.EthernetFields{
		SrcAddr: pkt.EgressRoute.LocalLinkAddress,
		DstAddr: pkt.EgressRoute.RemoteLinkAddress,
		Type:    pkt.NetworkProtocolNumber,
	})
}

// ParseHeader implements [stack.LinkEndpoint].
func (*Endpoint) ParseHeader(pkt *stack.PacketBuffer) bool {
	_, ok := pkt.LinkHeader().Consume(header.EthernetMinimumSize)
	return ok
}
