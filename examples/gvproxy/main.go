// Gvproxy gives a VDE network what podman's virtual machines have: DHCP, DNS and
// a way out through the host's own connections, without root. It is the virtual
// network of gvisor-tap-vsock, to which a libvdeplug.Conn is handed as it is.
//
//	gvproxy vde:///tmp/switch
//
// Guests get addresses of 192.168.127.0/24; the host is 192.168.127.254.
package main

import (
	"context"
	"log"
	"os"
	"os/signal"
	"syscall"

	"github.com/containers/gvisor-tap-vsock/pkg/types"
	"github.com/containers/gvisor-tap-vsock/pkg/virtualnetwork"
	"github.com/umlvde/umlvde/libvdeplug"
)

func main() {
	if len(os.Args) != 2 {
		log.Fatal("usage: gvproxy VNL")
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := serve(ctx, os.Args[1]); err != nil && ctx.Err() == nil {
		log.Fatal(err)
	}
}

func serve(ctx context.Context, vnl string) error {
	network, err := virtualnetwork.New(&types.Configuration{
		MTU:               1500,
		Subnet:            "192.168.127.0/24",
		GatewayIP:         "192.168.127.1",
		GatewayMacAddress: "5a:94:ef:e4:0c:dd",
		GatewayVirtualIPs: []string{"192.168.127.254"},
		NAT:               map[string]string{"192.168.127.254": "127.0.0.1"},
	})
	if err != nil {
		return err
	}
	conn, err := libvdeplug.OpenContext(ctx, vnl, nil)
	if err != nil {
		return err
	}
	context.AfterFunc(ctx, func() { conn.Close() }) // AcceptBess looks at ctx only between frames
	log.Printf("serving 192.168.127.0/24 on %v", conn.LocalAddr())
	return network.AcceptBess(ctx, conn)
}
