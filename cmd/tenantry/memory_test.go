package main

import (
	"runtime"
	"runtime/debug"
	"testing"
)

// sinkOfTests keeps what tests make on the heap.
var sinkOfTests []byte

func TestIdleAndLarge(t *testing.T) {
	m := newMemory()
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	burst := func() {
		for range 100 {
			sinkOfTests = make([]byte, 1<<20)
		}
		sinkOfTests = nil
	}
	m.idleAndLarge()
	burst()
	if m.idleAndLarge() {
		t.Error("it has just been at work")
	}
	if !m.idleAndLarge() {
		t.Error("a hundred MiB are garbage and nothing happens")
	}
	runtime.GC()
	if m.idleAndLarge() {
		t.Error("it has just collected garbage")
	}
	sinkOfTests = make([]byte, 2*hardlyAny)
	if !m.idleAndLarge() {
		t.Error("a hundred MiB are free and nothing happens, since some work goes on")
	}
	debug.FreeOSMemory()
	m.idleAndLarge()
	if m.idleAndLarge() {
		t.Error("all has been given back")
	}
}
