package rig

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"
)

// Switches counts the context switches of all threads of a process.
func Switches(t testing.TB, pid int) (sum int) {
	t.Helper()
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
	if err != nil || len(tasks) == 0 {
		t.Fatalf("process %d: no threads: %v", pid, err)
	}
	for _, task := range tasks {
		for _, m := range statusField(t, task, `voluntary_ctxt_switches`) {
			sum += m
		}
	}
	return sum
}

// ResidentKB is the resident memory of a process in kB.
func ResidentKB(t testing.TB, pid int) int {
	t.Helper()
	return statusField(t, fmt.Sprintf("/proc/%d/status", pid), "VmRSS")[0]
}

// PeakKB is the most resident memory that a process has had, in kB.
func PeakKB(t testing.TB, pid int) int {
	t.Helper()
	return statusField(t, fmt.Sprintf("/proc/%d/status", pid), "VmHWM")[0]
}

func statusField(t testing.TB, file, name string) (values []int) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile(name+`:\s+(\d+)`).FindAllStringSubmatch(string(text), -1) {
		n, err := strconv.Atoi(m[1])
		if err != nil {
			t.Fatal(err)
		}
		values = append(values, n)
	}
	if len(values) == 0 {
		t.Fatalf("%s has no %s", file, name)
	}
	return values
}

// OpenFiles lists what the descriptors of a process refer to.
func OpenFiles(t testing.TB, pid int) map[int]string {
	t.Helper()
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	files := make(map[int]string)
	for _, e := range entries {
		fd, err := strconv.Atoi(e.Name())
		if err != nil {
			t.Fatal(err)
		}
		if target, err := os.Readlink(filepath.Join(dir, e.Name())); err == nil {
			files[fd] = target
		}
	}
	return files
}
