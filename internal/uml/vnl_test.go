package uml

import (
	"strings"
	"testing"
)

func TestCleanVNL(t *testing.T) {
	for in, want := range map[string]string{
		"":                          "",
		"slirp://":                  "slirp://",
		`"x://y z"`:                 "x://y z",
		`'x://y z'`:                 "x://y z",
		`"'x'"`:                     `'x'`,
		`"x'`:                       `"x'`,
		`"`:                         `"`,
		`""`:                        "",
		"slirp:///addr%3D10.7.0.2":  "slirp:///addr=10.7.0.2",
		"a%3db%2cc%2Cd%20e":         "a=b,c,d e",
		"%41%25%2F%3":               "%41%25%2F%3",
		"%253D":                     "%253D",
		"'vde:///tmp/a%20b'":        "vde:///tmp/a b",
		"%22x%22":                   "%22x%22",
		`vde:///tmp/"quoted"/sw[3]`: `vde:///tmp/"quoted"/sw[3]`,
	} {
		if got := CleanVNL(in); got != want {
			t.Errorf("%s: %q, want %q", in, got, want)
		}
	}
}

func FuzzCleanVNL(f *testing.F) {
	f.Add(`"cmd://ssh host"`)
	f.Add("slirp:///addr%3D10.7.0.2")
	f.Fuzz(func(t *testing.T, s string) {
		clean := CleanVNL(s)
		if decode(clean) != clean {
			t.Errorf("%q: %q is not all decoded", s, clean)
		}
		if strings.ContainsAny(encode(clean), "=, ") {
			t.Errorf("%q does not encode %q", encode(clean), clean)
		}
		if got := CleanVNL("'" + encode(clean) + "'"); got != clean {
			t.Errorf("%q comes back as %q", clean, got)
		}
	})
}
