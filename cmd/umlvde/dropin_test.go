package main

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/umlvde/umlvde/internal/rig"
)

// These tests run the installed C vde_plug and this program side by side.

// A variant is a vde_plug.
type variant struct{ name, path string }

func variants(t testing.TB) (c, ours variant) {
	t.Helper()
	path, err := exec.LookPath("/usr/bin/vde_plug")
	if err != nil {
		t.Fatalf("the C program is needed (package vdeplug): %v", err)
	}
	return variant{"C", path}, variant{"umlvde", rig.VdePlug()}
}

// outcome is what a program did.
type outcome struct {
	code         int // -1 after a signal or when it was stopped after a while
	out, said    string
	files, stuck string
}

// try runs a vde_plug as "vde_plug" in a directory of its own, without input, for 2 s
// at most.
func (v variant) try(t testing.TB, env []string, args ...string) outcome {
	t.Helper()
	dir := rig.TempDir(t)
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, v.path, args...)
	cmd.Args[0], cmd.Dir = "vde_plug", dir
	cmd.WaitDelay = time.Second
	cmd.Env = append(append(os.Environ(), "HOME="+dir, "GORACE=atexit_sleep_ms=0"), env...)
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	_ = cmd.Run() // its status is looked at
	o := outcome{code: cmd.ProcessState.ExitCode(), out: out.String(), said: said.String()}
	if ctx.Err() != nil {
		o.stuck = "it did not end by itself"
	}
	files, err := filepath.Glob(dir + "/*")
	if err != nil {
		t.Fatal(err)
	}
	o.files = strings.ReplaceAll(strings.Join(files, " "), dir, ".")
	return o
}

// Both programs end alike: with success or not, the same files left, and a word
// about the same thing. Where they differ, on purpose, the table says why.
func TestSameEndsAsC(t *testing.T) {
	c, ours := variants(t)
	sw := rig.TempDir(t) + "/s"
	rig.Switch(t, sw)
	none := sw + "/none"
	for _, tc := range []struct {
		name, args string // separated by '|'
		c, ours    int
		both       string // a pattern that both say
		says       string // a pattern that only we say, in a line
		better     string // why the ends are not the same
	}{
		{name: "unknown option", args: "--nosuch", c: 255, ours: 2, both: "nosuch", says: "--help tells more"},
		{name: "unknown letter", args: "-x", c: 255, ours: 2, both: "x"},
		{name: "ambiguous", args: "--po|3", c: 255, ours: 2, both: "(?s)po.* is ambiguous.*--port.*--port2"},
		{name: "option without its value", args: "-p", c: 255, ours: 2, both: "argument.*p"},
		{name: "port that is none", args: "--port|x|" + sw, c: 255, ours: 2, both: "port"},
		{name: "negative port", args: "--port2|-3|" + sw + "|null://", c: 255, ours: 2, both: "port"},
		{name: "three VNLs", args: "a|b|c", c: 255, ours: 2, says: "3 VNLs are too many"},
		{name: "three VNLs and a command", args: "a|b|=|c", c: 255, ours: 2, says: "4 VNLs are too many"},
		{name: "no command", args: "=", c: 1, ours: 2, both: "="},
		{name: "no command after a VNL", args: sw + "|=", c: 1, ours: 2, both: "="},
		{name: "no switch", args: none, c: 1, ours: 1, both: "(?i)" + none + ".*: no such file or directory"},
		{name: "no second switch", args: sw + "|" + none, c: 1, ours: 1, both: "(?i)" + none + ".*: no such file or directory"},
		{name: "no switch for a command", args: none + "|=|true", c: 1, ours: 1, both: "(?i)" + none + ".*: no such file or directory"},
		{name: "no default switch", args: "", c: 1, ours: 1, both: "(?i)default.*: no such file or directory"},
		{name: "no default switch, empty word", args: sw + "|", c: 1, ours: 1, both: "(?i)default.*: no such file or directory"},
		{name: "no plugin", args: "nosuch://", c: 1, ours: 1, both: "nosuch://", says: "no plugin"},
		{name: "end of the stream", args: sw, c: 0, ours: 0},
		{name: "end of the stream, C's short options", args: "-Dx|-m|700|" + sw, c: 0, ours: 0},
		{name: "no daemon", args: "-d|" + none + "|null://", c: 0, ours: 1, says: "no switch there", better: "a daemon that could not start has not started"},
		{name: "daemon of a stream", args: "-d|" + sw, c: 0, ours: 2, says: "a daemon has no standard input", better: "it ends at once in C"},
		{name: "pidfile that cannot be", args: "-p|/nonexistent/p|" + sw, c: 0, ours: 1, says: "pidfile.*/nonexistent/p", better: "whoever reads the pidfile must not wait for ever"},
		{name: "command that succeeds", args: sw + "|=|true", c: 0, ours: 0},
		{name: "command that fails", args: sw + "|=|false", c: 0, ours: 1, says: "false: the command ended .exit status 1.", better: "a failed tunnel is a failure"},
		{name: "command that is missing", args: sw + "|=|/nonexistent/x", c: 0, ours: 1, says: "/nonexistent/x: the command cannot be started.*no such file", better: "as above"},
		{name: "login with another command", args: "-c|ls", c: 255, ours: 1, both: "not a login shell.*only.*vde_plug"},
		{name: "login with a command's argument", args: "-c|vde_plug tap://x", c: 255, ours: 1, both: "(?s)not a login shell.*only.*vde_plug"},
		{name: "login", args: "-c|vde_plug|" + sw, c: 0, ours: 0},
		{name: "help", args: "-h", c: 255, ours: 0, better: "help that was asked for is no failure"},
		{name: "one option is another's value", args: "-D|-d|" + sw, c: 0, ours: 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			args := strings.Split(tc.args, "|")
			if tc.args == "" {
				args = nil
			}
			was, is := c.try(t, nil, args...), ours.try(t, nil, args...)
			if was.stuck+is.stuck != "" {
				t.Fatalf("C: %s; umlvde: %s", was.stuck, is.stuck)
			}
			if was.code != tc.c || is.code != tc.ours {
				t.Errorf("exit status: C %d, not %d; umlvde %d, not %d", was.code, tc.c, is.code, tc.ours)
			}
			if differ := (was.code == 0) != (is.code == 0); differ == (tc.better == "") {
				t.Errorf("the ends differ: %v, for no reason or with none: %q", differ, tc.better)
			}
			if was.files != is.files {
				t.Errorf("C left %q, umlvde %q", was.files, is.files)
			}
			for _, o := range []outcome{was, is} {
				if !regexp.MustCompile(tc.both).MatchString(o.said) {
					t.Errorf("%q does not match %q", o.said, tc.both)
				}
			}
			if !regexp.MustCompile(tc.says).MatchString(is.said) {
				t.Errorf("%q does not match %q", is.said, tc.says)
			}
			if lines := strings.Count(is.said, "\n"); lines > 1 && tc.args != "-c|vde_plug|"+sw || is.code != 0 && lines != 1 {
				t.Errorf("%d lines were said: %q", lines, is.said)
			}
		})
	}
}

