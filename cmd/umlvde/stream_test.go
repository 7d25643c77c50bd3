package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/umlvde/umlvde/internal/rig"
	"golang.org/x/sys/unix"
)

// joined starts two switches with a guest on each of them.
func joined(t *testing.T) (paths [2]string, guests [2]*rig.Guest) {
	t.Helper()
	for i := range paths {
		paths[i] = rig.TempDir(t) + "/s"
		rig.Switch(t, paths[i])
		guests[i] = rig.StartHelper(t, rig.HelperConfig{VNL: "vde://" + paths[i]})
		guests[i].WaitLine("link up", 5*time.Second)
	}
	return paths, guests
}

// exchange carries frames of all sizes that a switch takes, both ways between two
// guests, and waits for the link before.
func exchange(t *testing.T, guests [2]*rig.Guest) {
	t.Helper()
	await(t, guests[0], guests[1])
	await(t, guests[1], guests[0])
	for i := range uint32(200) {
		n := 18 + int(i*7919)%1497
		for from := range guests {
			sent := rig.Frame(n, i)
			sent[11] = byte(from) // each guest has an address of its own
			if !guests[from].Send(sent, time.Second) {
				t.Fatal("no room for a frame")
			}
			if got := next(guests[1-from]); !bytes.Equal(got, sent) {
				t.Fatalf("frame %d of %d bytes from guest %d came as %d bytes: %x", i, n, from, len(got), got)
			}
		}
	}
}

// await sends frames until one comes through.
func await(t *testing.T, from, to *rig.Guest) {
	t.Helper()
	rig.Eventually(t, 10*time.Second, "a frame comes through", func() bool {
		probe := rig.Frame(60, 0xffff)
		probe[11] = 99 // of no guest
		from.Send(probe, time.Second)
		return to.Recv(20*time.Millisecond) != nil
	})
}

// next is the next frame that is no probe.
func next(g *rig.Guest) []byte {
	for {
		f := g.Recv(2 * time.Second)
		if len(f) < 18 || rig.Number(f) != 0xffff {
			return f
		}
	}
}

// Two switches are joined in every way that vde_plug knows, by the C program, by
// ours and by one of each: all frames arrive, unchanged, in both directions.
func TestEveryCable(t *testing.T) {
	c, ours := variants(t)
	ssh := sshConfig(t)
	for _, tc := range []struct {
		name  string
		shell string // X and Y are vde_plugs, A and B switches
		ours  int    // the one that has to be ours: C's loses its place when a length comes in two pieces
	}{
		{"two VNLs", `exec $X $A $B`, 0},
		{"two VNLs with names", `exec $X vde://$A vde://$B`, 0},
		{"dpipe", `dpipe $X $A = $Y $B & wait`, -1},
		{"command", `exec $X $A = $Y $B`, -1},
		{"command in cmd://", `exec $X $A "cmd://$Y $B"`, -1},
		{"byte by byte", `dpipe $X $A =} dd bs=1 status=none }= $Y $B & wait`, 1},
		{"in odd pieces", `dpipe $X $A ={ dd bs=7 status=none {= $Y $B & wait`, 0},
		{"sockets", `exec socat "EXEC:$X $A" "EXEC:$Y $B"`, -1},
		{"ssh", `exec $X $A = ssh -F $ssh -p 1 remote $Y $B`, -1},
		{"ssh in dpipe", `dpipe $X $A = ssh -F $ssh remote $Y $B & wait`, -1},
		{"login shell", `dpipe $X $A = $Y -c vde_plug $B & wait`, -1},
		{"fifos", `mkfifo there back; $X $A >there <back & exec $Y $B <there >back`, -1},
		{"daemon", `$X -d -p $pid $A $B; while [ ! -s $pid ]; do sleep 0.01; done; read -r wait; kill $(cat $pid)`, 0},
	} {
		for _, v := range [][2]variant{{ours, c}, {c, ours}, {ours, ours}} {
			if strings.HasPrefix(tc.shell, "exec $X $A = ssh") && v[0] == c { // C takes the -p
				continue
			}
			if tc.ours >= 0 && v[tc.ours] == c || !strings.Contains(tc.shell, "$Y") && v[1] == c {
				continue
			}
			t.Run(fmt.Sprintf("%s/%s %s", tc.name, v[0].name, v[1].name), func(t *testing.T) {
				t.Parallel()
				dir := rig.TempDir(t)
				var path [2]string
				for i, v := range v { // so that both are called vde_plug
					path[i] = fmt.Sprintf("%s/%d/vde_plug", dir, i)
					must(t, os.Mkdir(filepath.Dir(path[i]), 0o700))
					must(t, os.Symlink(v.path, path[i]))
				}
				sw, guests := joined(t)
				cmd := exec.Command("sh", "-c", tc.shell)
				cmd.Env = append(os.Environ(), "X="+path[0], "Y="+path[1], "A="+sw[0], "B="+sw[1], "pid="+dir+"/pid", "ssh="+ssh)
				cmd.Dir = dir
				cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
				in, err := cmd.StdinPipe()
				must(t, err)
				defer in.Close()
				p := rig.Start(t, cmd)
				t.Cleanup(func() {
					in.Close()
					for _, pid := range rig.Session(p.Pid()) {
						_ = syscall.Kill(pid, syscall.SIGTERM) // it may have ended
					}
				})
				exchange(t, guests)
			})
		}
	}
}

