package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// The programs that are compared.
const (
	umlvde  = "umlvde"
	cplug   = "C vde_plug"
	shuttle = "C shuttle"
)

// programs finds the executables.
type programs map[string]string

// findPrograms builds the shuttle, too.
func findPrograms(c config) (programs, error) {
	p := programs{umlvde: c.umlvde, cplug: "/usr/bin/vde_plug", shuttle: filepath.Join(c.dir, "shuttle")}
	for _, name := range []string{umlvde, cplug} {
		abs, err := filepath.Abs(p[name])
		if err == nil {
			_, err = os.Stat(abs)
		}
		if err != nil {
			return nil, fmt.Errorf("%w (run: make deps build)", err)
		}
		p[name] = abs
	}
	return p, run("gcc", "-O2", "-pthread", "-x", "c", "-o", p[shuttle], "bench/shuttle.c", "-x", "none", "-lvdeplug")
}

// A helper is a running program between a played guest and a far end.
type helper struct {
	name  string
	proc  *process
	guest *socketPort
	began time.Time
	said  bytes.Buffer // complete when the process has ended
}

// startHelper starts a program as UML does; far, if not nil, becomes its
// descriptor 4.
func startHelper(p programs, name, vnl string, far *os.File, cpu int) (*helper, error) {
	ours, theirs, err := socketpair()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	h := &helper{name: name, guest: &socketPort{sock: ours}}
	args := []string{"seqpacket://3", vnl}
	switch name {
	case umlvde:
		args = append([]string{"--descr", "UML", "-v"}, args...)
	case cplug:
		args = append([]string{"--descr", "UML"}, args...)
	}
	cmd := exec.Command(p[name], args...)
	if name != shuttle {
		cmd.Args[0] = "vde_plug"
	}
	cmd.Stderr = &h.said
	cmd.Env = plainEnv()
	cmd.ExtraFiles = []*os.File{theirs}
	if far != nil {
		cmd.ExtraFiles = append(cmd.ExtraFiles, far)
	}
	h.began = time.Now()
	if h.proc, err = start(cmd, cpu); err != nil {
		h.guest.close()
		return nil, err
	}
	return h, nil
}

// plainEnv is the environment without what outer has set for this program alone.
func plainEnv() []string {
	return slices.DeleteFunc(os.Environ(), func(v string) bool {
		return strings.HasPrefix(v, "GOMAXPROCS=") || strings.HasPrefix(v, "GODEBUG=")
	})
}

var tally = regexp.MustCompile(`guest to network (\d+) frames \([^)]*\), (\d+) dropped.*; network to guest (\d+) frames \([^)]*\), (\d+) dropped`)

// end ends the helper as UML does, by closing its socket, and returns what its
// counters say is wrong.
func (h *helper) end() error {
	h.guest.close()
	h.proc.end(3 * time.Second)
	if h.name != umlvde {
		return nil
	}
	m := tally.FindStringSubmatch(h.said.String())
	if m == nil {
		return fmt.Errorf("umlvde did not tell its counters, but:\n%s", strings.TrimSpace(h.said.String()))
	}
	var n [4]uint64
	for i := range n {
		n[i], _ = strconv.ParseUint(m[i+1], 10, 64) // the pattern lets only digits through
	}
	sent, came := h.guest.totals()
	if n[0]+n[1] != sent {
		return fmt.Errorf("the guest sent %d frames, of which umlvde counts %d as delivered and %d as dropped", sent, n[0], n[1])
	}
	if n[2] != came {
		return fmt.Errorf("%d frames came to the guest, and umlvde counts %d", came, n[2])
	}
	return nil
}
