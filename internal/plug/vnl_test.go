package plug

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/umlvde/umlvde/internal/rig"
	"golang.org/x/sys/unix"
)

func TestParseVNL(t *testing.T) {
	for text, want := range map[string]struct{ plugin, arg, base, watch string }{
		"":                                 {"vde", "", "", "/var/run/vde.ctl/ctl"},
		"/run/vde.ctl":                     {"vde", "/run/vde.ctl", "/run/vde.ctl", "/run/vde.ctl/ctl"},
		"vde:///run/vde.ctl":               {"vde", "/run/vde.ctl", "/run/vde.ctl", "/run/vde.ctl/ctl"},
		"vde:///run/vde.ctl[5]":            {"vde", "/run/vde.ctl[5]", "/run/vde.ctl", "/run/vde.ctl/ctl"},
		"vde://":                           {"vde", "", "", "/var/run/vde.ctl/ctl"},
		"tap://tap0":                       {"tap", "tap0", "tap0", ""},
		"ptp:///tmp/p":                     {"ptp", "/tmp/p", "/tmp/p", "/tmp/p"},
		"ptp://":                           {"ptp", "", "", ""},
		"hub:///tmp/h[mode=700]":           {"hub", "/tmp/h[mode=700]", "/tmp/h", ""},
		"hub:///tmp/h{x}[mode=700]":        {"hub", "/tmp/h{x}[mode=700]", "/tmp/h{x}", ""},
		"agno:///k{vde:///s[5]}":           {"agno", "/k{vde:///s[5]}", "/k", "/s/ctl"},
		"vlan://5{vde:///run/vde.ctl[10]}": {"vlan", "5{vde:///run/vde.ctl[10]}", "5", "/run/vde.ctl/ctl"},
		"cmd://ssh host vde_plug tap://t":  {"cmd", "ssh host vde_plug tap://t", "ssh host vde_plug tap://t", ""},
		"://x":                             {"", "x", "x", ""},
		"a:/b":                             {"vde", "a:/b", "a:/b", "a:/b/ctl"},
	} {
		v := ParseVNL(text)
		if v.Text != text || v.Plugin != want.plugin || v.Arg != want.arg || v.base() != want.base || v.Watch() != want.watch {
			t.Errorf("%q: %+v, base %q, watch %q", text, v, v.base(), v.Watch())
		}
	}
}

func TestResolve(t *testing.T) {
	home := rig.TempDir(t)
	t.Setenv("HOME", home)
	resolve := func(text string) VNL {
		t.Helper()
		v, err := Resolve(text)
		must(t, err)
		return v
	}
	file := filepath.Join(home, "file")
	for content, want := range map[string]string{
		"slirp://\n":               "slirp://",
		"slirp://":                 "slirp://", // the library would lose the last byte
		"tap://t0\nsomething else": "tap://t0",
		"":                         "",
		"/run/vde.ctl\n":           "/run/vde.ctl",
	} {
		must(t, os.WriteFile(file, []byte(content), 0o600))
		if v := resolve(file); v.Text != want {
			t.Errorf("a file with %q: %+v", content, v)
		}
	}
	must(t, os.WriteFile(file, []byte(strings.Repeat("x", 1<<17)), 0o600))
	if v, err := Resolve(file); err == nil {
		t.Errorf("a file with a line without end: %d bytes", len(v.Text))
	}
	if v := resolve(home); v.Plugin != "vde" || v.Arg != home {
		t.Errorf("a directory: %+v", v)
	}
	if v := resolve("slirp://" + file); v.Plugin != "slirp" {
		t.Errorf("a VNL with the name of a file: %+v", v)
	}
	if v := resolve(""); v.Text != "" || v.Plugin != "vde" {
		t.Errorf("without any default: %+v", v)
	}
	must(t, os.MkdirAll(filepath.Join(home, ".vde2", "default.switch"), 0o700))
	if v := resolve(""); v.Arg != filepath.Join(home, ".vde2", "default.switch") {
		t.Errorf("with an old default: %+v", v)
	}
	must(t, os.Mkdir(filepath.Join(home, ".vdeplug"), 0o700))
	must(t, os.WriteFile(filepath.Join(home, ".vdeplug", "default"), []byte("tap://mine\n"), 0o600))
	if v := resolve(""); v.Text != "tap://mine" {
		t.Errorf("with a default: %+v", v)
	}
	t.Setenv("HOME", "")
	if v := resolve(""); v.Text != "" {
		t.Errorf("without a home: %+v", v)
	}
}