// sshConfig returns a configuration with which "ssh remote" talks to a server of its
// own, over pipes.
func sshConfig(t *testing.T) (path string) {
	t.Helper()
	dir := rig.TempDir(t)
	for _, name := range []string{"host", "user"} {
		if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", dir+"/"+name).CombinedOutput(); err != nil {
			t.Fatalf("ssh-keygen: %v\n%s", err, out)
		}
	}
	host, err := os.ReadFile(dir + "/host.pub")
	must(t, err)
	for name, text := range map[string]string{
		"known_hosts": "remote " + string(host),
		// The server wants a directory in /run.
		"server.sh": "mount -t tmpfs tmpfs /run; mkdir -m 755 /run/sshd; exec /usr/sbin/sshd -i -e -f " + dir + "/server",
		"server":    "HostKey " + dir + "/host\nAuthorizedKeysFile " + dir + "/user.pub\nStrictModes no\nPermitRootLogin yes\nUsePAM yes\nLogLevel ERROR\n",
		"config": "Host remote\nUser root\nIdentityFile " + dir + "/user\nIdentitiesOnly yes\nUserKnownHostsFile " + dir +
			"/known_hosts\nBatchMode yes\nLogLevel ERROR\nHostKeyAlias remote\nProxyCommand unshare --mount sh -e " + dir + "/server.sh\n",
	} {
		must(t, os.WriteFile(dir+"/"+name, []byte(text), 0o600))
	}
	return dir + "/config"
}

