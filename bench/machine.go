package main

import (
	"bytes"
	"fmt"
	"os"
	"runtime"
	"strings"
)

// describe says what machine this is.
func describe() string {
	model := runtime.GOARCH
	text, _ := os.ReadFile("/proc/cpuinfo")
	for line := range bytes.Lines(text) {
		if k, v, ok := strings.Cut(string(line), ":"); ok && strings.TrimSpace(k) == "model name" {
			model = strings.TrimSpace(v)
			break
		}
	}
	s := fmt.Sprintf("%s, %d CPUs, %s, %s", model, runtime.NumCPU(), runtime.GOOS, runtime.Version())
	if name := congestion(); name != "" {
		s += ", congestion control " + name
	}
	return s
}

// congestion is the system's congestion control; "" where it does not tell.
func congestion() string {
	name, _ := os.ReadFile("/proc/sys/net/ipv4/tcp_congestion_control")
	return strings.TrimSpace(string(name))
}
