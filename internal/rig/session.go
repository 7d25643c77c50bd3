package rig

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// killSession kills all processes of a session, by their ids, until there is
// none: one may be about to start another.
func killSession(sid int) {
	for range 100 {
		pids := Session(sid)
		if len(pids) == 0 {
			return
		}
		for _, pid := range pids {
			_ = syscall.Kill(pid, syscall.SIGKILL) // it may have ended
		}
		time.Sleep(5 * time.Millisecond) // there is no event for the end of processes of others
	}
}

// Session lists the living processes of a session.
func Session(sid int) (pids []int) {
	stats, _ := filepath.Glob("/proc/[0-9]*/stat") // the pattern is good
	for _, path := range stats {
		text, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		_, rest, _ := strings.Cut(string(text), ") ")
		var state string
		var pid, ppid, pgrp, session int
		if _, err := fmt.Sscan(rest, &state, &ppid, &pgrp, &session); err != nil || session != sid || state == "Z" {
			continue
		}
		if _, err := fmt.Sscanf(filepath.Base(filepath.Dir(path)), "%d", &pid); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}