func FuzzParseVNL(f *testing.F) {
	for _, s := range []string{"", "vde://", "/run/vde.ctl[3]", "vlan://7{hub:///x[y]}", "a://b://c", "://", "[://{"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		v := ParseVNL(text)
		if v.Text != text {
			t.Errorf("%q became %q", text, v.Text)
		}
		if strings.Contains(text, "://") {
			if v.Plugin+"://"+v.Arg != text || strings.Contains(v.Plugin, "://") {
				t.Errorf("%q: %+v", text, v)
			}
		} else if v.Plugin != "vde" || v.Arg != text {
			t.Errorf("%q: %+v", text, v)
		}
		v.base()
		v.Watch()
		if !strings.HasPrefix(v.Plugin, "vx") { // asks name servers
			_ = table[v.Plugin].grammar.check(v)
		}
	})
}

func TestSplitCommand(t *testing.T) {
	for line, want := range map[string][]string{
		"cat":                         {"cat"},
		"  a  b\tc\nd ":               {"a", "b", "c", "d"},
		`ssh -p 22 "a host" vde_plug`: {"ssh", "-p", "22", "a host", "vde_plug"},
		`a 'b "c" \d' e`:              {"a", `b "c" \d`, "e"},
		`a "b 'c' \"d\\"`:             {"a", `b 'c' "d\`},
		`a\ b c\"d \\`:                {"a b", `c"d`, `\`},
		`a '' "" b`:                   {"a", "", "", "b"},
		`x"y z"'w v'u`:                {"xy zw vu"},
		"$HOME *":                     {"$HOME", "*"},
		"é ü":                         {"é", "ü"},
		"\xff'\xe9' \\\x80":           {"\xff\xe9", "\x80"},
		"a;b $X":                      {"a;b", "$X"},
		"":                            nil,
		"  ":                          nil,
		`a "b`:                        nil,
		`a 'b`:                        nil,
	} {
		got, err := splitCommand(line)
		if (err == nil) != (want != nil) || !slices.Equal(got, want) {
			t.Errorf("%q: %q, %v; want %q", line, got, err, want)
		}
	}
}

// FuzzSplitCommand quotes what came out, and cuts it again.
func FuzzSplitCommand(f *testing.F) {
	for _, s := range []string{"a b", `"a b" 'c' \d`, `'`, `\`, "\x00", "a\xff"} {
		f.Add(s)
	}
	quoted := strings.NewReplacer(`\`, `\\`, `"`, `\"`)
	f.Fuzz(func(t *testing.T, line string) {
		argv, err := splitCommand(line)
		if (err == nil) != (len(argv) > 0) {
			t.Fatalf("%q: %q, %v", line, argv, err)
		}
		if err != nil {
			return
		}
		var again []string
		for _, arg := range argv {
			again = append(again, `"`+quoted.Replace(arg)+`"`)
		}
		got, err := splitCommand(strings.Join(again, " "))
		if err != nil || !slices.Equal(got, argv) {
			t.Errorf("%q: %q, and again %q, %v", line, argv, got, err)
		}
	})
}

// A group that does not exist is refused: to the plugin it would be group 0.
func TestNoSuchGroup(t *testing.T) {
	_, err := Open(ParseVNL("vde://"+t.TempDir()), Options{Group: "no such group"})
	if err == nil || err.Error() != "group no such group: there is no such group" {
		t.Error(err)
	}
}

// What is written wrongly is EINVAL, as it would be to the library.
func TestWrittenWrongly(t *testing.T) {
	for _, text := range []string{"vde:///tmp/a\x00b", "cmd://", "cmd://a 'b", "vlan://5{null://", "vde://[foo=1]"} {
		if _, err := Open(ParseVNL(text), Options{}); !errors.Is(err, unix.EINVAL) {
			t.Errorf("%q: %v", text, err)
		}
	}
}
