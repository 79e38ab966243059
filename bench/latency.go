package main

import (
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// latency is a distribution, in microseconds.
type latency struct{ P50, P90, P99, P999, Max float64 }

// timings collects latencies of many clients. Each has a part of it that it shares with few others.
type timings struct {
	parts [16]struct {
		mu sync.Mutex // guards h
		h  *hdrhistogram.Histogram
	}
}

// longest is the largest latency that is told apart, in nanoseconds; what is longer counts as that.
const longest = int64(100 * time.Second)

func newTimings() *timings {
	t := &timings{}
	for i := range t.parts {
		t.parts[i].h = hdrhistogram.New(1000, longest, 3)
	}
	return t
}

func (t *timings) note(client int, took time.Duration) {
	p := &t.parts[client%len(t.parts)]
	p.mu.Lock()
	defer p.mu.Unlock()
	_ = p.h.RecordValue(min(max(took.Nanoseconds(), 1000), longest)) // within the range it does not fail
}

func (t *timings) summary() (l latency, n int64) {
	all := hdrhistogram.New(1000, longest, 3)
	for i := range t.parts {
		p := &t.parts[i]
		p.mu.Lock()
		all.Merge(p.h)
		p.mu.Unlock()
	}
	at := func(q float64) float64 { return float64(all.ValueAtQuantile(q)) / 1000 }
	return latency{at(50), at(90), at(99), at(99.9), float64(all.Max()) / 1000}, all.TotalCount()
}
