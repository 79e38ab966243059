package proxy

import (
	"container/list"
	"runtime"
	"sync"
)

// shelves keep what clients have begun and the proxy has to remember, apart for each principal: of each
// there is no more than a number, so that what one of them begins takes a bounded amount of memory and
// pushes out nothing of another's.
type shelves[K comparable, V any] map[string]*shelf[K, V]

// shelf is one principal's.
type shelf[K comparable, V any] struct {
	at   map[K]*list.Element
	used list.List // of entries, the one used last first
}

type shelved[K comparable, V any] struct {
	key   K
	value V
}

// What the proxy remembers for one principal at most: of transactions, of sessions' clocks, and of cursors.
// Who is bound to a tenant is not trusted. The application, which serves all tenants, may have as many as
// a server lets it have sessions.
const (
	maxOfBound = 10_000
	maxOfOpen  = 1_000_000
)

// share is how much of one kind is remembered for the client.
func (c *clientConn) share() int {
	if c.bound != nil {
		return maxOfBound
	}
	return maxOfOpen
}

// of is the principal's shelf; it is made where there is none.
func (x shelves[K, V]) of(principal string) *shelf[K, V] {
	s := x[principal]
	if s == nil {
		s = &shelf[K, V]{at: map[K]*list.Element{}}
		x[principal] = s
	}
	return s
}

// get finds what is kept under the key, which is used by that.
func (s *shelf[K, V]) get(key K) (value V, ok bool) {
	e := s.at[key]
	if e == nil {
		return value, false
	}
	s.used.MoveToFront(e)
	return e.Value.(*shelved[K, V]).value, true
}

// put keeps the value under the key.
func (s *shelf[K, V]) put(key K, value V) {
	if e := s.at[key]; e != nil {
		e.Value.(*shelved[K, V]).value = value
		s.used.MoveToFront(e)
		return
	}
	s.at[key] = s.used.PushFront(&shelved[K, V]{key, value})
}

func (s *shelf[K, V]) remove(key K) {
	if e := s.at[key]; e != nil {
		s.used.Remove(e)
		delete(s.at, key)
	}
}

// looked is among how many of those that were not used for the longest time one is looked for that may go:
// who has all of them taken and asks for more holds up the others for no longer.
const looked = 100

// makeRoom takes out what was not used for the longest time and may go, until there is room for one more;
// false where nothing may go.
func (s *shelf[K, V]) makeRoom(limit int, mayGo func(V) bool) bool {
	for e, n := s.used.Back(), 0; e != nil && n < looked && len(s.at) >= limit; n++ {
		before, x := e.Prev(), e.Value.(*shelved[K, V])
		if mayGo(x.value) {
			s.remove(x.key)
		}
		e = before
	}
	return len(s.at) < limit
}

// atOnce is how much is taken out in one go: everybody's commands may wait for it.
const atOnce = 1000

// expireAll takes out what is over by how long ago it was used, in goes between which others have their turn. mu
// guards x, and is not held.
func expireAll[K comparable, V any](mu *sync.Mutex, x shelves[K, V], over func(V) bool) {
	for more := true; more; runtime.Gosched() {
		mu.Lock()
		more = x.expire(over)
		mu.Unlock()
	}
}

// expire is one go: it takes out what is over, and shelves that are empty then, and reports whether there may be more.
// Of each principal's it looks at what was not used for the longest time, up to the first that is not over.
func (x shelves[K, V]) expire(over func(V) bool) (more bool) {
	n := 0
	for principal, s := range x {
		for e := s.used.Back(); e != nil && n < atOnce; e = s.used.Back() {
			v := e.Value.(*shelved[K, V])
			if !over(v.value) {
				break
			}
			s.remove(v.key)
			n++
		}
		if len(s.at) == 0 {
			delete(x, principal)
		}
		if n == atOnce {
			return true
		}
	}
	return false
}

// reap takes out what is over for any reason, and shelves that are empty then.
func (x shelves[K, V]) reap(over func(V) bool) {
	for _, s := range x {
		for _, e := range s.at {
			if v := e.Value.(*shelved[K, V]); over(v.value) {
				s.remove(v.key)
			}
		}
	}
	x.clear()
}

// clear takes out the shelves that are empty.
func (x shelves[K, V]) clear() {
	for principal, s := range x {
		if len(s.at) == 0 {
			delete(x, principal)
		}
	}
}

// size is how many are kept for all.
func (x shelves[K, V]) size() (n int) {
	for _, s := range x {
		n += len(s.at)
	}
	return n
}
