package main

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/umlvde/umlvde/internal/rig"
	"golang.org/x/sys/unix"
)

// make install-vde_plug makes this program the host's vde_plug, but does not
// overwrite another one.
func TestMakeInstall(t *testing.T) {
	dir := rig.TempDir(t)
	install := func() (string, error) {
		// The binary is the test's, so that make does not build one.
		cmd := exec.Command("make", "-s", "-C", "../..", "-o", "bin/umlvde", "install-vde_plug", "PREFIX=/usr", "DESTDIR="+dir)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	if _, err := os.Stat("../../bin/umlvde"); err != nil {
		must(t, exec.Command("make", "-s", "-C", "../..", "build").Run())
	}
	for range 2 { // again over itself
		if out, err := install(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	if out, err := exec.Command(dir+"/usr/bin/vde_plug", "-h").Output(); err != nil || !strings.HasPrefix(string(out), "usage: vde_plug ") {
		t.Errorf("%v: %s", err, out)
	}
	if text, err := os.ReadFile(dir + "/usr/share/man/man1/vde_plug.1"); err != nil || len(text) == 0 {
		t.Error(err)
	}
	must(t, os.Remove(dir+"/usr/bin/vde_plug"))
	must(t, os.WriteFile(dir+"/usr/bin/vde_plug", []byte("C's"), 0o600))
	out, err := install()
	if text, _ := os.ReadFile(dir + "/usr/bin/vde_plug"); err == nil || string(text) != "C's" || !strings.Contains(out, "is another program: move it away first") {
		t.Errorf("another program was overwritten: %v: %s", err, out)
	}
}

// Mistakes on the command line are answered with the right exit status and one
// clear line, and leave nothing behind.
func TestBadArguments(t *testing.T) {
	file, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	stream := os.NewFile(uintptr(pair[0]), "stream")
	defer stream.Close()
	defer unix.Close(pair[1])
	for _, tc := range []struct {
		name string
		args []string
		code int
		says string
	}{
		{"unknown option", []string{"--nosuch", "seqpacket://3", "slirp://"}, 2, "--nosuch"},
		{"bad octal mode", []string{"--mod2", "0799", "seqpacket://3", "slirp://"}, 2, `"0799" is not an octal mode`},
		{"bad port", []string{"--port2", "x", "seqpacket://3", "slirp://"}, 2, `port2`},
		{"negative port", []string{"--port2", "-1", "seqpacket://3", "slirp://"}, 2, `"-1" is not a port`},
		{"no number", []string{"seqpacket://x", "slirp://"}, 2, `"x" is not the number of a descriptor`},
		{"negative number", []string{"seqpacket://-1", "slirp://"}, 2, `"-1" is not the number`},
		{"closed", []string{"seqpacket://99", "slirp://"}, 1, "seqpacket://99: descriptor 99 is not open"},
		{"no socket", []string{"seqpacket://3", "slirp://"}, 1, "descriptor 3 is not a socket"},
		{"stream socket", []string{"seqpacket://4", "slirp://"}, 1, "descriptor 4 is not a SEQPACKET socket"},
		{"two guests mixed up", []string{"--descr", "A", "seqpacket://3", "slirp://", "--descr", "B", "seqpacket://4", "null://"}, 2, "4 VNLs are too many"},
		{"listen without a VNL", []string{"listen", "/tmp/x"}, 2, "listen takes a path and a VNL"},
		{"listen where it cannot", []string{"listen", "/nonexistent/x", "null://"}, 1, "cannot listen on /nonexistent/x: no such file or directory"},
		{"listen nowhere", []string{"listen", "", "null://"}, 1, `cannot connect to the socket ""`},
		{"listen at a path that is too long", []string{"listen", "/tmp/" + strings.Repeat("x", 103), "null://"}, 1, "has 108 bytes: choose one of at most 107"},
		{"run without a kernel", []string{"run"}, 2, "run needs the UML kernel"},
		{"run of a missing kernel", []string{"run", "/nonexistent/linux"}, 1, "/nonexistent/linux: no such file or directory"},
		{"run with a bad vec", []string{"run", "/bin/true", "vec0:transport=vde,port=x,vnl=null://"}, 2, `vec0: port="x" is not a port`},
		{"run with a port that no int in C holds", []string{"run", "/bin/true", "vec0:transport=vde,port=4294967297,vnl=null://"}, 2, `port="4294967297" is not a port`},
		{"worker by hand", []string{"worker"}, 2, "not for use by hand"},
		{"keeper by hand", []string{"keep"}, 2, "not for use by hand"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tmp := rig.TempDir(t)
			cmd := exec.Command(rig.Umlvde(), tc.args...)
			cmd.Env = append(os.Environ(), "TMPDIR="+tmp)
			var out, said bytes.Buffer
			cmd.Stdout, cmd.Stderr = &out, &said
			cmd.ExtraFiles = []*os.File{file, stream}
			_ = cmd.Run() // its status is looked at
			if got := cmd.ProcessState.ExitCode(); got != tc.code {
				t.Errorf("exit status %d, not %d", got, tc.code)
			}
			if text := said.String(); !strings.Contains(text, tc.says) || strings.Count(text, "\n") != 1 {
				t.Errorf("it says %q, not a line with %q", text, tc.says)
			}
			if out.Len() > 0 {
				t.Errorf("standard output: %q", out.String())
			}
			if left, _ := filepath.Glob(tmp + "/*"); len(left) > 0 {
				t.Errorf("left behind: %q", left)
			}
		})
	}
}

// Where run can make no sockets it says what to change.
func TestRunWithoutADirectory(t *testing.T) {
	cmd := exec.Command(rig.Umlvde(), "run", "/bin/true", "vec0:transport=vde,vnl=null://")
	cmd.Env = append(os.Environ(), "TMPDIR=/nonexistent")
	out, err := cmd.CombinedOutput()
	if want := "umlvde: there can be no sockets for the guest (TMPDIR may name another directory): stat /nonexistent: no such file or directory\n"; err == nil || string(out) != want {
		t.Errorf("%v: %q, not %q", err, out, want)
	}
}

// Without the library, and with one that is broken, the guest is told why in a
// line, goes on, and gets its network when the library appears.
func TestLibraryThatComesLater(t *testing.T) {
	dir := rig.TempDir(t)
	lib := filepath.Join(dir, "libvdeplug.so.2")
	g := rig.StartHelper(t, rig.HelperConfig{VNL: "hub://" + dir + "/hub", Env: []string{"LIBVDEPLUG=" + lib}})
	g.WaitLine(`^vde_plug: UML: hub://.*: link down: .*/libvdeplug.so.2: no such file or directory; trying again$`, 5*time.Second)
	flood(t, g, 500*time.Millisecond, guestPatience)
	installed, err := filepath.EvalSymlinks(realLibrary(t))
	if err != nil {
		t.Fatal(err)
	}
	// Plugins are looked for beside the library.
	if err := os.Symlink(filepath.Join(filepath.Dir(installed), "vdeplug"), filepath.Join(dir, "vdeplug")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(installed, lib); err != nil {
		t.Fatal(err)
	}
	g.WaitLine("link up again", recovery)
	end(t, g)
}

// realLibrary is the file that umlvde version names.
func realLibrary(t *testing.T) string {
	t.Helper()
	out, err := exec.Command(rig.Umlvde(), "version").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range strings.Split(string(out), "\n") {
		if path, ok := strings.CutPrefix(line, "library "); ok {
			return path
		}
	}
	t.Fatalf("no library in %q", out)
	return ""
}

func TestBrokenLibraryIsExplained(t *testing.T) {
	dir := rig.TempDir(t)
	compile := func(name, source string, flags ...string) string {
		src, lib := filepath.Join(dir, name+".c"), filepath.Join(dir, name+".so")
		if err := os.WriteFile(src, []byte(source), 0o600); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command("gcc", append([]string{"-shared", "-fPIC", "-o", lib, src}, flags...)...).CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return lib
	}
	garbage := filepath.Join(dir, "garbage.so")
	if err := os.WriteFile(garbage, []byte("this is no library\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	arch := filepath.Join(dir, "arch.so") // an ELF file of another machine
	elf, err := os.ReadFile(compile("elf", "int x;"))
	if err != nil {
		t.Fatal(err)
	}
	elf[18] ^= 0xff
	if err := os.WriteFile(arch, elf, 0o600); err != nil {
		t.Fatal(err)
	}
	compile("libdep", "int dep(void) { return 0; }", "-Wl,-soname,libdep-that-is-missing.so")
	for _, tc := range []struct{ name, lib, says string }{
		{"garbage", garbage, "invalid ELF header|file too short"},
		{"wrong architecture", arch, "it is not for this machine"},
		{
			"missing dependency", compile("needs", "int dep(void); int x(void) { return dep(); }", "-L"+dir, "-Wl,--no-as-needed", filepath.Join(dir, "libdep.so")),
			"libdep-that-is-missing.so: cannot open shared object file",
		},
		{"missing symbol", compile("symbols", "unsigned long long __vde_version_tag = 4;"), "undefined symbol: vde_open_real"},
		{"the old vde2", compile("vde2", "void *vde_open_real(void) { return 0; }"), "the old vde2"},
		{"something else", compile("other", "int x;"), "undefined symbol: vde_open_real"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			g := rig.StartHelper(t, rig.HelperConfig{VNL: "hub://" + dir + "/hub", Env: []string{"LIBVDEPLUG=" + tc.lib}})
			m := g.WaitLine(`link down: the VDE library cannot be used: .*(`+tc.says+`).*; trying again$`, 5*time.Second)
			t.Log(m[0])
			end(t, g)
		})
	}
}

// SIGTERM and SIGINT end the helper, after the plug was closed: a hub's
// directory is gone.
func TestSignalsCloseThePlug(t *testing.T) {
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		t.Run(sig.String(), func(t *testing.T) {
			dir := rig.TempDir(t)
			g := rig.StartHelper(t, rig.HelperConfig{VNL: "hub://" + dir + "/hub"})
			g.WaitLine("link up", 5*time.Second)
			g.Signal(sig)
			if code := g.Wait(time.Second); code != 0 {
				t.Errorf("exit status %d", code)
			}
			if left, _ := filepath.Glob(dir + "/*"); len(left) > 0 {
				t.Errorf("left behind: %q", left)
			}
		})
	}
}

// A worker that gets SIGTERM closes its plug and is replaced; the guest keeps
// its network.
func TestTerminatedWorkerIsReplaced(t *testing.T) {
	dir := rig.TempDir(t)
	g := rig.StartHelper(t, rig.HelperConfig{VNL: "hub://" + dir + "/hub"})
	g.WaitLine("link up", 5*time.Second)
	for _, pid := range g.Children() {
		if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
	}
	g.WaitLine("link up again", recovery)
	end(t, g)
}

// A hub whose host was killed leaves a directory, which the next one takes
// over.
func TestKilledHubIsReclaimed(t *testing.T) {
	dir := rig.TempDir(t)
	g := rig.StartHelper(t, rig.HelperConfig{VNL: "hub://" + dir + "/hub"})
	g.WaitLine("link up", 5*time.Second)
	for _, pid := range g.Children() {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	g.WaitLine("link up again", recovery)
	end(t, g)
	if left, _ := filepath.Glob(dir + "/*"); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

// vxvde says goodbye when the helper ends: 8 bytes to its group.
func TestGoodbyeOfVxvde(t *testing.T) {
	group := &net.UDPAddr{IP: net.IPv4(239, 77, 1, 2), Port: 14789}
	lo, err := net.InterfaceByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	sniffer, err := net.ListenMulticastUDP("udp4", lo, group)
	if err != nil {
		t.Fatal(err)
	}
	defer sniffer.Close()
	g := rig.StartHelper(t, rig.HelperConfig{VNL: "vxvde://239.77.1.2/if=lo"})
	g.WaitLine("link up", 5*time.Second)
	end(t, g)
	if err := sniffer.SetReadDeadline(time.Now().Add(2 * time.Second)); err != nil {
		t.Fatal(err)
	}
	for buf := make([]byte, 2000); ; {
		n, err := sniffer.Read(buf)
		if err != nil {
			t.Fatalf("no goodbye: %v", err)
		}
		if n == 8 {
			return
		}
	}
}

// A hang-up of the terminal is ignored as UML has asked, and a broken pipe for
// standard error ends nothing.
func TestHangUpAndBrokenPipeAreIgnored(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	dir := rig.TempDir(t)
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	guest := os.NewFile(uintptr(pair[1]), "guest")
	// A shell that ignores SIGHUP hands that on, as UML does.
	cmd := exec.Command("sh", "-c", `trap "" HUP; exec "$0" "$@"`, rig.VdePlug(), "--descr", "UML", "seqpacket://3", "vde://"+dir+"/none")
	cmd.Stderr, cmd.ExtraFiles = w, []*os.File{guest}
	p := rig.Start(t, cmd)
	w.Close()
	guest.Close()
	g := &rig.Guest{Proc: p, Fd: pair[0]}
	defer g.Close()
	rig.Eventually(t, 5*time.Second, "a worker was started", func() bool { return len(g.Children()) > 0 })
	g.Signal(syscall.SIGHUP)
	g.Signal(syscall.SIGPIPE)
	rig.Switch(t, dir+"/none")
	mirror(t, dir+"/none")
	g.Echo(5 * time.Second)
	end(t, g)
}

// What UML leaks to its helper is closed: the descriptors of the files that the
// guest has open.
func TestInheritedDescriptorsAreClosed(t *testing.T) {
	dir := rig.TempDir(t)
	leaked, err := os.Create(dir + "/leaked")
	if err != nil {
		t.Fatal(err)
	}
	defer leaked.Close()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	guest := os.NewFile(uintptr(pair[1]), "guest")
	cmd := exec.Command(rig.VdePlug(), "-v", "seqpacket://4", "null://")
	cmd.ExtraFiles = []*os.File{leaked, guest, leaked}
	p := rig.Start(t, cmd)
	guest.Close()
	defer unix.Close(pair[0])
	p.WaitLine("link up", 5*time.Second)
	for _, pid := range append(p.Children(), p.Pid()) {
		for fd, target := range rig.OpenFiles(t, pid) {
			if strings.HasPrefix(target, dir) {
				t.Errorf("process %d has descriptor %d: %s", pid, fd, target)
			}
		}
	}
}

// UML up to 6.12, when it is killed, leaves threads that keep the socket open:
// the helper ends with its parent all the same.
func TestHelperEndsWithItsParent(t *testing.T) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pair[0]) // never hung up
	guest := os.NewFile(uintptr(pair[1]), "guest")
	cmd := exec.Command("sh", "-c", `"$0" "$@"; :`, rig.VdePlug(), "-v", "seqpacket://3", "null://")
	cmd.ExtraFiles = []*os.File{guest}
	p := rig.Start(t, cmd)
	guest.Close()
	p.WaitLine("link up", 5*time.Second)
	helpers := p.Children()
	if len(helpers) != 1 {
		t.Fatalf("%d helpers", len(helpers))
	}
	helpers = append(helpers, rig.Children(helpers[0])...)
	p.Signal(syscall.SIGKILL)
	rig.Eventually(t, time.Second, "the helper and its worker have ended", func() bool {
		return !rig.Alive(helpers[0]) && !rig.Alive(helpers[1])
	})
}

// Without a VNL the helper takes the user's default network, a VNL in a file.
func TestDefaultNetwork(t *testing.T) {
	home := rig.TempDir(t)
	if err := os.Mkdir(home+"/.vdeplug", 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(home+"/.vdeplug/default", []byte("hub://"+home+"/hub"), 0o600); err != nil { // no newline
		t.Fatal(err)
	}
	g := rig.StartHelper(t, rig.HelperConfig{VNL: "", Env: []string{"HOME=" + home}})
	g.WaitLine("^vde_plug: UML: the default network: link up", 5*time.Second)
	if _, err := os.Stat(home + "/hub/ctl"); err != nil {
		t.Error(err)
	}
	end(t, g)
}

// Workers come and go; their guardian keeps nothing of them.
func TestGuardianLeaksNothing(t *testing.T) {
	dir := rig.TempDir(t)
	g := rig.StartHelper(t, rig.HelperConfig{VNL: "hub://" + dir + "/hub"})
	g.WaitLine("link up", 5*time.Second)
	before := rig.OpenFiles(t, g.Pid())
	for range 20 {
		for _, pid := range g.Children() {
			if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
		}
		g.WaitLine("link up again", 5*time.Second)
	}
	if after := rig.OpenFiles(t, g.Pid()); len(after) != len(before) {
		t.Errorf("descriptors before: %v, after 20 workers: %v", before, after)
	}
	if n := len(g.Children()); n != 1 {
		t.Errorf("%d workers", n)
	}
	end(t, g)
}

// The helper is quick, small and, while nothing happens, asleep.
func TestIdleHelperSleeps(t *testing.T) {
	start := time.Now()
	net := rig.TempDir(t)
	g := rig.StartHelper(t, rig.HelperConfig{VNL: "hub://" + net + "/hub"})
	g.WaitLine("link up", 5*time.Second)
	t.Logf("link up after %v", time.Since(start))
	pids := append(g.Children(), g.Pid())
	if len(pids) != 2 {
		t.Fatalf("%d processes, not guardian and worker", len(pids))
	}
	kb := rig.ResidentKB(t, pids[0]) + rig.ResidentKB(t, pids[1])
	t.Logf("%d kB resident together", kb)
	if limit := 24 << 10; kb > limit && !rig.Race {
		t.Errorf("more than %d kB resident", limit)
	}
	count := func() string {
		return fmt.Sprint(rig.Switches(t, pids[0]), rig.Switches(t, pids[1]))
	}
	// The Go runtime wakes up once a minute, and settles down after a start.
	for try := 0; ; try++ {
		before := count()
		time.Sleep(10 * time.Second) // what is measured
		after := count()
		if before == after {
			return
		}
		if try == 2 {
			t.Fatalf("context switches in 10 s: %s before, %s after", before, after)
		}
	}
}
