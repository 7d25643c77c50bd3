package main

import (
	"os"
	"testing"

	"github.com/umlvde/umlvde/internal/rig"
)

func TestMain(m *testing.M) { os.Exit(rig.Main(m)) }
