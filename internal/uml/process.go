package uml

import (
	"debug/elf"
	"fmt"
	"os"
	"strings"
)

// KernelOf returns the id of the UML kernel that is the process with this id or has,
// perhaps through scripts, started it; 0 if there is none. A process that it is not
// allowed to look at is taken for one.
func KernelOf(pid int) int {
	is, err := isKernel(pid)
	if is || err != nil {
		return pid
	}
	for pid = parentOf(pid); pid > 1; pid = parentOf(pid) {
		switch is, err = isKernel(pid); {
		case err != nil:
			return 0 // another user's: a login, not the kernel of this one
		case is:
			return pid
		}
	}
	return 0
}

// isKernel looks for what only UML kernels have, of any version: the table of
// their own options (arch/um/include/asm/common.lds.S).
func isKernel(pid int) (bool, error) {
	f, err := elf.Open(fmt.Sprintf("/proc/%d/exe", pid))
	if err != nil {
		return false, err
	}
	defer func() { _ = f.Close() }() // it was read
	return f.Section(".uml.setup.init") != nil, nil
}

// parentOf returns the id of a process's parent, 0 if there is none.
func parentOf(pid int) (parent int) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	name := strings.LastIndexByte(string(stat), ')') // which may hold anything
	if _, err := fmt.Sscanf(string(stat[name+1:]), " %c %d", new(rune), &parent); err != nil {
		return 0
	}
	return parent
}
