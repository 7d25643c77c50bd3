package plug

import (
	"errors"
	"fmt"
	"io"
	"testing"

	"github.com/umlvde/umlvde/internal/rig"
	"golang.org/x/sys/unix"
)

// packetPair makes a plug on a SEQPACKET socket, and its far end, which the test
// closes.
func packetPair(t *testing.T) (near *Socket, far int) {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	must(t, err)
	t.Cleanup(func() { unix.Close(pair[0]) })
	near, err = NewSocket(pair[0])
	must(t, err)
	return near, pair[1]
}

// TestUnreadAtTheEnd closes a socket that has sent frames and has not read all that
// came: its frames are there at once, not only after an error.
func TestUnreadAtTheEnd(t *testing.T) {
	near, far := packetPair(t)
	b := newBatch(t)
	send(t, &ownSocket{near}, rig.Frame(60, 1))
	for i := range uint32(3) {
		must(t, unix.Sendto(far, rig.Frame(60, i), 0, nil))
	}
	must(t, unix.Close(far))
	if err := near.Recv(b); err != nil || b.Len() != 3 {
		t.Errorf("%d frames, %v", b.Len(), err)
	}
	if err := near.Recv(b); err != io.EOF { //nolint:errorlint // it is bare
		t.Errorf("and then %v", err)
	}
}

// TestEmptyIsNoEnd has a message of 0 bytes before the last frame of a socket whose
// other end is closed, read one by one and at once.
func TestEmptyIsNoEnd(t *testing.T) {
	for _, room := range []int{1, 2, 64} {
		near, far := packetPair(t)
		b := newBatch(t)
		b.Limit(room)
		must(t, unix.Sendto(far, nil, 0, nil))
		must(t, unix.Sendto(far, nil, 0, nil))
		must(t, unix.Sendto(far, rig.Frame(60, 1), 0, nil))
		must(t, unix.Close(far))
		came := 0
		for {
			err := near.Recv(b)
			if err != nil {
				if err != io.EOF { //nolint:errorlint // it is bare
					t.Error(err)
				}
				break
			}
			for i := range b.Len() {
				came += b.Size(i)
			}
		}
		if came != 60 {
			t.Errorf("room for %d: %d bytes came, not 60", room, came)
		}
	}
}

// TestEmptyDatagram has an empty datagram come while poll reports what would be an
// end of a SEQPACKET socket.
func TestEmptyDatagram(t *testing.T) {
	p, q := freePort(t), freePort(t)
	a := open(t, fmt.Sprintf("udp://127.0.0.1:%d->127.0.0.1:%d", p, q))
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	must(t, err)
	defer unix.Close(fd)
	must(t, unix.Sendto(fd, nil, 0, &unix.SockaddrInet4{Port: p, Addr: [4]byte{127, 0, 0, 1}}))
	data, _, _ := a.Fds()
	poll(t, data, unix.POLLIN)
	_ = unix.Shutdown(data, unix.SHUT_RD) // it works, and says ENOTCONN
	poll(t, data, unix.POLLRDHUP)
	if err := a.Recv(newBatch(t)); errors.Is(err, io.EOF) {
		t.Error("it was taken for the end")
	}
}
