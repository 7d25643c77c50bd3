// Package umlvde_test holds the binding to the C library against the library
// that is installed.
package umlvde_test

import (
	"debug/elf"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/umlvde/umlvde/internal/cvde"
	"github.com/umlvde/umlvde/libvdeplug"
)

// compile makes a program of C source, with all warnings as errors, and returns
// its path.
func compile(t *testing.T, source string, flags ...string) string {
	t.Helper()
	dir := t.TempDir()
	bin, src := filepath.Join(dir, "check"), filepath.Join(dir, "check.c")
	if err := os.WriteFile(src, []byte(source), 0o600); err != nil {
		t.Fatal(err)
	}
	flags = append(flags, "-Wall", "-Wextra", "-Werror", "-Iinternal/cvde", "-o", bin, src)
	if out, err := exec.Command("gcc", flags...).CombinedOutput(); err != nil {
		t.Fatalf("gcc: %v\n%s", err, out)
	}
	return bin
}

// TestHeader compares what cvde.h repeats of libvdeplug.h.
func TestHeader(t *testing.T) {
	const source = `
#include <stddef.h>
#include <stdio.h>
#ifdef INSTALLED
#include <libvdeplug.h>
#define ARGS struct vde_open_args
#define VERSION LIBVDEPLUG_INTERFACE_VERSION
#define BUFSIZE VDE_ETHBUFSIZE
#else
#include "cvde.h"
#define ARGS struct cvde_open_args
#define VERSION CVDE_INTERFACE_VERSION
#define BUFSIZE CVDE_ETHBUFSIZE
#endif
#define FIELD(f) printf(#f " at %zu, %zu bytes\n", offsetof(ARGS, f), sizeof(((ARGS *) 0)->f))

int main(void)
{
	printf("interface version %d\nbuffer %d\nvde_open_args %zu bytes\n", VERSION, BUFSIZE, sizeof(ARGS));
	FIELD(port);
	FIELD(group);
	FIELD(mode);
	return 0;
}
`
	run := func(flags ...string) string {
		out, err := exec.Command(compile(t, source, flags...)).Output()
		if err != nil {
			t.Fatal(err)
		}
		return string(out)
	}
	ours, installed := run(), run("-DINSTALLED")
	if ours != installed {
		t.Errorf("cvde.h has\n%sand libvdeplug.h has\n%s", ours, installed)
	}
	if libvdeplug.MaxFrameSize != cvde.EthBufSize {
		t.Errorf("MaxFrameSize is %d, VDE_ETHBUFSIZE %d", libvdeplug.MaxFrameSize, cvde.EthBufSize)
	}
}

// TestSignatures compiles cvde.c together with libvdeplug.h and gives its table
// the functions declared there.
func TestSignatures(t *testing.T) {
	compile(t, `
#include "cvde.c"
#include <libvdeplug.h>

const struct cvde_lib check = {
	.open = (VDECONN *(*)(char *, char *, int, struct cvde_open_args *)) vde_open_real,
	.recv = vde_recv,
	.send = vde_send,
	.datafd = vde_datafd,
	.ctlfd = vde_ctlfd,
	.close = vde_close,
	.stream_open = vdestream_open,
	.stream_send = vdestream_send,
	.stream_recv = vdestream_recv,
	.stream_close = vdestream_close,
};
`, "-c")
}

// TestSymbols looks for the symbols that cvde.c asks the library for.
func TestSymbols(t *testing.T) {
	info, err := libvdeplug.Version()
	if err != nil {
		t.Fatal(err)
	}
	file, defined := symbols(t, info.File)
	if soname, err := file.DynString(elf.DT_SONAME); err != nil || !slices.Equal(soname, []string{filepath.Base(info.Path)}) {
		t.Errorf("%s was loaded as %s and calls itself %v, %v", info.File, info.Path, soname, err)
	}
	source, err := os.ReadFile("internal/cvde/cvde.c")
	if err != nil {
		t.Fatal(err)
	}
	wanted := regexp.MustCompile(`dlsym\(handle, "(\w+)"\)`).FindAllSubmatch(source, -1)
	if len(wanted) < 11 {
		t.Fatalf("found only %d symbols in cvde.c", len(wanted))
	}
	for _, m := range wanted {
		if name := string(m[1]); !slices.Contains(defined, name) {
			t.Errorf("%s does not define %s", info.File, name)
		}
	}
}

// symbols returns the dynamic symbols that a file defines.
func symbols(t *testing.T, path string) (file *elf.File, defined []string) {
	t.Helper()
	file, err := elf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	all, err := file.DynamicSymbols()
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range all {
		if s.Section != elf.SHN_UNDEF {
			defined = append(defined, s.Name)
		}
	}
	return file, defined
}

// TestPlugins loads each installed plugin.
func TestPlugins(t *testing.T) {
	plugins, err := libvdeplug.Plugins()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range plugins {
		if p.Path == "" {
			continue
		}
		if _, defined := symbols(t, p.Path); !slices.Contains(defined, "vdeplug_ops") {
			t.Errorf("%s does not define vdeplug_ops", p.Path)
		}
		if err := cvde.Probe(p.Path); err != nil {
			t.Errorf("%s: %v", p.Name, err)
		}
	}
	if len(plugins) < 10 {
		t.Errorf("found only %v", plugins)
	}
}

// TestFence checks that only package cvde imports C.
func TestFence(t *testing.T) {
	out, err := exec.Command("go", "list", "-f", "{{if .CgoFiles}}{{.ImportPath}}{{end}}", "./...").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if got := strings.Fields(string(out)); !slices.Equal(got, []string{"github.com/umlvde/umlvde/internal/cvde"}) {
		t.Errorf("packages with cgo: %v", got)
	}
}
