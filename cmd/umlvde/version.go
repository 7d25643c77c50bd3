package main

import (
	"fmt"
	"io"
	"runtime/debug"

	"github.com/umlvde/umlvde/internal/plug"
)

// version is set by the Makefile.
var version = ""

func ownVersion() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(devel)"
}

// printVersion prints the program's version, the library that it would load and
// the plugins that it would find.
func printVersion(stdout io.Writer) error {
	fmt.Fprintf(stdout, "umlvde %s\n", ownVersion())
	lib, err := plug.Load("")
	if err != nil {
		return err
	}
	fmt.Fprintf(stdout, "library %s\n", lib.Path())
	for _, p := range plug.Plugins(lib) {
		if p.Path == "" {
			p.Path = "built in"
		}
		fmt.Fprintf(stdout, "plugin %s: %s\n", p.Name, p.Path)
	}
	return nil
}
