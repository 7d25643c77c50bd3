package plug

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/umlvde/umlvde/internal/mmsg"
	"github.com/umlvde/umlvde/internal/relay"
	"github.com/umlvde/umlvde/internal/rig"
	"golang.org/x/sys/unix"
)

func TestHubAndClients(t *testing.T) {
	dir := filepath.Join(rig.TempDir(t), "h")
	host := open(t, "hub://"+dir)
	stop, stopped := make(chan struct{}), make(chan struct{})
	got := make(chan uint32, 1000)
	go func() { // it lets clients in, and passes their frames on, while it receives
		defer close(stopped)
		b, err := mmsg.NewBatch()
		if err != nil {
			t.Error(err)
			return
		}
		defer b.Free()
		r, _, _ := host.Fds()
		for {
			select {
			case <-stop:
				return
			default:
			}
			_, _ = unix.Poll([]unix.PollFd{{Fd: int32(r), Events: unix.POLLIN}}, 10)
			if host.Recv(b) == nil {
				for i := range b.Len() {
					got <- rig.Number(b.Frame(i))
				}
			}
		}
	}()
	a, b := open(t, "vde://"+dir), open(t, "vde://"+dir)
	carry(t, a, b, 1)
	if n := <-got; n != 1 {
		t.Errorf("the host got frame %d", n)
	}
	close(stop)
	<-stopped
	send(t, host, rig.Frame(60, 2))
	if rig.Number(receive(t, a)[0]) != 2 || rig.Number(receive(t, b)[0]) != 2 {
		t.Error("the host's frame did not reach its clients")
	}
}

// TestReclaimHub opens a hub whose last host was killed, and one whose host is
// alive.
func TestReclaimHub(t *testing.T) {
	dir := filepath.Join(rig.TempDir(t), "h")
	must(t, os.Mkdir(dir, 0o700))
	for _, name := range []string{"ctl", ".12345-0"} {
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		must(t, err)
		must(t, unix.Bind(fd, &unix.SockaddrUnix{Name: filepath.Join(dir, name)}))
		must(t, unix.Close(fd))
	}
	first, err := Open(ParseVNL("hub://"+dir), Options{})
	must(t, err)
	if _, err := Open(ParseVNL("hub://"+dir+"[mode=700]"), Options{}); !errors.Is(err, fs.ErrExist) {
		t.Errorf("with a host that is alive: %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "ctl")); err != nil {
		t.Errorf("the second host broke the first: %v", err)
	}
	if r, _, _ := first.Fds(); mmsg.Readable(r) {
		t.Error("the second host has connected to the first, which will hear of that for ever")
	}
	must(t, first.Close())

	// A host that was killed while it removed its directory has left it empty.
	must(t, os.Mkdir(dir, 0o700))
	if _, err := Open(ParseVNL("hub://"+dir), Options{}); !errors.Is(err, fs.ErrExist) {
		t.Errorf("in an empty directory of the user's: %v", err)
	}
	must(t, os.Chmod(dir, fs.ModeSetgid|0o700))
	second, err := Open(ParseVNL("hub://"+dir), Options{})
	must(t, err)
	must(t, second.Close())

	// What is not a hub's stays.
	must(t, os.Mkdir(dir, 0o700))
	file := filepath.Join(dir, "file")
	must(t, os.WriteFile(file, nil, 0o600))
	if _, err := Open(ParseVNL("hub://"+dir), Options{}); !errors.Is(err, fs.ErrExist) {
		t.Errorf("in a directory of something else: %v", err)
	}
	if _, err := os.Stat(file); err != nil {
		t.Error(err)
	}
}

// TestReclaimVde opens a switch's network where clients have left sockets, and one is
// still waiting.
func TestReclaimVde(t *testing.T) {
	dir := filepath.Join(rig.TempDir(t), "s")
	rig.Switch(t, dir)
	for _, prefix := range []string{dir + "/.", "/var/run/vde.", "/var/tmp/vde.", "/tmp/vde."} {
		name := fmt.Sprintf("%s%05d-99999", prefix, os.Getpid())
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		must(t, err)
		must(t, unix.Bind(fd, &unix.SockaddrUnix{Name: name}))
		t.Cleanup(func() { _ = os.Remove(name) })
		open(t, dir)
		if _, err := os.Stat(name); err != nil {
			t.Errorf("of a client that is waiting: %v", err)
		}
		must(t, unix.Close(fd))
		open(t, dir)
		if _, err := os.Stat(name); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is left: %v", name, err)
		}
	}
}

// TestUsersHub opens a hub without a name twice: what is said of the directory is about
// the one that the plugin takes, whatever the environment says of the user.
func TestUsersHub(t *testing.T) {
	t.Setenv("USER", "nobody-at-all")
	open(t, "hub://")
	if _, err := os.Stat(filepath.Join(usersHub(), "ctl")); err != nil {
		t.Error(err)
	}
	if _, err := Open(ParseVNL("hub://"), Options{}); !errors.Is(err, fs.ErrExist) || !strings.Contains(err.Error(), usersHub()) {
		t.Errorf("the second one: %v", err)
	}
}

func TestSwitchEnds(t *testing.T) {
	dir := filepath.Join(rig.TempDir(t), "s")
	sw := rig.Switch(t, dir)
	p := open(t, "vde://"+dir)
	sw.Signal(os.Kill)
	_, _, ctl := p.Fds()
	poll(t, ctl, unix.POLLIN)
	if err := p.Check(); !errors.Is(err, io.EOF) {
		t.Errorf("Check: %v", err)
	}
	sw.Wait(soon)
	b, c := newBatch(t), relay.Counters{}
	b.Append(rig.Frame(60, 1))
	if err := p.Send(b, &c); !errors.Is(err, io.EOF) {
		t.Errorf("Send: %v", err)
	}
}

// TestHubClientResets has a client tell a hub's host of an error (ECONNRESET): it is
// the client's, and the host serves the others.
func TestHubClientResets(t *testing.T) {
	dir := filepath.Join(rig.TempDir(t), "h")
	host := open(t, "hub://"+dir)
	batch := newBatch(t)
	// The host lets clients in while it receives.
	client := func() Plug {
		t.Helper()
		opened := make(chan Plug)
		go func() {
			p, err := Open(ParseVNL("vde://"+dir), Options{})
			if err != nil {
				t.Error(err)
			}
			opened <- p
		}()
		for {
			select {
			case p := <-opened:
				if p == nil {
					t.FailNow()
				}
				t.Cleanup(func() { must(t, p.Close()) })
				return p
			default:
				if err := host.Recv(batch); err != nil && !errors.Is(err, unix.EAGAIN) {
					t.Fatal(err)
				}
			}
		}
	}
	a, b := client(), client()
	data, _, _ := a.Fds()
	send(t, host, rig.Frame(60, 1))
	poll(t, data, unix.POLLIN) // what it throws away unread is the error
	if errno := mmsg.Disconnect(data); errno != 0 {
		t.Fatal(errno)
	}
	r, _, _ := host.Fds()
	poll(t, r, unix.POLLIN)
	for mmsg.Readable(r) {
		if err := host.Recv(batch); err != nil && !errors.Is(err, unix.EAGAIN) {
			t.Fatalf("the client's error ends the hub: %v", err)
		}
	}
	send(t, b, rig.Frame(60, 7))
	poll(t, r, unix.POLLIN)
	if rig.Number(receive(t, host)[0]) != 7 {
		t.Error("not the frame of the other client")
	}
}
