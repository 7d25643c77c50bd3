package conformance

import (
	"errors"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/umlvde/umlvde/internal/rig"
	"golang.org/x/sys/unix"
)

// A serial is a line between two terminals, {dir}/a and {dir}/b.
type serial struct {
	p     *place
	ends  [2]*os.File // the masters
	pumps sync.WaitGroup
}

func serialLine(p *place) {
	p.t.Helper()
	s := &serial{p: p}
	s.connect()
	p.parts["serial"] = s
	p.t.Cleanup(s.hangUp)
}

// replug hangs the line up and makes another, as an adapter that is pulled out.
func replug(p *place) {
	p.t.Helper()
	s := p.parts["serial"].(*serial)
	s.hangUp()
	s.connect()
}

func (s *serial) connect() {
	s.p.t.Helper()
	for i, name := range []string{"a", "b"} {
		fd, path := rig.Terminal(s.p.t)
		s.ends[i] = os.NewFile(uintptr(fd), "ptmx")
		// Before a program sets it up, a terminal echoes.
		must(s.p.t, unix.IoctlSetTermios(fd, unix.TCSETS, &unix.Termios{Cflag: unix.CS8 | unix.CREAD | unix.CLOCAL}))
		link := filepath.Join(s.p.dir, name)
		_ = os.Remove(link) // there may be none
		must(s.p.t, os.Symlink(path, link))
	}
	for i := range s.ends {
		s.pumps.Add(1)
		go s.pump(s.ends[i], s.ends[1-i])
	}
}

// pump is one direction of the line.
func (s *serial) pump(from, to *os.File) {
	defer s.pumps.Done()
	for buf := make([]byte, 4096); ; {
		n, err := from.Read(buf)
		switch {
		case errors.Is(err, unix.EIO): // nobody has it open
			time.Sleep(5 * time.Millisecond) // which no event ends
			continue
		case err != nil:
			return
		}
		if _, err := to.Write(buf[:n]); err != nil {
			return
		}
	}
}

func (s *serial) hangUp() {
	for _, f := range s.ends {
		f.Close()
	}
	s.pumps.Wait()
}
