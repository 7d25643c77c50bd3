// Package leak finds what tests leave behind in their own process.
package leak

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"runtime"
	"runtime/pprof"
	"strconv"
	"time"
)

// patience is how long what a test has ended may take to be gone.
const patience = 10 * time.Second

// Main runs the tests of a package and returns their exit status, which is not
// 0 if they have left descriptors or goroutines. It is for a TestMain.
func Main(m interface{ Run() int }) int {
	// The runtime's poller and os/exec have descriptors of their own, which are
	// made once.
	r, w, err := os.Pipe()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	r.Close()
	w.Close()
	files, goroutines := OpenFiles(), runtime.NumGoroutine()
	code := m.Run()
	if code != 0 || flag.Lookup("test.fuzz").Value.String() != "" { // fuzzing has goroutines of its own
		return code
	}
	if !within(func() bool { return runtime.NumGoroutine() <= goroutines }) {
		fmt.Fprintln(os.Stderr, "the tests have left goroutines:")
		_ = pprof.Lookup("goroutine").WriteTo(os.Stderr, 1) // as good as it gets
		return 1
	}
	if !within(func() bool { return maps.Equal(files, OpenFiles()) }) {
		fmt.Fprintf(os.Stderr, "the tests have left descriptors:\nbefore: %v\nafter:  %v\n", files, OpenFiles())
		return 1
	}
	return 0
}

// OpenFiles lists the open descriptors of this process.
func OpenFiles() map[int]string {
	files := make(map[int]string)
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		panic(err)
	}
	for _, e := range entries {
		target, err := os.Readlink("/proc/self/fd/" + e.Name())
		if err != nil { // that of the directory itself
			continue
		}
		fd, err := strconv.Atoi(e.Name())
		if err != nil {
			panic(err)
		}
		files[fd] = target
	}
	return files
}

// within polls, as no event tells.
func within(ok func() bool) bool {
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			return false
		}
	}
	return true
}
