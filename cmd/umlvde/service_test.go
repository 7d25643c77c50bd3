package main

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/umlvde/umlvde/internal/rig"
	"golang.org/x/sys/unix"
)

// A daemon is on its own: its pidfile is there when the caller goes on, it holds
// nothing of the caller's, and tidies up. C's pidfile and command come a moment later.
func TestDaemon(t *testing.T) {
	c, ours := variants(t)
	for _, v := range []variant{c, ours} {
		for _, how := range []string{"cable", "command"} {
			t.Run(v.name+"/"+how, func(t *testing.T) {
				t.Parallel()
				dir := rig.TempDir(t)
				pidfile, hub := dir+"/pid", dir+"/hub"
				args := []string{"-dp", pidfile, "hub://" + hub, "null://"}
				if how == "command" {
					args = []string{"-d", "-p", pidfile, "hub://" + hub, "=", "sleep", "60"}
				}
				cmd := exec.Command(v.path, args...)
				cmd.Dir, cmd.Env = dir, append(os.Environ(), "GORACE=atexit_sleep_ms=0")
				out, err := cmd.CombinedOutput() // comes back when nobody holds these any more
				if err != nil || len(out) > 0 {
					t.Fatalf("%v: %s", err, out)
				}
				if _, err := os.Stat(pidfile); err != nil && v == ours {
					t.Errorf("the pidfile is not there yet: %v", err)
				}
				pid := 0
				rig.Eventually(t, 5*time.Second, "the daemon is there", func() bool {
					text, err := os.ReadFile(pidfile)
					if err != nil {
						return false
					}
					pid, err = strconv.Atoi(strings.TrimSpace(string(text)))
					_, absent := os.Stat(hub + "/ctl")
					return err == nil && absent == nil && (v == ours || how == "cable" || len(rig.Children(pid)) > 0)
				})
				t.Cleanup(func() { _ = syscall.Kill(pid, syscall.SIGKILL) }) // else it is gone
				if sid, err := unix.Getsid(pid); err != nil || sid != pid {
					t.Errorf("it is not in a session of its own: %d %v", sid, err)
				}
				for fd, target := range rig.OpenFiles(t, pid) {
					if fd < 3 && target != "/dev/null" && (how == "cable" || v == ours || fd == 2) {
						t.Errorf("descriptor %d is %s", fd, target)
					}
				}
				commands := rig.Children(pid)
				must(t, syscall.Kill(pid, syscall.SIGTERM))
				rig.Eventually(t, 5*time.Second, "it and its command have ended", func() bool {
					return !rig.Alive(pid) && !slices.ContainsFunc(commands, func(pid int) bool { return v == ours && rig.Alive(pid) })
				})
				for _, pid := range commands {
					_ = syscall.Kill(pid, syscall.SIGKILL) // C leaves it
				}
				if (how == "command") != (len(commands) > 0) {
					t.Errorf("the commands were %v", commands)
				}
				for _, path := range []string{pidfile, hub} {
					if _, err := os.Stat(path); err == nil {
						t.Errorf("%s is left", path)
					}
				}
			})
		}
	}
}

// A pidfile that is somebody else's by now stays.
func TestPidfileOfAnother(t *testing.T) {
	dir := rig.TempDir(t)
	p := rig.Start(t, exec.Command(rig.VdePlug(), "-v", "-p", dir+"/pid", "hub://"+dir+"/hub", "null://"))
	p.WaitLine("are joined", 5*time.Second)
	text, err := os.ReadFile(dir + "/pid")
	if err != nil || string(text) != fmt.Sprintln(p.Pid()) {
		t.Errorf("%q %v", text, err)
	}
	must(t, os.WriteFile(dir+"/pid", []byte("1\n"), 0o600))
	p.Signal(syscall.SIGTERM)
	if code := p.Wait(5 * time.Second); code != 0 {
		t.Errorf("exit status %d", code)
	}
	if text, err := os.ReadFile(dir + "/pid"); err != nil || string(text) != "1\n" {
		t.Errorf("%q %v", text, err)
	}
}

