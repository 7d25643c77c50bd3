package conformance

import (
	"flag"
	"os"
	"testing"

	"github.com/umlvde/umlvde/internal/leak"
	"github.com/umlvde/umlvde/internal/rig"
)

var update = flag.Bool("update", false, "write docs/plugs.md")

func TestMain(m *testing.M) { os.Exit(rig.MainApart(inside{m})) }

// inside looks at what the tests leave in their own process, too.
type inside struct{ m *testing.M }

func (i inside) Run() int { return leak.Main(i.m) }
