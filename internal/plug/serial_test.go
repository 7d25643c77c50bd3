package plug

import (
	"testing"

	"github.com/umlvde/umlvde/internal/rig"
	"golang.org/x/sys/unix"
)

// TestSerialOneByOne has two frames and the beginning of a third come over a serial
// line: each call brings one, so that nobody waits for the rest of the last one, and
// frames may go the other way meanwhile.
func TestSerialOneByOne(t *testing.T) {
	line, path := rig.Terminal(t)
	defer unix.Close(line)
	p := open(t, "vdesl://"+path)
	if !p.Parallel() {
		t.Error("it is half-duplex")
	}
	_, err := unix.Write(line, append(framed(rig.Frame(60, 0), rig.Frame(60, 1)), 0, 60, 2))
	must(t, err)
	for want := range uint32(2) {
		if frames := receive(t, p); len(frames) != 1 || rig.Number(frames[0]) != want {
			t.Errorf("in place of frame %d came %d frames", want, len(frames))
		}
	}
}