// inLoggedHost runs a vde_plug where the test is the syslog of the host, and
// returns the lines logged, without their time and process id.
func (v variant) inLoggedHost(t *testing.T, stdin string, argv0 string, env []string, args ...string) (lines []string, code int) {
	t.Helper()
	dir := rig.TempDir(t)
	log, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: dir + "/log", Net: "unixgram"})
	must(t, err)
	defer log.Close()
	// A /dev of its own, with the test's socket.
	const script = `set -e
touch "$0/null"; mount --bind /dev/null "$0/null"
mount -t tmpfs none /dev; touch /dev/null /dev/log
mount --bind "$0/null" /dev/null; mount --bind "$0/log" /dev/log
argv0=$1; shift; exec /bin/bash -c 'exec -a "$0" "$@"' "$argv0" "$@"`
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, "unshare", append([]string{"-m", "--propagation", "private", "sh", "-c", script, dir, argv0, v.path}, args...)...)
	cmd.Env = append(append(os.Environ(), "GORACE=atexit_sleep_ms=0"), env...)
	var said bytes.Buffer
	cmd.Stderr = &said
	r, w, err := os.Pipe()
	must(t, err)
	cmd.Stdin = r
	must(t, cmd.Start())
	r.Close()
	if stdin != "" {
		_, err = w.WriteString(stdin)
		must(t, err)
		emptied(t, w) // C forgets what it has not yet read at the end
	}
	w.Close()
	_ = cmd.Wait() // its status is looked at
	t.Logf("%s: %v: %s", v.name, cmd.ProcessState, said.String())
	for buf := make([]byte, 2000); ; {
		must(t, log.SetReadDeadline(time.Now().Add(20*time.Millisecond)))
		n, err := log.Read(buf)
		if err != nil {
			break // all were sent before it ended
		}
		m := regexp.MustCompile(`^<14>.{15} vde_plug(?:\[\d+\])?: (.*?)\n?$`).FindStringSubmatch(string(buf[:n]))
		if m == nil {
			t.Fatalf("%s logged %q", v.name, buf[:n])
		}
		lines = append(lines, m[1])
	}
	return lines, cmd.ProcessState.ExitCode()
}

// from4 and from6 are frames with IP packets.
func from4(addr string, vlan int) string { return packet(addr, vlan, "\x08\x00", "\x45", 12, 20) }
func from6(addr string, vlan int) string { return packet(addr, vlan, "\x86\xdd", "\x60", 8, 40) }

func packet(addr string, vlan int, kind, version string, at, size int) string {
	ip := net.ParseIP(addr)
	if kind == "\x08\x00" {
		ip = ip.To4()
	}
	p := make([]byte, size+20)
	copy(p, version)
	copy(p[at:], ip)
	head := "\x02\x00\x00\x00\x00\x01\x02\x00\x00\x00\x00\x02"
	if vlan > 0 {
		head += string([]byte{0x81, 0, byte(vlan >> 8), byte(vlan)})
	}
	return string(framed([]byte(head + kind + string(p))))
}

