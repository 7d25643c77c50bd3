// Webserver is a web server with a TCP/IP of its own: it has an address on a VDE
// network and none of the host's interfaces, and needs no root.
//
//	webserver -address 10.0.0.1/24 vde:///tmp/switch
//
// A guest on that switch fetches http://10.0.0.1/, which greets it. With -outlive it
// survives the end of the switch, and serves on when there is another.
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"net/http"
	"net/netip"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/umlvde/umlvde/adapters/gvisorlink"
	"github.com/umlvde/umlvde/libvdeplug"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
)

func main() {
	address := flag.String("address", "10.0.0.1/24", "IPv4 `address/length`, with the length of the network's prefix")
	outlive := flag.Bool("outlive", false, "run the plugin in a process of its own (umlvde, in $PATH), anew when its network ends")
	flag.Parse()
	if flag.NArg() != 1 {
		log.Fatal("usage: webserver [-address ADDRESS/LENGTH] [-outlive] VNL")
	}
	var o libvdeplug.Options
	if *outlive {
		o.Isolation = &libvdeplug.Isolation{Reconnect: time.Second, OnState: report}
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := serve(ctx, flag.Arg(0), *address, &o); err != nil && ctx.Err() == nil {
		log.Fatal(err)
	}
}

func serve(ctx context.Context, vnl, address string, o *libvdeplug.Options) error {
	prefix, err := netip.ParsePrefix(address)
	if err != nil {
		return err
	}
	conn, err := libvdeplug.OpenContext(ctx, vnl, o)
	if err != nil {
		return err
	}
	link := gvisorlink.New(conn, nil)
	stack, err := gvisorlink.NewStack(link, prefix)
	if err != nil {
		return err
	}
	defer stack.Destroy() // unplugs
	listener, err := gonet.ListenTCP(stack, tcpip.FullAddress{Port: 80}, ipv4.ProtocolNumber)
	if err != nil {
		return err
	}
	server := http.Server{Handler: http.HandlerFunc(greet), ReadHeaderTimeout: 10 * time.Second}
	go func() {
		link.Wait() // until the network ends
		server.Close()
	}()
	context.AfterFunc(ctx, func() { server.Close() })
	log.Printf("serving http://%v/ on %v", prefix.Addr(), conn.LocalAddr())
	if err := server.Serve(listener); link.Err() == nil {
		return err
	}
	return fmt.Errorf("the network has ended: %w", link.Err())
}

func report(_ *libvdeplug.Conn, down error) {
	if down != nil {
		log.Printf("no network: %v", down)
	} else {
		log.Print("network again")
	}
}

func greet(w http.ResponseWriter, r *http.Request) {
	fmt.Fprintf(w, "Hello, %s!\n", r.RemoteAddr)
}
