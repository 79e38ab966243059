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
	debug.FreeOSMemory()
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
	burst()
	runtime.GC()
	m.idleAndLarge()
	told := 0
	for range atWork {
		sinkOfTests = make([]byte, 2*hardlyAny)
		if m.idleAndLarge() {
			told++
		}
	}
	if told != 1 {
		t.Errorf("memory is free and some work goes on: it is given back %d times in a minute", told)
	}
	debug.FreeOSMemory()
	m.idleAndLarge()
	if m.idleAndLarge() {
		t.Error("all has been given back")
	}
}