// What syslog is told is what C tells it, so that what reads the log can stay.
// C forgets the STOP of a refused and of a terminated session, and looks for no
// address in a VLAN.
func TestSameLogAsC(t *testing.T) {
	c, ours := variants(t)
	sw := rig.TempDir(t) + "/s"
	rig.Switch(t, sw)
	traffic := from4("10.0.0.1", 0) + from4("10.0.0.2", 0) + from6("fe80::1", 0) + from4("10.0.0.1", 0) + string(framed(rig.Frame(60, 1))) + from6("2001:db8::7", 0)
	const user = "user root"
	unknown := user + " IP UNKNOWN_IP_ADDRESS"
	ssh := []string{"SSH_CLIENT=192.0.2.9 12345 22"}
	has := func(kind, addr string, vlan int) string {
		return fmt.Sprintf("user root Real-IP 192.0.2.9 has got VDE-IP%s %s on vlan %d", kind, addr, vlan)
	}
	for _, tc := range []struct {
		name, stdin, argv0 string
		env, args          []string
		c, ours            []string
	}{
		{name: "no log", args: []string{sw}},
		{name: "log", args: []string{"-l", sw}, c: []string{"START: " + unknown, "STOP: " + unknown}},
		{
			name: "addresses", env: ssh, stdin: traffic, args: []string{"--iplog", sw},
			c: []string{
				"START: " + user + " IP 192.0.2.9", has("4", "10.0.0.1", 0), has("4", "10.0.0.2", 0), has("6", "fe80::1", 0),
				has("6", "2001:db8::7", 0), "STOP: " + user + " IP 192.0.2.9",
			},
		},
		{
			name: "addresses in a VLAN", env: ssh, stdin: from4("10.0.0.1", 5) + from6("fe80::1", 4094), args: []string{"-L", sw},
			c:    []string{"START: " + user + " IP 192.0.2.9", "STOP: " + user + " IP 192.0.2.9"},
			ours: []string{"START: " + user + " IP 192.0.2.9", has("4", "10.0.0.1", 5), has("6", "fe80::1", 4094), "STOP: " + user + " IP 192.0.2.9"},
		},
		{
			name: "a packet that is too short", stdin: string(framed([]byte("\x02\x00\x00\x00\x00\x01\x02\x00\x00\x00\x00\x02\x08\x00\x45"))),
			args: []string{"-L", sw}, c: []string{"START: " + unknown, "user root Real-IP UNKNOWN_IP_ADDRESS has got VDE-IP4 .* on vlan 0", "STOP: " + unknown},
			ours: []string{"START: " + unknown, "STOP: " + unknown},
		},
		{name: "both options", args: []string{"-lL", sw}, c: []string{"START: " + unknown, "START: " + unknown, "STOP: " + unknown, "STOP: " + unknown}, ours: []string{"START: " + unknown, "STOP: " + unknown}},
		{name: "no switch", args: []string{"-l", sw + "/none"}, c: []string{"START: " + unknown, "STOP: " + unknown}},
		{name: "login shell", env: ssh, args: []string{"-c", "vde_plug", sw}, c: []string{"START: " + user + " IP 192.0.2.9", "STOP: " + user + " IP 192.0.2.9"}},
		{name: "login shell with another command", env: ssh, args: []string{"-c", "rm -rf /"}, c: []string{"FAILED: " + user + " IP 192.0.2.9"}},
		{name: "login without a command", argv0: "-vde_plug", env: ssh, c: []string{"FAILED: " + user + " IP 192.0.2.9"}},
		{name: "login without a command, by path", argv0: "-/usr/bin/vde_plug", args: []string{"-c", "vde_plug"}, c: []string{"FAILED: " + unknown}},
		{
			name: "two VNLs", env: ssh, args: []string{"-L", sw, "cmd://head -c 0"},
			c: []string{"START: " + user + " IP 192.0.2.9", "STOP: " + user + " IP 192.0.2.9"},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			if tc.argv0 == "" {
				tc.argv0 = "vde_plug"
			}
			if tc.ours == nil {
				tc.ours = tc.c
			}
			for _, v := range []variant{c, ours} {
				want := tc.ours
				if v == c {
					want = tc.c
				}
				got, code := v.inLoggedHost(t, tc.stdin, tc.argv0, tc.env, tc.args...)
				if !slices.EqualFunc(got, want, func(a, b string) bool { return regexp.MustCompile("^(?:" + b + ")$").MatchString(a) }) {
					t.Errorf("%s logged\n%s\nnot\n%s", v.name, strings.Join(got, "\n"), strings.Join(want, "\n"))
				}
				if failed := len(want) == 1 || tc.name == "no switch"; failed && code == 0 {
					t.Errorf("%s: exit status %d", v.name, code)
				}
			}
		})
	}
}

