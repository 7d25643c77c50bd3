package gvisorlink_test

import (
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/netip"

	"github.com/umlvde/umlvde/adapters/gvisorlink"
	"github.com/umlvde/umlvde/libvdeplug/vdetest"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
)

// A web server and a client of it on a network in memory. With what libvdeplug.Open
// returns instead of vdetest.Pair, they would be on a switch, with anybody else who
// is there.
func Example() {
	near, far := vdetest.Pair()
	server, err := gvisorlink.NewStack(gvisorlink.New(far, nil), netip.MustParsePrefix("10.0.0.1/24"))
	if err != nil {
		log.Fatal(err)
	}
	defer server.Destroy()
	listener, err := gonet.ListenTCP(server, tcpip.FullAddress{Port: 80}, ipv4.ProtocolNumber)
	if err != nil {
		log.Fatal(err)
	}
	go http.Serve(listener, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { //nolint:errcheck // as in any example
		fmt.Fprintf(w, "Hello from %s", r.Host)
	}))
	defer listener.Close()

	stack, err := gvisorlink.NewStack(gvisorlink.New(near, nil), netip.MustParsePrefix("10.0.0.2/24"))
	if err != nil {
		log.Fatal(err)
	}
	defer stack.Destroy()
	transport := &http.Transport{DialContext: func(ctx context.Context, _, address string) (net.Conn, error) {
		to, err := netip.ParseAddrPort(address)
		if err != nil {
			return nil, err
		}
		return gonet.DialContextTCP(ctx, stack, tcpip.FullAddress{Addr: tcpip.AddrFrom4(to.Addr().As4()), Port: to.Port()}, ipv4.ProtocolNumber)
	}}
	defer transport.CloseIdleConnections()
	client := http.Client{Transport: transport}
	response, err := client.Get("http://10.0.0.1/")
	if err != nil {
		log.Fatal(err)
	}
	defer response.Body.Close()
	page, err := io.ReadAll(response.Body)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s\n", page)
	// Output: Hello from 10.0.0.1
}
