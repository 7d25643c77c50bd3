// Package rig is what tests of the program need: its binary, a played guest
// at the other end of its socket, a switch.
package rig

import (
	_ "embed"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"testing"
)

// binDir holds what Main built: umlvde and vde_plug, which are the same.
var binDir string

// What is ignored here, under nohup or in the background of a script, would be ignored
// by all that the tests start; what has a handler would not. It is done before anybody
// counts goroutines.
func init() {
	for _, sig := range []os.Signal{syscall.SIGHUP, syscall.SIGINT} {
		if signal.Ignored(sig) {
			signal.Notify(make(chan os.Signal, 1), sig)
		}
	}
}

// Main builds the program, with the race detector if the test has it, runs the
// tests, which m is, and returns their exit status. It is for a TestMain.
func Main(m interface{ Run() int }) int {
	dir, err := os.MkdirTemp("", "umlvde-test")
	if err == nil {
		defer os.RemoveAll(dir)
		err = build(dir)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	binDir = dir
	return m.Run()
}

func build(dir string) error {
	root, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/umlvde/umlvde").Output()
	if err != nil {
		return fmt.Errorf("go list -m: %w", err)
	}
	args := []string{"build", "-buildvcs=false", "-o", filepath.Join(dir, "umlvde")}
	if Race {
		args = append(args, "-race")
	}
	cmd := exec.Command("go", append(args, "./cmd/umlvde")...)
	cmd.Dir = string(root[:len(root)-1])
	cmd.Env = append(os.Environ(), "CGO_ENABLED=1") // whatever the tests are built with
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("building umlvde: %w\n%s", err, out)
	}
	return os.Symlink("umlvde", filepath.Join(dir, "vde_plug"))
}

// Umlvde is the path of the program.
func Umlvde() string { return filepath.Join(binDir, "umlvde") }

// VdePlug is the path of the program under the name that UML starts.
func VdePlug() string { return filepath.Join(binDir, "vde_plug") }

// BinDir is the directory that holds both, to be put into PATH.
func BinDir() string { return binDir }

//go:embed testdata/guest.c
var guestSource []byte

// GuestTool builds the program of testdata/guest.c, which says what it can do,
// and returns its path, which is the same in a guest.
func GuestTool(t testing.TB) string {
	t.Helper()
	dir := TempDir(t)
	src, tool := filepath.Join(dir, "guest.c"), filepath.Join(dir, "guest")
	if err := os.WriteFile(src, guestSource, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("gcc", "-O2", "-static", "-o", tool, src).CombinedOutput(); err != nil {
		t.Fatalf("building the guest's tool: %v\n%s", err, out)
	}
	return tool
}
