package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// family is a process and the living children it has started.
func family(pid int) []int {
	pids := []int{pid}
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid)) // the pattern is good
	for _, task := range tasks {
		text, _ := os.ReadFile(task) // a thread may have ended
		for _, f := range strings.Fields(string(text)) {
			if child, err := strconv.Atoi(f); err == nil && alive(child) {
				pids = append(pids, family(child)...)
			}
		}
	}
	return pids
}

func alive(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, rest, _ := bytes.Cut(stat, []byte(") "))
	return len(rest) > 0 && rest[0] != 'Z'
}

// cpuTime is what the processes have used, from their CPU clocks: to the
// nanosecond, of all threads, those that run at the moment and those that have
// ended, too.
func cpuTime(pids []int) (sum time.Duration) {
	for _, pid := range pids {
		clock := int32(^pid<<3 | 2) // make_process_cpuclock(pid, CPUCLOCK_SCHED)
		var t unix.Timespec
		if unix.ClockGettime(clock, &t) == nil {
			sum += time.Duration(t.Nano())
		}
	}
	return sum
}

// switches counts the context switches of all threads of the processes.
func switches(pids []int) (sum int) {
	for _, pid := range pids {
		tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
		for _, task := range tasks {
			sum += fields(task, "voluntary_ctxt_switches") // and nonvoluntary
		}
	}
	return sum
}

// memoryKB sums the proportional and the resident size of the processes, in kB.
func memoryKB(pids []int) (pss, rss int) {
	for _, pid := range pids {
		file := fmt.Sprintf("/proc/%d/smaps_rollup", pid)
		pss += fields(file, "Pss")
		rss += fields(file, "Rss")
	}
	return pss, rss
}

// fields sums the numbers behind a name in a file of lines "Name: 123".
func fields(file, name string) (sum int) {
	text, err := os.ReadFile(file)
	if err != nil {
		return 0
	}
	for _, m := range regexp.MustCompile(`(?m)`+name+`:\s+(\d+)`).FindAllSubmatch(text, -1) {
		if n, err := strconv.Atoi(string(m[1])); err == nil {
			sum += n
		}
	}
	return sum
}

// lastCPU is the highest CPU that this process may use: the first one often has
// the interrupts.
func lastCPU() int {
	var set unix.CPUSet
	if unix.SchedGetaffinity(0, &set) != nil {
		return 0
	}
	for cpu := 1023; cpu > 0; cpu-- {
		if set.IsSet(cpu) {
			return cpu
		}
	}
	return 0
}
