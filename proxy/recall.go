package proxy

import (
	"sync"
	"time"
)

// recalls remember which document a retryable write was found to be for, for as long as its retry may
// come. A filter without _id may match another document by then; the home that has made the write
// answers the retry from its history, if it is asked.
type recalls struct {
	mu    sync.Mutex // guards the following
	m     map[recallKey]recalled
	tries uint64
}

type recallKey struct {
	session txnKey
	number  int64
	stmt    int32
}

type recalled struct {
	place
	when time.Time
	try  uint64 // the newest that has asked or told
}

const (
	recallTime = 5 * time.Minute
	maxRecalls = 1 << 16
)

func newRecalls() *recalls { return &recalls{m: map[recallKey]recalled{}} }

// begin is the number of a try: those that begin later have higher ones.
func (x *recalls) begin() uint64 {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.tries++
	return x.tries
}

func (x *recalls) get(k recallKey, try uint64) (place, bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	r, ok := x.m[k]
	if ok && r.try < try {
		r.try = try
		x.m[k] = r
	}
	return r.place, ok
}

// put remembers where a write is sent next; to where it was sent before it has done nothing. Where
// all are taken the newest counts most, since a retry comes soon: another one goes. It is false for a try
// that is not the write's last: the client has sent it again without waiting.
func (x *recalls) put(k recallKey, p place, try uint64) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	old, known := x.m[k]
	if known && old.try > try {
		return false
	}
	if !known && len(x.m) >= maxRecalls {
		for old := range x.m {
			delete(x.m, old)
			break
		}
	}
	x.m[k] = recalled{p, time.Now(), try}
	return true
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