// The addresses of a second VNL are logged, too, as the manual of C promises, and
// invented ones do not fill the log.
func TestLogOfACable(t *testing.T) {
	_, ours := variants(t)
	dir := rig.TempDir(t)
	sw := dir + "/s"
	rig.Switch(t, sw)
	var many strings.Builder
	for i := range 5000 {
		many.WriteString(from4(fmt.Sprintf("10.0.%d.%d", i/250, i%250), 0))
	}
	must(t, os.WriteFile(dir+"/frames", []byte(many.String()), 0o600))
	// The test reads the log only afterwards: a syslog that stands still stops nothing.
	lines, code := ours.inLoggedHost(t, "", "vde_plug", nil, "-L", sw, "=", "cat", dir+"/frames")
	if code != 0 {
		t.Errorf("exit status %d", code)
	}
	if n := len(lines); n < 5 || n > 500 || !strings.Contains(lines[1], "VDE-IP4 10.0.0.0 on vlan 0") {
		t.Errorf("%d lines: %q", n, lines)
	}
}

// terminal opens a pseudo terminal.
func terminal(t *testing.T) (master, slave *os.File) {
	t.Helper()
	fd, path := rig.Terminal(t)
	master = os.NewFile(uintptr(fd), "ptmx")
	t.Cleanup(func() { master.Close() })
	slave, err := os.OpenFile(path, os.O_RDWR|unix.O_NOCTTY, 0)
	must(t, err)
	t.Cleanup(func() { slave.Close() })
	return master, slave
}

// No frame goes to a terminal, and none is read from one.
func TestTerminal(t *testing.T) {
	sw := rig.TempDir(t) + "/s"
	rig.Switch(t, sw)
	master, slave := terminal(t)
	cmd := exec.Command(rig.VdePlug(), sw)
	cmd.Stdin, cmd.Stdout = slave, slave
	var said bytes.Buffer
	cmd.Stderr = &said
	_ = cmd.Run() // its status is looked at
	if code := cmd.ProcessState.ExitCode(); code != exitUsage || strings.Count(said.String(), "\n") != 1 ||
		!strings.Contains(said.String(), "frames are not for a terminal: name a second VNL, or a command after =, or use a pipe") {
		t.Errorf("exit status %d: %s", code, said.String())
	}
	r, w, err := os.Pipe()
	must(t, err)
	defer r.Close()
	cmd = exec.Command(rig.VdePlug(), "-v", sw)
	cmd.Stdin, cmd.Stdout = slave, w
	p := rig.Start(t, cmd)
	w.Close()
	p.WaitLine("are joined", 5*time.Second)
	_, err = master.WriteString("\x40\x40 this is no frame\n")
	must(t, err)
	g := rig.StartHelper(t, rig.HelperConfig{VNL: "vde://" + sw})
	g.WaitLine("link up", 5*time.Second)
	if !g.Send(rig.Frame(60, 7), time.Second) {
		t.Fatal("no room for a frame")
	}
	if f, err := readFrame(r); err != nil || !bytes.Equal(f, rig.Frame(60, 7)) {
		t.Errorf("%x %v", f, err)
	}
	p.Signal(syscall.SIGTERM)
	if code := p.Wait(5 * time.Second); code != 0 {
		t.Errorf("exit status %d", code)
	}
}

// A signal ends it even while a plugin does not come back from an open, and what
// was opened before is closed.
func TestSignalWhileOpening(t *testing.T) {
	dir := rig.TempDir(t)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: dir + "/ctl", Net: "unix"}) // a switch that never answers
	must(t, err)
	defer l.Close()
	for _, tc := range []struct {
		sig  syscall.Signal
		want string
	}{{syscall.SIGTERM, "exit status 0"}, {syscall.SIGINT, "signal: interrupt"}} {
		p := rig.Start(t, exec.Command(rig.VdePlug(), "hub://"+dir+"/hub", "vde://"+dir))
		conn, err := l.Accept()
		must(t, err)
		p.Signal(tc.sig)
		p.Wait(5 * time.Second)
		if got := p.Cmd.ProcessState.String(); got != tc.want {
			t.Errorf("%v: %s", tc.sig, got)
		}
		if _, err := os.Stat(dir + "/hub"); err == nil {
			t.Error("the hub is left")
		}
		conn.Close()
	}
}
