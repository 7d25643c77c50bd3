package conformance

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/umlvde/umlvde/internal/rig"
	"golang.org/x/sys/unix"
)

// A stack gives a played guest an IP stack: its frames are those of eth0 in
// a network namespace.
type stack struct {
	ns      *rig.Namespace
	longest atomic.Int64 // of the frames that came from the network, bytes
}

func newStack(p *place, g *rig.Guest, address string) *stack {
	p.t.Helper()
	s := &stack{ns: rig.NewNamespace(p.t)}
	var tap *os.File
	s.ns.Do(func() {
		p.t.Helper()
		fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
		must(p.t, err)
		ifr, err := unix.NewIfreq("eth0")
		must(p.t, err)
		ifr.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
		must(p.t, unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr))
		tap = os.NewFile(uintptr(fd), "tap")
	})
	s.ns.Sh("ip link set eth0 up; ip addr add " + address + " dev eth0")
	fd, err := unix.FcntlInt(uintptr(g.Fd), unix.F_DUPFD_CLOEXEC, 0)
	must(p.t, err)
	must(p.t, unix.SetNonblock(fd, true))
	guest := os.NewFile(uintptr(fd), "guest")
	var pumps sync.WaitGroup
	pumps.Add(2)
	pump := func(to, from *os.File, longest *atomic.Int64) {
		defer pumps.Done()
		for buf := make([]byte, 1<<16); ; {
			n, err := from.Read(buf)
			if err != nil {
				return
			}
			if longest != nil {
				longest.Store(max(longest.Load(), int64(n)))
			}
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
	}
	go pump(guest, tap, nil)
	go pump(tap, guest, &s.longest)
	p.t.Cleanup(func() {
		tap.Close()
		guest.Close()
		pumps.Wait()
	})
	return s
}

// transfer sends a few megabytes over TCP, sees that they arrive as they were,
// and returns how fast that was in Mbit/s.
func transfer(place func(string) (*rig.Namespace, string), listen, dial string) (float64, error) {
	n, address := place(listen)
	l, err := listenIn(n, address)
	if err != nil {
		return 0, err
	}
	defer l.Close()
	data := make([]byte, 4<<20)
	for i := range data {
		data[i] = byte(i>>12) ^ byte(i*7)
	}
	received := make(chan error, 1)
	go func() {
		received <- func() error {
			c, err := l.Accept()
			if err != nil {
				return err
			}
			defer c.Close()
			got, err := io.ReadAll(c)
			if err == nil && !bytes.Equal(got, data) {
				err = fmt.Errorf("%d bytes came, not the %d that were sent", len(got), len(data))
			}
			return err
		}()
	}()
	n, address = place(dial)
	var c net.Conn
	n.Do(func() { c, err = net.DialTimeout("tcp", address, soon) })
	if err != nil {
		return 0, err
	}
	start := time.Now()
	_, err = c.Write(data)
	c.Close()
	select {
	case r := <-received:
		return float64(len(data)) * 8 / time.Since(start).Seconds() / 1e6, errors.Join(err, r)
	case <-time.After(20 * time.Second):
		return 0, fmt.Errorf("the %d bytes have not arrived within 20 s", len(data))
	}
}