// The end of either network is the end of a cable, which says which one it was.
func TestCableEnds(t *testing.T) {
	_, ours := variants(t)
	for i, which := range []string{"first", "second"} {
		t.Run(which, func(t *testing.T) {
			t.Parallel()
			var paths [2]string
			var switches [2]*rig.Proc
			for i := range paths {
				paths[i] = rig.TempDir(t) + "/s"
				switches[i] = rig.Switch(t, paths[i])
			}
			p := rig.Start(t, exec.Command(ours.path, "-v", "vde://"+paths[0], "vde://"+paths[1]))
			p.WaitLine("are joined", 5*time.Second)
			switches[i].Signal(syscall.SIGKILL)
			if code := p.Wait(5 * time.Second); code != exitFailure {
				t.Errorf("exit status %d", code)
			}
			p.WaitLine("^[^ ]*: vde://"+paths[i]+": the network has closed the connection$", time.Second)
		})
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// aStream is a vde_plug on a switch, with its standard input and output in the
// test's hands, and a guest on the same switch.
type aStream struct {
	*rig.Proc
	in, out *os.File
	guest   *rig.Guest
	sw      *rig.Proc
}

func startStream(t *testing.T, v variant, opts ...string) aStream {
	t.Helper()
	path := rig.TempDir(t) + "/s"
	s := aStream{sw: rig.Switch(t, path)}
	cmd := exec.Command(v.path, append(opts, path)...)
	cmd.Args[0] = "vde_plug"
	r, in, err := os.Pipe()
	must(t, err)
	out, w, err := os.Pipe()
	must(t, err)
	cmd.Stdin, cmd.Stdout = r, w
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // C sends signals on to its process group
	s.Proc, s.in, s.out = rig.Start(t, cmd), in, out
	r.Close()
	w.Close()
	t.Cleanup(func() { in.Close(); out.Close() })
	s.guest = rig.StartHelper(t, rig.HelperConfig{VNL: "vde://" + path})
	s.guest.WaitLine("link up", 5*time.Second)
	// Until a frame has come, it may not have opened its plug.
	frames := make(chan []byte, 1)
	go func() {
		f, _ := readFrame(out) // nil at the end
		frames <- f
	}()
	rig.Eventually(t, 5*time.Second, "the first frame comes", func() bool {
		s.guest.Send(rig.Frame(60, 0xffff), time.Second)
		select {
		case f := <-frames:
			return f != nil
		case <-time.After(20 * time.Millisecond):
			return false
		}
	})
	return s
}

func framed(f []byte) []byte {
	return append(binary.BigEndian.AppendUint16(nil, uint16(len(f))), f...)
}

func readFrame(r io.Reader) ([]byte, error) {
	var head [2]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	f := make([]byte, binary.BigEndian.Uint16(head[:]))
	_, err := io.ReadFull(r, f)
	return f, err
}

// Frames may come and be taken in pieces of any size.
func TestStreamInPieces(t *testing.T) {
	_, ours := variants(t)
	s := startStream(t, ours)
	for _, size := range []int{1, 2, 3, 5, 16, 61, 62, 63, 100, 1000, 1516, 1517, 4096, 5000} {
		var text []byte
		var want [][]byte
		for i := range uint32(10) {
			want = append(want, rig.Frame(18+int(i*151+uint32(size))%1497, i))
			text = append(text, framed(want[i])...)
		}
		for len(text) > 0 { // each piece on its own, as the pipe is empty before
			n := min(size, len(text))
			_, err := s.in.Write(text[:n])
			must(t, err)
			text = text[n:]
			if len(text) < 3000 && size < 20 {
				emptied(t, s.in)
			}
		}
		for i, f := range want {
			if got := next(s.guest); !bytes.Equal(got, f) {
				t.Fatalf("in pieces of %d bytes, frame %d came as %d bytes, not %d", size, i, len(got), len(f))
			}
		}
		for i := range want {
			want[i][11] = 7 // the other way, from another address
			if !s.guest.Send(want[i], time.Second) {
				t.Fatal("no room for a frame")
			}
		}
		r := pieces{s.out, size}
		for i := 0; i < len(want); {
			got, err := readFrame(r)
			must(t, err)
			if rig.Number(got) == 0xffff {
				continue
			}
			if !bytes.Equal(got, want[i]) {
				t.Fatalf("taken in pieces of %d bytes, frame %d came as %d bytes, not %d", size, i, len(got), len(want[i]))
			}
			i++
		}
	}
}

// pieces reads some bytes at a time.
type pieces struct {
	io.Reader
	size int
}

func (p pieces) Read(b []byte) (int, error) { return p.Reader.Read(b[:min(len(b), p.size)]) }

// emptied waits until all that was written to a pipe is read.
func emptied(t *testing.T, f *os.File) {
	t.Helper()
	c, err := f.SyscallConn()
	must(t, err)
	for deadline, n := time.Now().Add(5*time.Second), 1; n > 0; runtime.Gosched() { // there is no event for it
		must(t, c.Control(func(fd uintptr) { n, err = unix.IoctlGetInt(int(fd), unix.TIOCINQ) }))
		must(t, err)
		if time.Now().After(deadline) {
			t.Fatalf("%d bytes are not read", n)
		}
	}
}

// A standard output that nobody reads stops only what goes there, and the flags of
// descriptors that others have, too, stay as they are.
func TestStreamThatIsNotRead(t *testing.T) {
	_, ours := variants(t)
	s := startStream(t, ours)
	flags := func(fd int) int {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/fdinfo/%d", s.Pid(), fd))
		must(t, err)
		var pos, flags int
		_, err = fmt.Sscanf(string(text), "pos: %d\nflags: %o", &pos, &flags)
		must(t, err)
		return flags
	}
	for i := range uint32(2000) {
		f := rig.Frame(1000, i)
		f[11] = 7
		if !s.guest.Send(f, time.Second) {
			t.Fatal("no room for a frame")
		}
	}
	for i := range uint32(100) {
		want := rig.Frame(100, i)
		_, err := s.in.Write(framed(want))
		must(t, err)
		if got := next(s.guest); !bytes.Equal(got, want) {
			t.Fatalf("frame %d came as %x", i, got)
		}
	}
	for fd := range 2 {
		if f := flags(fd); f&unix.O_NONBLOCK != 0 {
			t.Errorf("descriptor %d was made non-blocking: %#o", fd, f)
		}
	}
	last := uint32(0)
	for range 40 { // what was in the pipe is whole
		f, err := readFrame(s.out)
		must(t, err)
		if n := rig.Number(f); n != 0xffff {
			if len(f) != 1000 || n < last {
				t.Fatalf("frame %d of %d bytes after %d", n, len(f), last)
			}
			last = n
		}
	}
}

// Each way to end, side by side.
func TestStreamEnds(t *testing.T) {
	c, ours := variants(t)
	for _, tc := range []struct {
		name    string
		end     func(t *testing.T, s aStream)
		c, ours string
		says    string
	}{
		{"standard input ends", func(_ *testing.T, s aStream) { s.in.Close() }, "exit status 0", "exit status 0", ""},
		{"a frame is cut", func(t *testing.T, s aStream) {
			_, err := s.in.Write(framed(rig.Frame(60, 1))[:20])
			must(t, err)
			s.in.Close()
		}, "exit status 0", "exit status 1", "standard input and output: the stream ended within a frame"},
		{"no frames come", func(t *testing.T, s aStream) {
			_, err := s.in.WriteString("Welcome to this host!\n")
			must(t, err)
		}, "it goes on", "exit status 1", "something else than frames in the stream"},
		{"nobody reads standard output any more", func(_ *testing.T, s aStream) { s.out.Close() }, "it goes on", "exit status 0", ""},
		{"the switch ends", func(_ *testing.T, s aStream) { s.sw.Signal(syscall.SIGKILL) }, "exit status 0", "exit status 1", "s: the network has closed the connection"},
		{"SIGTERM", func(_ *testing.T, s aStream) { s.Signal(syscall.SIGTERM) }, "exit status 0", "exit status 0", ""},
		{"SIGINT", func(_ *testing.T, s aStream) { s.Signal(syscall.SIGINT) }, "signal: interrupt", "signal: interrupt", ""},
		{"SIGHUP", func(_ *testing.T, s aStream) { s.Signal(syscall.SIGHUP) }, "signal: hangup", "signal: hangup", ""},
		{"SIGPIPE and others", func(_ *testing.T, s aStream) {
			s.Signal(syscall.SIGPIPE)
		}, "it goes on", "it goes on", ""},
	} {
		for _, v := range []variant{c, ours} {
			t.Run(tc.name+"/"+v.name, func(t *testing.T) {
				t.Parallel()
				s := startStream(t, v)
				tc.end(t, s)
				want := tc.ours
				if v == c {
					want = tc.c
				}
				got := "it goes on"
				if want != got {
					s.Wait(5 * time.Second)
					got = strings.TrimSuffix(s.Cmd.ProcessState.String(), " (core dumped)")
				} else if len(s.guest.Lines()) == 0 || !rig.Alive(s.Pid()) {
					got = "it has ended"
				}
				if got != want {
					t.Errorf("%s, not %s", got, want)
				}
				if v == ours && tc.says != "" {
					s.WaitLine(tc.says, time.Second)
				} else if v == ours && len(s.Lines()) > 0 {
					t.Errorf("it says %q", s.Lines())
				}
			})
		}
	}
}
