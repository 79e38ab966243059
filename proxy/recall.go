package proxy

import (
	"sync"
	"time"
)

// recalls remember which document a retryable write was found to be for, for as long as its retry may
// come. A filter without _id may match another document by then; the home that has made the write
// answers the retry from its history, if it is asked.
type recalls struct {
	mu sync.Mutex // guards the following
	m  map[recallKey]recalled
}

type recallKey struct {
	session txnKey
	number  int64
	stmt    int32
}

type recalled struct {
	place
	when time.Time
}

const (
	recallTime = 5 * time.Minute
	maxRecalls = 1 << 16
)

func newRecalls() *recalls { return &recalls{m: map[recallKey]recalled{}} }

func (x *recalls) get(k recallKey) (place, bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	r, ok := x.m[k]
	return r.place, ok
}

// put remembers where a write is sent next; to where it was sent before it has done nothing. Where
// all are taken the newest counts most, since a retry comes soon: another one goes.
func (x *recalls) put(k recallKey, p place) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if _, known := x.m[k]; !known && len(x.m) >= maxRecalls {
		for old := range x.m {
			delete(x.m, old)
			break
		}
	}
	x.m[k] = recalled{p, time.Now()}
}

func (x *recalls) reap(now time.Time) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for k, r := range x.m {
		if now.Sub(r.when) > recallTime {
			delete(x.m, k)
		}
	}
}
