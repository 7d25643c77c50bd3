package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/umlvde/umlvde/internal/rig"
)

// buildStatic builds the program of testdata/static.c.
func buildStatic(t *testing.T) string {
	t.Helper()
	path := rig.TempDir(t) + "/static"
	if out, err := exec.Command("gcc", "-Wall", "-o", path, "testdata/static.c", "-l:libvdeplug.a").CombinedOutput(); err != nil {
		t.Fatalf("building a program with the static library: %v\n%s", err, out)
	}
	return path
}

// static is a running program with the static library.
type static struct {
	*rig.Proc
	t   *testing.T
	in  io.Writer
	out *bufio.Scanner
}

// startStatic starts it with v as the vde_plug in PATH.
func startStatic(t *testing.T, path string, v variant, env []string, args ...string) static {
	t.Helper()
	dir := rig.TempDir(t)
	must(t, os.Symlink(v.path, dir+"/vde_plug"))
	cmd := exec.Command(path, args...)
	cmd.Env = append(append(os.Environ(), "PATH="+dir+":"+os.Getenv("PATH")), env...)
	in, err := cmd.StdinPipe()
	must(t, err)
	out, w, err := os.Pipe()
	must(t, err)
	cmd.Stdout = w
	s := static{rig.Start(t, cmd), t, in, bufio.NewScanner(out)}
	w.Close()
	t.Cleanup(func() { in.Close(); out.Close() })
	s.expect("open")
	return s
}

// expect reads the next line that is no answer to a probe.
func (s static) expect(want string) {
	s.t.Helper()
	for s.out.Scan() {
		switch got := s.out.Text(); got {
		case want:
			return
		case "got probe":
		default:
			s.t.Fatalf("the program said %q, not %q", got, want)
		}
	}
	s.t.Fatalf("the program ended and did not say %q", want)
}

// probe sends frames until one comes back.
func (s static) probe() {
	s.t.Helper()
	done := make(chan bool)
	go func() {
		defer close(done)
		for {
			if _, err := fmt.Fprintln(s.in, "probe"); err != nil {
				return
			}
			select {
			case done <- true:
				return
			case <-time.After(20 * time.Millisecond):
			}
		}
	}()
	if !s.out.Scan() || s.out.Text() != "got probe" {
		s.t.Fatalf("no frame came back: %q", s.out.Text())
	}
	<-done
}

// A program with the static library has a network through us as through the C
// program; a VNL that is no good ends its socket at once. Unlike through C, it
// survives the end of the switch.
func TestStaticLibrary(t *testing.T) {
	path := buildStatic(t)
	c, ours := variants(t)
	for _, v := range []variant{c, ours} {
		t.Run(v.name, func(t *testing.T) {
			t.Parallel()
			sw := rig.TempDir(t) + "/s"
			end := rig.Switch(t, sw)
			mirror(t, sw)
			s := startStatic(t, path, v, nil, "vde://"+sw, "a program")
			s.probe()
			for i := range 20 {
				fmt.Fprintln(s.in, "hello", i)
				s.expect(fmt.Sprint("got hello ", i))
			}
			end.Signal(syscall.SIGKILL)
			if v == c {
				s.expect("end of the network")
				return
			}
			s.WaitLine("^vde_plug: a program: .*: link down", 5*time.Second)
			rig.Switch(t, sw)
			s.probe()
			helpers := s.Children()
			must(t, s.in.(io.Closer).Close())
			s.expect("end")
			rig.Eventually(t, 2*time.Second, "the helper has ended with the program", func() bool {
				return len(helpers) == 1 && !rig.Alive(helpers[0])
			})
		})
		for _, vnl := range []string{"vde:///nonexistent/switch", "nosuch://", "slirp:///nosuch=1", "hub:///nonexistent/hub", ""} {
			t.Run(v.name+" "+vnl, func(t *testing.T) {
				t.Parallel()
				s := startStatic(t, path, v, []string{"HOME=/nonexistent"}, vnl)
				s.expect("end of the network")
				s.Wait(5 * time.Second)
				show := vnl
				if vnl == "" {
					show = "default"
				}
				if s.WaitLine("^vde_(plug|open)", time.Second); !strings.Contains(s.Lines()[len(s.Lines())-1], show) {
					t.Errorf("it says %q", s.Lines())
				}
			})
		}
	}
}

// What the program gives to vde_open reaches the plugin as through C.
func TestStaticLibraryOptions(t *testing.T) {
	path, lib := buildStatic(t), buildRecorder(t)
	installed, err := filepath.EvalSymlinks(realLibrary(t))
	must(t, err)
	lib += ":" + filepath.Dir(installed) + "/vdeplug" // C needs its seqpacket
	c, ours := variants(t)
	for _, args := range []string{"record://x", "record://x|a b", "record://x|d|3|users|0750"} {
		var records []string
		for _, v := range []variant{c, ours} {
			file := filepath.Join(rig.TempDir(t), "record")
			startStatic(t, path, v, []string{"VDEPLUGIN_PATH=" + lib, "RECORD=" + file}, strings.Split(args, "|")...)
			rig.Eventually(t, 5*time.Second, "the plugin is opened", func() bool {
				text, err := os.ReadFile(file)
				return err == nil && len(text) > 0
			})
			text, err := os.ReadFile(file)
			must(t, err)
			first, _, _ := strings.Cut(string(text), "\n")
			records = append(records, first)
		}
		if records[0] != records[1] {
			t.Errorf("%s: C opened %q, umlvde %q", args, records[0], records[1])
		}
	}
}

// Kernels up to 6.15 have the static library inside, for eth0=vde.
func TestStaticLibraryInAKernel(t *testing.T) {
	sw := rig.TempDir(t) + "/s"
	u := rig.Boot(t, rig.Kernel(t, "6.1"), nil, []string{"eth0=vde,slirp://", "eth1=vde," + sw + ",,3,users,0750,lab"}, nil)
	u.Must(bootTime, "ip link set eth0 up && ip addr add 10.0.2.15/24 dev eth0")
	ping(u, 2)
	u.Must(bootTime, "ip addr flush dev eth0; ip link set eth0 down; ip link set eth1 up; ip addr add 10.0.2.101/24 dev eth1")
	rig.Switch(t, sw) // it comes late, as it may
	other := underRun(t, "7", "vec0:transport=vde,vnl="+sw)
	address(other, 102)
	ping(u, 102)
	for _, g := range []*rig.UML{u, other} {
		if status := g.PowerOff(); status != 0 {
			t.Errorf("exit status %d", status)
		}
	}
}

// A kernel that gives its devices names of their own is still a kernel, whose socket
// must not end when the network is not there yet, also behind a script.
func TestNamedDeviceIsNoProgram(t *testing.T) {
	sw := rig.TempDir(t) + "/s"
	u := behindScript(t, "6.12", "vec0:transport=vde,descr=lab,vnl="+sw)
	address(u, 101)
	u.Proc.WaitLine("vde_plug: lab: .*: link down: no switch there .*; trying again", 5*time.Second)
	rig.Switch(t, sw)
	u.Proc.WaitLine("vde_plug: lab: .*: link up again", 5*time.Second)
	u.PowerOff()
}
