// Dhcpd hands out the addresses of a VDE network by DHCP: the first is its own,
// the next ones go to whoever asks, each for good.
//
//	dhcpd -network 10.0.0.0/24 vde:///tmp/switch
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/server4"
	"github.com/umlvde/umlvde/adapters/gvisorlink"
	"github.com/umlvde/umlvde/libvdeplug"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
	"gvisor.dev/gvisor/pkg/waiter"
)

func main() {
	network := netip.MustParsePrefix("10.0.0.0/24")
	flag.TextVar(&network, "network", network, "IPv4 `prefix`")
	flag.Parse()
	if flag.NArg() != 1 {
		log.Fatal("usage: dhcpd [-network PREFIX] VNL")
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := serve(ctx, flag.Arg(0), network.Masked()); err != nil && ctx.Err() == nil {
		log.Fatal(err)
	}
}

func serve(ctx context.Context, vnl string, network netip.Prefix) error {
	conn, err := libvdeplug.OpenContext(ctx, vnl, nil)
	if err != nil {
		return err
	}
	link, own := gvisorlink.New(conn, nil), network.Addr().Next()
	stack, err := gvisorlink.NewStack(link, netip.PrefixFrom(own, network.Bits()))
	if err != nil {
		return err
	}
	defer stack.Destroy() // unplugs

	var queue waiter.Queue
	socket, terr := stack.NewEndpoint(udp.ProtocolNumber, ipv4.ProtocolNumber, &queue)
	if terr != nil {
		return errors.New(terr.String())
	}
	socket.SocketOptions().SetBroadcast(true)
	if terr := socket.Bind(tcpip.FullAddress{NIC: gvisorlink.NIC, Port: dhcpv4.ServerPort}); terr != nil {
		return errors.New(terr.String())
	}
	l := &leases{network: network, server: own, last: own, given: make(map[string]netip.Addr)}
	server, err := server4.NewServer("", nil, l.handle, server4.WithConn(gonet.NewUDPConn(&queue, socket)))
	if err != nil {
		return err
	}
	go func() {
		link.Wait() // until the network ends
		server.Close()
	}()
	context.AfterFunc(ctx, func() { server.Close() })
	log.Printf("serving %v on %v", network, conn.LocalAddr())
	if err := server.Serve(); link.Err() == nil {
		return err
	}
	return fmt.Errorf("the network has ended: %w", link.Err())
}

type leases struct {
	network      netip.Prefix
	server, last netip.Addr // last is the last that was given away
	given        map[string]netip.Addr
	mu           sync.Mutex
}

// lease returns the address of a client.
func (l *leases) lease(client string) (netip.Addr, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if a, ok := l.given[client]; ok {
		return a, nil
	}
	next := l.last.Next()
	if !l.network.Contains(next.Next()) { // the very last is for broadcasts
		return next, fmt.Errorf("no address is left for %s", client)
	}
	l.last, l.given[client] = next, next
	log.Printf("%v is for %s", next, client)
	return next, nil
}

var answers = map[dhcpv4.MessageType]dhcpv4.MessageType{
	dhcpv4.MessageTypeDiscover: dhcpv4.MessageTypeOffer, dhcpv4.MessageTypeRequest: dhcpv4.MessageTypeAck,
}

// handle answers a client.
func (l *leases) handle(conn net.PacketConn, peer net.Addr, request *dhcpv4.DHCPv4) {
	answer, ok := answers[request.MessageType()]
	if !ok {
		return // also to one who gives an address back: it stays the client's
	}
	if chosen := request.ServerIdentifier(); chosen != nil && !chosen.Equal(l.server.AsSlice()) {
		return // it takes the offer of another server
	}
	address, err := l.lease(request.ClientHWAddr.String())
	if err == nil {
		var reply *dhcpv4.DHCPv4
		reply, err = dhcpv4.NewReplyFromRequest(request, dhcpv4.WithMessageType(answer),
			dhcpv4.WithYourIP(address.AsSlice()), dhcpv4.WithNetmask(net.CIDRMask(l.network.Bits(), 32)),
			dhcpv4.WithOption(dhcpv4.OptServerIdentifier(l.server.AsSlice())), dhcpv4.WithLeaseTime(uint32(time.Hour.Seconds())))
		if err == nil {
			_, err = conn.WriteTo(reply.ToBytes(), peer)
		}
	}
	if err != nil {
		log.Print(err)
	}
}
