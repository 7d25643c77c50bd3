package main

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// A far is a kind of far end.
type far struct {
	name  string
	vnl   func(id string) string // of the helper; id tells the programs' far ends apart
	sizes []int
	queue int // bytes of frames that may be under way without a loss
	// socket says that the shuttle can serve it, too.
	socket bool
	// loop says that the guest's frames come back to it; there is no far port.
	loop bool
	// before makes what must be there before the helper, after what needs the helper.
	before, after func(l *link, id string) error
	headers       func(l *link) headers
}

// headers are what is before the payload of a frame.
type headers struct {
	guest, far     []byte // as either end writes them
	atGuest, atFar int    // how many bytes of them either end finds
	farMore        int    // by how many bytes a frame is longer at the far end than in the guest
}

var plainHeaders = headers{
	guest: ether(farMAC, guestMAC, etherType), far: ether(guestMAC, farMAC, etherType),
	atGuest: etherLen, atFar: etherLen,
}

// A link is one program with its far end.
type link struct {
	*helper
	kind     *far
	far      port
	file     *os.File // the helper's end of a socketpair
	slirpMAC [6]byte
	passed   time.Time // when the first frame had gone through
	headers  headers
	ends     []io.Closer
	cpu      int
}

// closer makes a function an io.Closer.
type closer func() error

func (f closer) Close() error { return f() }

func plain(_ *link) headers { return plainHeaders }

// fars lists the far ends in the order in which they are measured; dir is for
// their sockets.
func fars(dir string) []*far {
	all := []int{64, 1514, 9014}
	const (
		short = 80 * 1514 // a socket's default buffer has room for 93
		long  = 512 << 10
	)
	path := func(scheme string) func(string) string {
		return func(id string) string { return scheme + filepath.Join(dir, id) }
	}
	return []*far{
		{
			name: "socketpair", socket: true, queue: long, sizes: all, headers: plain,
			vnl: func(string) string { return "seqpacket://4" }, before: pairBefore,
		},
		{ // it cuts what is longer than 1518 bytes
			name: "vde_switch", socket: true, queue: short, sizes: all[:2], headers: plain,
			vnl: path("vde://"), before: switchBefore(dir), after: plugAfter(path("vde://")),
		},
		{name: "tap", queue: long, sizes: all, headers: plain, vnl: tapVNL, before: tapBefore, after: tapAfter},
		{name: "hub", queue: short, sizes: all, headers: plain, vnl: path("hub://"), after: plugAfter(path("vde://"))},
		{name: "switch", queue: short, sizes: all, headers: plain, vnl: path("switch://"), after: plugAfter(path("vde://"))},
		{name: "slirp", queue: short, sizes: []int{64, 1514}, headers: slirpHeaders, vnl: func(string) string { return "slirp://" }, after: slirpAfter},
		// cat sends everything back.
		{name: "cmd", queue: 32 << 10, sizes: all[:2], headers: plain, vnl: func(string) string { return "cmd://cat" }, loop: true},
		{name: "vxvde", queue: short, sizes: all[:2], headers: plain, vnl: vxvdeVNL, after: plugAfter(vxvdeVNL)},
	}
}

func pairBefore(l *link, _ string) error {
	ours, theirs, err := socketpair()
	if err != nil {
		return err
	}
	l.far, l.file = &socketPort{sock: ours}, theirs
	return nil
}

// switchBefore starts a vde_switch.
func switchBefore(dir string) func(*link, string) error {
	return func(l *link, id string) error {
		path := filepath.Join(dir, id)
		cmd := exec.Command("vde_switch", "-s", path)
		in, err := cmd.StdinPipe() // it ends with its console
		if err != nil {
			return err
		}
		p, err := start(cmd, l.cpu)
		if err != nil {
			return err
		}
		l.ends = append(l.ends, closer(func() error {
			in.Close()
			p.end(2 * time.Second)
			return nil
		}))
		return eventually(5*time.Second, "the switch listens", func() bool { return listens(filepath.Join(path, "ctl")) })
	}
}

func listens(path string) bool {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	return unix.Connect(fd, &unix.SockaddrUnix{Name: path}) == nil
}

// plugAfter opens a plug of our own on the same network.
func plugAfter(vnl func(string) string) func(*link, string) error {
	return func(l *link, id string) error {
		var p *plugPort
		var err error
		if e := eventually(5*time.Second, "a plug in "+vnl(id), func() bool {
			p, err = openPlug(vnl(id))
			return err == nil
		}); e != nil {
			return fmt.Errorf("%w: %w", e, err)
		}
		l.far = p
		return nil
	}
}

// newLink starts a program with a far end, and waits until frames pass.
func newLink(p programs, kind *far, name, id string, cpu int) (_ *link, err error) {
	l := &link{kind: kind, cpu: cpu}
	defer func() {
		if err != nil {
			_ = l.end() // the first error is the one to tell
		}
	}()
	if kind.before != nil {
		if err := kind.before(l, id); err != nil {
			return nil, err
		}
	}
	if l.helper, err = startHelper(p, name, kind.vnl(id), l.file, cpu); err != nil {
		return nil, err
	}
	if l.file != nil {
		l.file.Close()
	}
	if kind.after != nil {
		if err := kind.after(l, id); err != nil {
			return nil, err
		}
	}
	l.headers = kind.headers(l)
	return l, l.greet()
}

// end ends the program and its far end.
func (l *link) end() (err error) {
	if l.helper != nil {
		l.drain()
		err = l.helper.end()
	}
	if l.far != nil {
		l.far.close()
	}
	for _, c := range l.ends {
		_ = c.Close() // always nil
	}
	return err
}
