//go:build linux

package libvdeplug_test

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/umlvde/umlvde/internal/rig"
	"github.com/umlvde/umlvde/libvdeplug"
)

func TestLibrary(t *testing.T) {
	must(t, libvdeplug.Available())
	info, err := libvdeplug.Version()
	must(t, err)
	if filepath.Base(info.Path) != "libvdeplug.so.2" || !strings.HasPrefix(filepath.Base(info.File), "libvdeplug.so.4.") {
		t.Errorf("loaded %+v", info)
	}
	if c, err := libvdeplug.Open("null://", &libvdeplug.Options{Library: info.File}); err != nil {
		t.Error(err)
	} else {
		must(t, c.Close())
	}
	plugins, err := libvdeplug.Plugins()
	must(t, err)
	if !slices.IsSortedFunc(plugins, func(a, b libvdeplug.Plugin) int { return strings.Compare(a.Name, b.Name) }) {
		t.Errorf("not sorted: %v", plugins)
	}
	for _, name := range []string{"cmd", "hub", "null", "ptp", "seqpacket", "slirp", "tap", "udp", "vde", "vxvde"} {
		i := slices.IndexFunc(plugins, func(p libvdeplug.Plugin) bool { return p.Name == name })
		if i < 0 {
			t.Errorf("no %s among %v", name, plugins)
			continue
		}
		builtIn := name == "cmd" || name == "seqpacket"
		if p := plugins[i]; builtIn != (p.Path == "") || !builtIn && filepath.Base(p.Path) != "libvdeplug_"+name+".so" {
			t.Errorf("plugin %+v", p)
		}
	}
}

func TestMissingLibrary(t *testing.T) {
	check := func(what string, err error) {
		t.Helper()
		var op *libvdeplug.OpError
		if !errors.Is(err, fs.ErrNotExist) || !errors.As(err, &op) || !strings.HasSuffix(err.Error(), "no such file or directory") {
			t.Errorf("%s: %v", what, err)
		}
	}
	_, err := libvdeplug.Open("null://", &libvdeplug.Options{Library: "/nonexistent/lib.so"})
	check("an option", err)
	t.Setenv("LIBVDEPLUG", "/nonexistent")
	check("Available", libvdeplug.Available())
	_, err = libvdeplug.Version()
	check("Version", err)
	_, err = libvdeplug.Plugins()
	check("Plugins", err)
	_, err = libvdeplug.Open("null://", nil)
	check("Open", err)
	seqpackets(t) // need no library
	open(t, "cmd://cat")
}

func TestBrokenLibrary(t *testing.T) {
	dir := rig.TempDir(t)
	text := filepath.Join(dir, "text.so")
	must(t, os.WriteFile(text, []byte(strings.Repeat("not a library\n", 100)), 0o600))
	for file, want := range map[string]string{
		text:                                     "invalid ELF header",
		compile(t, dir, "empty", "int nothing;"): "undefined symbol: vde_open_real",
		compile(t, dir, "old", "int vde_open_real, vde_recv, vde_send;"):                                      "old vde2",
		compile(t, dir, "half", "unsigned long __vde_version_tag = 4; int vde_open_real(void) { return 0; }"): "undefined symbol: vde_recv",
		compile(t, dir, "needy", "extern int gone; int *p = &gone;"):                                          "undefined symbol: gone",
	} {
		_, err := libvdeplug.Open("null://", &libvdeplug.Options{Library: file})
		if err == nil || errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", filepath.Base(file), err)
		}
	}
	must(t, libvdeplug.Available()) // the host's own is not affected
}

func compile(t *testing.T, dir, name, source string) string {
	t.Helper()
	so, c := filepath.Join(dir, name+".so"), filepath.Join(dir, name+".c")
	must(t, os.WriteFile(c, []byte(source), 0o600))
	gcc(t, "-shared", "-fPIC", "-o", so, c)
	return so
}

// gcc runs the host's C compiler.
func gcc(t testing.TB, args ...string) {
	t.Helper()
	if out, err := exec.Command("gcc", append([]string{"-Wall"}, args...)...).CombinedOutput(); err != nil {
		t.Fatalf("gcc: %v\n%s", err, out)
	}
}

func TestMissingPlugin(t *testing.T) {
	dir := rig.TempDir(t)
	t.Setenv("VDEPLUGIN_PATH", dir)
	for name, pkg := range map[string]string{"slirp": "libvdeplug-slirp", "null": "libvdeplug2", "whatever": ""} {
		_, err := libvdeplug.Open(name+"://", nil)
		var p *libvdeplug.PluginError
		if !errors.As(err, &p) || p.Plugin != name || p.File != "libvdeplug_"+name+".so" || p.Package != pkg {
			t.Errorf("%s: %v: %+v", name, err, p)
		}
		if !errors.Is(err, fs.ErrNotExist) || !errors.Is(err, syscall.EPROTONOSUPPORT) || !strings.Contains(err.Error(), pkg) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, content := range map[string]string{
		"garbage": "not a plugin\n",
		"foreign": compiled(t, "int nothing;"),
		"needy":   compiled(t, "extern int gone; int *p = &gone;"),
	} {
		file := filepath.Join(dir, "libvdeplug_"+name+".so")
		must(t, os.WriteFile(file, []byte(content), 0o600))
		_, err := libvdeplug.Open(name+"://", nil)
		var p *libvdeplug.PluginError
		if !errors.As(err, &p) || p.File != file {
			t.Errorf("%s: %v: %+v", name, err, p)
		}
		if errors.Is(err, fs.ErrNotExist) || !errors.Is(err, syscall.EPROTONOSUPPORT) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func compiled(t *testing.T, source string) string {
	t.Helper()
	so, err := os.ReadFile(compile(t, rig.TempDir(t), "x", source))
	must(t, err)
	return string(so)
}

func TestOpErrorText(t *testing.T) {
	e := &libvdeplug.OpError{Op: "read", VNL: "tap://a b", Err: os.ErrDeadlineExceeded}
	if got := e.Error(); got != `libvdeplug: read "tap://a b": i/o timeout` {
		t.Error(got)
	}
	if !e.Timeout() || !e.Temporary() {
		t.Error("a deadline is no timeout")
	}
	e = &libvdeplug.OpError{Op: "load", Err: syscall.ENOENT}
	if got := e.Error(); got != "libvdeplug: load: no such file or directory" || e.Timeout() {
		t.Error(got)
	}
}
