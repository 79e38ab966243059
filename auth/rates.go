package auth

import (
	"hash/maphash"
	"sync"
	"time"
)

// Limit allows so many at once, and as many again in each period; a Count of 0 allows all.
type Limit struct {
	Count  int
	Period time.Duration
}

// Rates counts by key against limits, in bounded memory: of more keys than it has room for, those
// that are furthest from their limit are forgotten first.
type Rates struct {
	seed maphash.Seed
	max  int

	mu sync.Mutex // guards the following
	m  map[uint64]used
}

// used is how much of a limit is used up, as of a time.
type used struct {
	n  float64
	at time.Time
}

// NewRates has room for so many keys.
func NewRates(room int) *Rates {
	return &Rates{seed: maphash.MakeSeed(), max: room, m: make(map[uint64]used)}
}

// Take uses one up, where the limit leaves one.
func (r *Rates) Take(key string, l Limit, now time.Time) bool {
	if l.Count == 0 {
		return true
	}
	k := maphash.String(r.seed, key)
	r.mu.Lock()
	defer r.mu.Unlock()
	is, known := r.m[k]
	is = is.ease(l, now)
	if is.n+1 > float64(l.Count) {
		return false
	}
	if !known && len(r.m) >= r.max {
		r.forget(l, now)
	}
	is.n++
	r.m[k] = is
	return true
}

// Room reports whether the limit leaves one, and uses none up.
func (r *Rates) Room(key string, l Limit, now time.Time) bool {
	if l.Count == 0 {
		return true
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.m[maphash.String(r.seed, key)].ease(l, now).n+1 <= float64(l.Count)
}

// has reports whether something of a key is used up, or was.
func (r *Rates) has(key string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, ok := r.m[maphash.String(r.seed, key)]
	return ok
}

// ease is what is left used up as time goes.
func (u used) ease(l Limit, now time.Time) used {
	if past := now.Sub(u.at); past > 0 {
		u.n, u.at = max(0, u.n-float64(l.Count)*float64(past)/float64(l.Period)), now
	}
	return u
}

// forget drops the least used of a few keys: maps are walked from anywhere.
func (r *Rates) forget(l Limit, now time.Time) {
	var least uint64
	lowest, looked := -1.0, 0
	for k, u := range r.m {
		if n := u.ease(l, now).n; lowest < 0 || n < lowest {
			least, lowest = k, n
		}
		if looked++; looked == 8 {
			break
		}
	}
	delete(r.m, least)
}
