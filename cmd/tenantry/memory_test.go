package main

import (
	"runtime"
	"runtime/debug"
	"testing"
)

func TestIdleAndLarge(t *testing.T) {
	m := newMemory()
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	burst := make([][]byte, 100)
	for i := range burst {
		burst[i] = make([]byte, 1<<20)
		burst[i][0] = 1
	}
	clear(burst)
	runtime.GC()
	if m.idleAndLarge() {
		t.Error("it has just collected garbage")
	}
	if !m.idleAndLarge() {
		t.Error("a hundred MiB are free and nothing happens")
	}
	debug.FreeOSMemory()
	m.idleAndLarge()
	if m.idleAndLarge() {
		t.Error("all has been given back")
	}
}
