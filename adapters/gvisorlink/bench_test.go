package gvisorlink_test

import (
	"context"
	"fmt"
	"io"
	"testing"

	"github.com/umlvde/umlvde/adapters/gvisorlink"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
)

// BenchmarkTCP sends from one stack to another in the same process.
func BenchmarkTCP(b *testing.B) {
	for name, join := range networks {
		for _, mtu := range []uint32{1500, 9000} {
			if name == "vde_switch" && mtu > 1500 {
				continue // it cuts them
			}
			b.Run(fmt.Sprintf("%s/mtu=%d", name, mtu), func(b *testing.B) {
				near, far := join(b)
				o := &gvisorlink.Options{MTU: mtu}
				transfer(b, newHost(b, near, 1, o), newHost(b, far, 2, o))
			})
		}
	}
}

func transfer(b *testing.B, from, to *host) {
	l, err := gonet.ListenTCP(to.Stack, to.addr, ipv4.ProtocolNumber)
	must(b, err)
	defer l.Close()
	received := make(chan error, 1)
	go func() {
		c, err := l.Accept()
		if err == nil {
			_, err = io.Copy(io.Discard, c)
			c.Close()
		}
		received <- err
	}()
	c, err := gonet.DialContextTCP(context.Background(), from.Stack, to.addr, ipv4.ProtocolNumber)
	must(b, err)
	buf := make([]byte, 64<<10)
	b.SetBytes(int64(len(buf)))
	for b.Loop() {
		if _, err := c.Write(buf); err != nil {
			b.Fatal(err)
		}
	}
	must(b, c.Close())
	must(b, <-received)
}
