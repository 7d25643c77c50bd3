//go:build go1.25

package vdetest_test

import (
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/umlvde/umlvde/libvdeplug/vdetest"
)

// TestSynctest waits for an hour in no time.
func TestSynctest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := vdetest.Pair()
		start := time.Now()
		must(t, b.SetReadDeadline(start.Add(time.Hour)))
		_, err := b.Read(make([]byte, 60))
		checkError(t, err, "read", os.ErrDeadlineExceeded)
		if waited := time.Since(start); waited != time.Hour {
			t.Errorf("waited for %v", waited)
		}
		go func() {
			time.Sleep(time.Hour)
			send(t, a, from(1, 2))
		}()
		must(t, b.SetReadDeadline(time.Time{}))
		_, err = b.Read(make([]byte, 60))
		must(t, err)
		if waited := time.Since(start); waited != 2*time.Hour {
			t.Errorf("waited for %v", waited)
		}
	})
}
