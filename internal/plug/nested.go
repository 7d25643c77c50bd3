package plug

import (
	"errors"
	"fmt"
	"strings"
	"sync/atomic"

	"github.com/umlvde/umlvde/internal/cvde"
	"github.com/umlvde/umlvde/internal/mmsg"
	"github.com/umlvde/umlvde/internal/relay"
	"golang.org/x/sys/unix"
)

// nestedPlug is a plugin that changes the frames of another network, the inner
// one, whose VNL is in braces. The plugin would open it by itself, with nothing
// of what this package knows about it; so it is given one end of a socket
// instead, and the inner network, opened here, gets the other.
type nestedPlug struct {
	outer    Plug    // the plugin, on the socket's one end
	sock     *Socket // its other end
	inner    Plug
	up, down *mmsg.Batch    // on their way from sock to inner, from inner to sock
	full     bool           // inner may have more than down got, and not show it
	held     atomic.Bool    // frames wait for outer in the socket
	count    relay.Counters // of up and down: nobody asks for it
	t        traits
}

// split returns what is in a VNL's braces and the VNL with something else there.
func (v VNL) split() (nested string, with func(other string) VNL, err error) {
	arg, rest, ok := strings.Cut(v.Arg, "{")
	if ok {
		end := strings.LastIndex(rest, "}")
		if end < 0 {
			return "", nil, &grammarError{errors.New("the brace before the nested VNL is not closed"), table[v.Plugin].grammar.form}
		}
		nested = rest[:end]
	}
	return nested, func(other string) VNL { return ParseVNL(v.Plugin + "://" + arg + "{" + other + "}") }, nil
}

