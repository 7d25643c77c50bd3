package guard

import (
	"encoding/json"
	"testing"

	"golang.org/x/sys/unix"
)

// A job's names arrive byte by byte: those of files need not be UTF-8.
func TestJobKeepsNames(t *testing.T) {
	job := Job{Protocol: Protocol, VNL: "vde:///tmp/caf\xe9", Descr: "\xff", Group: "g\x80", Port: 3, Once: true}
	text, err := json.Marshal(job)
	if err != nil {
		t.Fatal(err)
	}
	var got Job
	if err := json.Unmarshal(text, &got); err != nil || got != job {
		t.Errorf("%+v %v", got, err)
	}
}

// So does the path that a worker found missing.
func TestFailureKeepsItsPath(t *testing.T) {
	worker, guardian := guestSocket(t)
	defer unix.Close(guardian)
	const path = "/tmp/caf\xe9/ctl"
	NewLine(worker).Failed(Failure{Why: "a test", Watch: []byte(path)})
	text, err := recv(guardian, 0)
	must(t, err)
	if w := ParseWord(text); w.Failed == nil || string(w.Failed.Watch) != path {
		t.Errorf("%q: %+v", text, w.Failed)
	}
}
