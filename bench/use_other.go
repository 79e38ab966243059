//go:build !linux

package main

import (
	"errors"
	"os/exec"
)

// use is what a process has used; only Linux tells.
type use struct {
	CPU          float64
	Memory, Peak int64
}

func useOf(int) use { return use{} }

func resetPeak(int) error { return nil }

type account struct{}

func machine() account { return account{} }

func (account) since(account, float64) (others, stolen float64) { return 0, 0 }

func startOn(cpu int, cmd *exec.Cmd) error {
	if cpu >= 0 {
		return errors.New("processes can be pinned to one CPU on Linux only; add -free")
	}
	return cmd.Start()
}
