package main

import (
	"context"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// How long the process must have collected no garbage to count as quiet, and from how much free memory
// on it gives that back.
const (
	quietFor  = 5 * time.Second
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
}

func newMemory() *memory {
	return &memory{samples: []metrics.Sample{
		{Name: "/gc/cycles/total:gc-cycles"}, {Name: "/memory/classes/heap/free:bytes"}, {Name: "/memory/classes/heap/objects:bytes"},
	}}
}

// idleAndLarge reports whether no garbage was collected since the last look, and enough memory is free.
func (m *memory) idleAndLarge() bool {
	metrics.Read(m.samples)
	cycles, free, used := m.samples[0].Value.Uint64(), m.samples[1].Value.Uint64(), m.samples[2].Value.Uint64()
	quiet := cycles == m.cycles
	m.cycles = cycles
	return quiet && free >= worthIt && free >= used/worthPart
}
