package guard

import (
	"encoding/json"
	"testing"
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
