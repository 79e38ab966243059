package main

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// account is the machine's account of CPU seconds, and what our own processes have used of them.
type account struct{ busy, stolen, ours float64 }

// machine reads the account; ours is the processes of the bench, which all descend from one session.
func machine() (a account) {
	text, _ := os.ReadFile("/proc/stat")
	f := strings.Fields(string(text)) // cpu user nice system idle iowait irq softirq steal …
	at := func(i int) float64 {
		if i >= len(f) {
			return 0
		}
		n, _ := strconv.ParseFloat(f[i], 64)
		return n / 100
	}
	a.busy = at(1) + at(2) + at(3) + at(6) + at(7)
	a.stolen = at(8)
	for _, pid := range processes() {
		a.ours += useOf(pid).CPU
	}
	return a
}

// since is how many CPUs others have had in use since then, in so many seconds.
func (a account) since(before account, seconds float64) (others, stolen float64) {
	others = (a.busy - before.busy - (a.ours - before.ours)) / seconds
	return max(others, 0), (a.stolen - before.stolen) / seconds
}

// processes are those that this process's parent has started, and the parent.
func processes() []int {
	parent := os.Getppid()
	pids := []int{parent}
	tasks, _ := os.ReadDir(fmt.Sprintf("/proc/%d/task", parent))
	for _, t := range tasks {
		text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/children", parent, t.Name()))
		for f := range strings.FieldsSeq(string(text)) {
			if pid, err := strconv.Atoi(f); err == nil {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}

// startOn starts a command that may run on one CPU only, or on all where cpu is negative. A process
// inherits what the thread that forks it may do.
func startOn(cpu int, cmd *exec.Cmd) error {
	if cpu < 0 {
		return cmd.Start()
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var before, one unix.CPUSet
	if err := unix.SchedGetaffinity(0, &before); err != nil {
		return err
	}
	one.Set(cpu)
	if err := unix.SchedSetaffinity(0, &one); err != nil {
		return err
	}
	defer func() { _ = unix.SchedSetaffinity(0, &before) }()
	return cmd.Start()
}
