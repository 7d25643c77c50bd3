package conformance

import (
	"testing"

	"github.com/umlvde/umlvde/internal/rig"
)

// lan makes n namespaces on one bridge.
func lan(t testing.TB, n int) (hosts []*rig.Namespace) {
	t.Helper()
	l := rig.NewLAN(t)
	for range n {
		hosts = append(hosts, l.Host())
	}
	return hosts
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
