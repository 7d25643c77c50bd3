package plug_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"testing"

	"github.com/umlvde/umlvde/internal/plug"
	"golang.org/x/sys/unix"
)

// TestReport sends errors through JSON and compares what errors.Is says of them.
func TestReport(t *testing.T) {
	targets := []error{io.EOF, fs.ErrNotExist, fs.ErrPermission, errors.ErrUnsupported, unix.EBUSY, unix.ENOENT, unix.EPROTONOSUPPORT}
	for _, err := range []error{
		io.EOF,
		fmt.Errorf("the command ended: %w", io.EOF),
		fmt.Errorf("no switch there: %w", unix.ENOENT),
		fmt.Errorf("the interface is in use: %w", unix.EBUSY),
		fmt.Errorf("built without: %w", errors.ErrUnsupported),
		unix.EPERM,
		errors.New("the switch refused the connection"),
		&plug.PluginError{Plugin: "p", File: "f.so", Package: "libp", Missing: true},
		&plug.PluginError{Plugin: "p", File: "f.so", Why: "undefined symbol"},
	} {
		text, jsonErr := json.Marshal(plug.NewReport(err))
		if jsonErr != nil {
			t.Fatal(jsonErr)
		}
		var r plug.Report
		if jsonErr := json.Unmarshal(text, &r); jsonErr != nil {
			t.Fatal(jsonErr)
		}
		got := r.Err()
		if got.Error() != err.Error() {
			t.Errorf("%q became %q", err, got)
		}
		for _, target := range targets {
			if errors.Is(got, target) != errors.Is(err, target) {
				t.Errorf("%q is %q: %v, and it was not so before", got, target, errors.Is(got, target))
			}
		}
		if (err == io.EOF) != (got == io.EOF) { //nolint:errorlint // bare
			t.Errorf("a bare io.EOF became %#v", got)
		}
		var before, after *plug.PluginError
		if errors.As(err, &before) != errors.As(got, &after) || before != nil && *before != *after {
			t.Errorf("%+v became %+v", before, after)
		}
	}
}
