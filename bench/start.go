package main

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// starts are the processes to start. One thread starts them all and lives as
// long as the program: a child inherits its CPUs, and is killed at its end.
var starts = make(chan startJob)

type startJob struct {
	cmd  *exec.Cmd
	cpu  int
	done chan error
}

func starter() {
	runtime.LockOSThread()
	var all unix.CPUSet
	if err := unix.SchedGetaffinity(0, &all); err != nil {
		panic(err) // a thread may ask this about itself
	}
	for job := range starts {
		err := pinThread(job.cpu)
		if err == nil {
			err = job.cmd.Start()
		}
		_ = unix.SchedSetaffinity(0, &all) // as it was
		job.done <- err
	}
}

// A process is one that the benchmark has started.
type process struct {
	cmd  *exec.Cmd
	done chan struct{}
}

// start starts a process on one CPU, or any if cpu is -1.
func start(cmd *exec.Cmd, cpu int) (*process, error) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	job := startJob{cmd, cpu, make(chan error)}
	starts <- job
	if err := <-job.done; err != nil {
		return nil, err
	}
	p := &process{cmd, make(chan struct{})}
	go func() {
		_ = cmd.Wait() // how it ended does not matter
		close(p.done)
	}()
	return p, nil
}

func (p *process) pid() int { return p.cmd.Process.Pid }

// end waits for the end of the process, and after grace kills it.
func (p *process) end(grace time.Duration) {
	select {
	case <-p.done:
	case <-time.After(grace):
		_ = p.cmd.Process.Kill() // it may just have ended
		<-p.done
	}
}

// run runs a command to its end, and shows what it printed if it fails.
func run(name string, args ...string) error {
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s %q: %w\n%s", name, args, err, out)
	}
	return nil
}

// eventually waits for what no event tells of.
func eventually(within time.Duration, what string, ok func() bool) error {
	for deadline := time.Now().Add(within); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			return fmt.Errorf("not within %v: %s", within, what)
		}
	}
	return nil
}

// socketpair makes what UML and its helper share; the second end is the helper's.
func socketpair() (int, *os.File, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, nil, fmt.Errorf("socketpair: %w", err)
	}
	return pair[0], os.NewFile(uintptr(pair[1]), "helper"), nil
}
