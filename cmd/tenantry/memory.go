package main

import (
	"context"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// How long the process must have collected no garbage to count as quiet, and from how much free memory on it
// gives that back. Garbage counts as free where hardly any is made, so that nothing collects it before long.
const (
	quietFor  = 5 * time.Second
	hardlyAny = 1 << 20 // bytes in that time
	atWork    = 12      // looks from one time to the next where more is made: what goes back is to be had anew then
	worthIt   = 4 << 20
	worthPart = 8 // of all that the heap holds
)

// giveBack returns to the system what a crowd of clients, or a large message, has left free, once the
// process is quiet: the runtime does so only as it collects garbage, and where commands make none that
// takes minutes.
func giveBack(ctx context.Context) {
	tick := time.NewTicker(quietFor)
	defer tick.Stop()
	m := newMemory()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if m.idleAndLarge() {
				debug.FreeOSMemory()
			}
		}
	}
}

// memory is what the runtime tells of it, without stopping anything.
type memory struct {
	samples []metrics.Sample
	cycles  uint64
	made    uint64 // bytes allocated so far
	looks   int    // since memory was given back
}

func newMemory() *memory {
	return &memory{samples: []metrics.Sample{
		{Name: "/gc/cycles/total:gc-cycles"},
		{Name: "/gc/heap/allocs:bytes"},
		{Name: "/gc/heap/live:bytes"},
		{Name: "/memory/classes/heap/free:bytes"},
		{Name: "/memory/classes/heap/objects:bytes"},
	}}
}

// idleAndLarge reports whether since the last look no garbage was collected, and enough memory is free. Where more
// than hardly any is made it says so once a minute.
func (m *memory) idleAndLarge() bool {
	metrics.Read(m.samples)
	cycles, made := m.samples[0].Value.Uint64(), m.samples[1].Value.Uint64()
	live, free, objects := m.samples[2].Value.Uint64(), m.samples[3].Value.Uint64(), m.samples[4].Value.Uint64()
	quiet, resting := cycles == m.cycles, made-m.made < hardlyAny
	m.cycles, m.made = cycles, made
	if resting && objects > live { // garbage, all but what has been made since the last collection and is in use
		free += objects - live
	}
	m.looks++
	if !quiet || !resting && m.looks < atWork || free < worthIt || free < objects/worthPart {
		return false
	}
	m.looks = 0
	return true
}