// buildRecorder builds the plugin of testdata/record.c and returns its directory.
func buildRecorder(t *testing.T) string {
	t.Helper()
	lib := rig.TempDir(t)
	cc := exec.Command("gcc", "-Wall", "-shared", "-fPIC", "-o", lib+"/libvdeplug_record.so", "testdata/record.c")
	if out, err := cc.CombinedOutput(); err != nil {
		t.Fatalf("building the plugin: %v\n%s", err, out)
	}
	return lib
}

// What the plugin is opened with is what C opens it with, whatever way the options
// are written.
func TestSameOptionsAsC(t *testing.T) {
	lib := buildRecorder(t)
	c, ours := variants(t)
	for _, args := range []string{ // separated by '|'
		"record://a",
		"record://a|record://b",
		"-D|x|record://a|record://b",
		"-Dx|-g|users|-m|0750|-G|daemon|-M|660|--port|3|--port2|4|record://a|record://b",
		"record://a|-gusers|record://b|-Gdaemon",
		"--descr=x y|--group=users|--mod=770|--group2=daemon|--mod2=07|--port=5|--port2=6|record://a|record://b",
		"--de|x|--group|users|--group2|daemon|--mod|700|--mod2|600|record://a|record://b",
		"--des=x|record://a",
		"record://a|--|record://b",
		"--|record://a|record://b",
		"-D|--|record://a",
		"-lLDx|record://a",
		"record://a|-D|",
		"-D||record://a",
		"-D|one|-D|two|record://a|record://b|-m|600|-m|640",
		"record://a|=|sleep|0.1",
		"-D|x|record://a|=|sleep|0.1",
		"record://a|-m|600|=|sleep|0.1",
		"--|record://a|=|sleep|0.1",
		"-c|vde_plug|record://a",
		"-D|=|record://a|record://b",
		"-D|x|--port2|5|--mod2|0700|--group2|users|record://a|record://b",
	} {
		t.Run(args, func(t *testing.T) {
			t.Parallel()
			dir := rig.TempDir(t)
			var records []string
			for _, v := range []variant{c, ours} {
				file := filepath.Join(dir, v.name)
				o := v.try(t, []string{"VDEPLUGIN_PATH=" + lib, "RECORD=" + file}, strings.Split(args, "|")...)
				if o.stuck != "" {
					t.Fatalf("%s: %s, and says %q", v.name, o.stuck, o.said)
				}
				text, err := os.ReadFile(file)
				if err != nil {
					t.Fatalf("%s opened nothing: %v; it says %q", v.name, err, o.said)
				}
				records = append(records, string(text))
			}
			if records[0] != records[1] {
				t.Errorf("C opened\n%sumlvde\n%s", records[0], records[1])
			}
		})
	}
}

// A command keeps the options that follow its name. (In C, they are vde_plug's,
// unless a "--" comes before.)
func TestCommandKeepsItsOptions(t *testing.T) {
	_, ours := variants(t)
	sw := rig.TempDir(t) + "/s"
	rig.Switch(t, sw)
	o := ours.try(t, nil, "-D", "x", sw, "=", "sh", "-c", `echo "$@" >args`, "sh", "-p", "22", "-D", "--nosuch", "=", "-h")
	if o.code != 0 || o.files != "./args" {
		t.Errorf("%+v", o)
	}
}
