package main

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// use is what a process has used.
type use struct {
	CPU    float64 // seconds
	Memory int64   // resident bytes now
	Peak   int64   // the most since resetPeak
}

// useOf reads a process's use; 0 is no process. What can't be read is 0.
func useOf(pid int) (u use) {
	if pid == 0 {
		return u
	}
	// clock_getcpuclockid(3): the clock of a process by its id, exact to the nanosecond where
	// /proc/PID/stat counts in hundredths of a second.
	var t unix.Timespec
	if unix.ClockGettime(int32(^pid<<3|2), &t) == nil {
		u.CPU = float64(t.Nano()) / 1e9
	}
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	for line := range bytes.Lines(text) {
		f := strings.Fields(string(line))
		if len(f) < 2 {
			continue
		}
		n, _ := strconv.ParseInt(f[1], 10, 64)
		switch f[0] {
		case "VmRSS:":
			u.Memory = n << 10
		case "VmHWM:":
			u.Peak = n << 10
		}
	}
	return u
}

// resetPeak makes the peak that of now on.
func resetPeak(pid int) error {
	if pid == 0 {
		return nil
	}
	return os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", pid), []byte("5"), 0)
}