func openNested(lib *cvde.Library, vnl VNL, opts Options) (_ Plug, err error) {
	nested, with, err := vnl.split()
	if err != nil {
		return nil, err
	}
	innerVNL, err := Resolve(nested)
	if err != nil {
		return nil, err
	}
	var undo []func()
	defer func() {
		for i := len(undo) - 1; err != nil && i >= 0; i-- {
			undo[i]()
		}
	}()
	p := &nestedPlug{t: table[vnl.Plugin]}
	for _, b := range []**mmsg.Batch{&p.up, &p.down} {
		if *b, err = mmsg.NewBatch(); err != nil {
			return nil, err
		}
		undo = append(undo, (*b).Free)
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	enlarge(pair[0])
	enlarge(pair[1])
	p.sock = &Socket{fd: pair[1]}
	undo = append(undo, func() { _ = unix.Close(pair[1]) })
	ours, err := inode(pair[0])
	if err != nil {
		return nil, err
	}
	conn, err := openC(lib, with(fmt.Sprintf("seqpacket://%d", pair[0])), opts)
	if err != nil {
		// Depending on why it failed, the library has closed its end.
		if now, err := inode(pair[0]); err == nil && now == ours {
			_ = unix.Close(pair[0])
		}
		return nil, explain(lib, vnl, err)
	}
	p.outer = classify(conn, vnl)
	undo = append(undo, func() { _ = p.outer.Close() })
	if p.inner, err = Open(innerVNL, opts); err != nil {
		return nil, fmt.Errorf("in braces: %w", err)
	}
	return p, nil
}

// finishTags puts a separator behind vlan's list of tags: the plugin counts them
// in a copy without the last character, so of a last tag with one digit it knows
// nothing when it allocates memory for them.
func finishTags(v VNL) VNL {
	arg, nested, has := strings.Cut(v.Arg, "{")
	elems := strings.Split(arg, "/")
	for i, e := range elems {
		if name, list, ok := strings.Cut(e, "="); i > 0 && ok && list != "" && strings.HasPrefix("tag", name) {
			elems[i] = e + "."
		}
	}
	arg = strings.Join(elems, "/")
	if has {
		arg += "{" + nested
	}
	return ParseVNL(v.Plugin + "://" + arg)
}

// tagType is the type of the frames in which a vlan sees tags (802.1Q or 802.1ad).
func tagType(v VNL) (tpid uint16) {
	arg, _, _ := strings.Cut(v.Arg, "{")
	_, elems := elements(arg, vlanGrammar.mark)
	for _, e := range elems {
		name, _, _ := strings.Cut(e, "=")
		switch p, _ := vlanGrammar.params.find(name); p.name {
		case "q", "qinq", "ad":
			return 0x88a8
		}
	}
	return 0x8100
}

func inode(fd int) (uint64, error) {
	var st unix.Stat_t
	err := unix.Fstat(fd, &st)
	return st.Ino, err
}

// Recv has outer change a batch of inner's frames. The socket never holds more of
// them than outer takes at once; if it has no room for all of the batch, the
// others follow, and Fds shows that there are some.
func (p *nestedPlug) Recv(b *mmsg.Batch) error {
	if !p.held.Load() {
		if err := p.fetch(); err != nil {
			return err
		}
	}
	b.Return() // room for all of them: the inner network's descriptor does not show the others
	for {
		err := p.outer.Recv(b)
		var next error = unix.EAGAIN
		switch {
		case p.down.Len() > 0:
			next = p.pass()
		case p.full && b.Len() < mmsg.Max && !p.shown():
			next = p.fetch()
		}
		p.held.Store(next == nil)
		switch {
		case err != unix.EAGAIN: //nolint:errorlint // the Port contract: bare
			return err // if next is an end, it will be so again
		case next != nil:
			return next
		}
	}
}

// shown reports whether inner's descriptor shows that it has more.
func (p *nestedPlug) shown() bool {
	r, _, _ := p.inner.Fds()
	return mmsg.Readable(r)
}

// fetch gets frames of inner on their way to outer. unix.EAGAIN says that there
// was none.
func (p *nestedPlug) fetch() error {
	p.full = false
	if err := p.inner.Recv(p.down); err != nil {
		p.down.Clear()
		return err
	}
	p.full = p.down.Len() == mmsg.Max
	p.down.Screen(p.t.minRecv, p.t.maxRecv)
	return p.pass()
}

// pass gives the socket as many of the frames in down as it has room for.
func (p *nestedPlug) pass() error {
	err := p.sock.Send(p.down, &p.count)
	if err == unix.EAGAIN { //nolint:errorlint // as above
		return nil
	}
	return err
}

func (p *nestedPlug) Send(b *mmsg.Batch, c *relay.Counters) error {
	runts, _ := b.Screen(p.t.minSend, mmsg.FrameCap)
	c.Dropped(relay.Runt, runts)
	for {
		if err := p.flush(); err != nil {
			return err
		}
		left := b.Len()
		if left == 0 {
			return nil
		}
		switch err := p.outer.Send(b, c); {
		case err != nil && err != unix.EAGAIN: //nolint:errorlint // as above
			return err
		case b.Len() == left:
			return unix.EAGAIN
		}
	}
}

// flush hands over to the inner network what the plugin has sent.
func (p *nestedPlug) flush() error {
	for {
		if p.up.Len() > 0 || p.inner.Unsent() {
			if err := p.inner.Send(p.up, &p.count); err != nil {
				return err
			}
		}
		err := p.sock.Recv(p.up)
		if err == unix.EAGAIN { //nolint:errorlint // as above
			return nil
		}
		if err != nil {
			return err
		}
		p.up.Screen(relay.MinFrame, p.inner.MaxFrame())
	}
}

func (p *nestedPlug) Unsent() bool {
	return p.up.Len() > 0 || p.inner.Unsent() || mmsg.Readable(p.sock.fd)
}

// MaxFrame is the inner network's, as far as that has room for what is added.
func (p *nestedPlug) MaxFrame() int {
	return min(p.inner.MaxFrame(), cvde.EthBufSize) - p.t.overhead
}

func (p *nestedPlug) Fds() (r, w, ctl int) {
	r, w, ctl = p.inner.Fds()
	if p.held.Load() {
		r, _, _ = p.outer.Fds()
	}
	return r, w, ctl
}

func (p *nestedPlug) Check() error   { return p.inner.Check() }
func (p *nestedPlug) Pumps() bool    { return p.inner.Pumps() }
func (p *nestedPlug) CallsC() bool   { return true }
func (p *nestedPlug) Parallel() bool { return false }

func (p *nestedPlug) Close() error {
	err := p.outer.Close()
	_ = unix.Close(p.sock.fd)
	err = errors.Join(err, p.inner.Close())
	p.up.Free()
	p.down.Free()
	return err
}
