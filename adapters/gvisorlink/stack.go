package gvisorlink

import (
	"fmt"
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/network/arp"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
)

// NIC is the number of a link in what [NewStack] makes.
const NIC tcpip.NICID = 1

// NewStack makes an ordinary host on a network: a stack with IPv4, IPv6, TCP, UDP
// and ping that has a link, as NIC number 1, some addresses there, and a route to
// the network of each; for a way beyond, add one with its AddRoute. End it with its
// Destroy, which closes the link; an error of NewStack has closed it, too.
//
// TCP has no RACK, with which gVisor may take seconds to recover where many frames
// were lost at once, as a vde_switch under load does it.
func NewStack(link *Endpoint, addresses ...netip.Prefix) (*stack.Stack, error) {
	s := stack.New(stack.Options{
		NetworkProtocols: []stack.NetworkProtocolFactory{arp.NewProtocol, ipv4.NewProtocol, ipv6.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{
			tcp.NewProtocol, udp.NewProtocol, icmp.NewProtocol4, icmp.NewProtocol6,
		},
	})
	if err := configure(s, link, addresses); err != nil {
		link.Close()
		s.Destroy()
		return nil, err
	}
	return s, nil
}

func configure(s *stack.Stack, link *Endpoint, addresses []netip.Prefix) error {
	rack := tcpip.TCPRecovery(0)
	if err := s.SetTransportProtocolOption(tcp.ProtocolNumber, &rack); err != nil {
		return fmt.Errorf("gvisorlink: turning RACK off: %v", err)
	}
	if err := s.CreateNIC(NIC, link); err != nil {
		return fmt.Errorf("gvisorlink: adding the link: %v", err)
	}
	var routes []tcpip.Route
	for _, a := range addresses {
		if !a.IsValid() {
			return fmt.Errorf("gvisorlink: %v is not an address with the length of its network's prefix", a)
		}
		address := tcpip.ProtocolAddress{
			Protocol:          ipv4.ProtocolNumber,
			AddressWithPrefix: tcpip.AddressWithPrefix{Address: tcpip.AddrFromSlice(a.Addr().AsSlice()), PrefixLen: a.Bits()},
		}
		if a.Addr().Is6() {
			address.Protocol = ipv6.ProtocolNumber
		}
		if err := s.AddProtocolAddress(NIC, address, stack.AddressProperties{}); err != nil {
			return fmt.Errorf("gvisorlink: adding the address %v: %v", a, err)
		}
		routes = append(routes, tcpip.Route{Destination: address.AddressWithPrefix.Subnet(), NIC: NIC})
	}
	s.SetRouteTable(routes)
	return nil
}
