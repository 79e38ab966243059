package routing

import (
	"encoding/binary"
	"hash/maphash"
	"math/bits"
	"math/rand/v2"
)

// wordMap is a map of strings that touches one line of the processor's cache where a map of the language touches
// four or five: a command looks up some ten names, of whose lines hardly any is at hand when clients take turns.
// It is filled by one goroutine, before others read it.
type wordMap[V any] struct {
	slots []wordSlot[V] // a power of two, at most half of them taken
	taken int
	keys  [2]uint64    // of the hash
	seed  maphash.Seed // of that of strings that their ends don't tell apart
	long  map[string]V // what has no room in a slot
}

// wordSlot is a string with its value, 64 bytes where the value takes eight.
type wordSlot[V any] struct {
	value V
	ends
	n      uint8    // bytes of the string and one more; 0 for a free slot
	middle [39]byte // what lies between the ends
}

// Of a string.
const (
	toldByEnds = 16 // bytes up to which its length and ends are all of it
	inSlot     = toldByEnds + len(wordSlot[uint64]{}.middle)
)

// ends are a string's first and last eight bytes, or what there is of them.
type ends struct{ first, last uint64 }

func endsOf(s []byte) ends {
	n := len(s)
	switch {
	case n >= 8:
		return ends{binary.LittleEndian.Uint64(s), binary.LittleEndian.Uint64(s[n-8:])}
	case n >= 4:
		return ends{uint64(binary.LittleEndian.Uint32(s)), uint64(binary.LittleEndian.Uint32(s[n-4:]))}
	case n > 0:
		return ends{uint64(s[0]), uint64(s[n/2])<<8 | uint64(s[n-1])}
	}
	return ends{}
}

// newWordMap makes room for n words.
func newWordMap[V any](n int) wordMap[V] {
	size := 8
	for size < 2*n {
		size *= 2
	}
	return wordMap[V]{slots: make([]wordSlot[V], size), keys: [2]uint64{rand.Uint64(), rand.Uint64()}, seed: maphash.MakeSeed()}
}

// find is the value of a string; the zero value where it has none.
func (w *wordMap[V]) find(s []byte) (v V) {
	if len(s) > inSlot {
		return w.long[string(s)]
	}
	if x := w.slot(s, endsOf(s)); x.n > 0 {
		v = x.value
	}
	return v
}

// all calls yield for each value, in no order.
func (w *wordMap[V]) all(yield func(V) bool) {
	for i := range w.slots {
		if x := &w.slots[i]; x.n > 0 && !yield(x.value) {
			return
		}
	}
	for _, v := range w.long {
		if !yield(v) {
			return
		}
	}
}

// slot is the one of a string that fits, or the free one where it belongs.
func (w *wordMap[V]) slot(s []byte, e ends) *wordSlot[V] {
	i := w.mixed(e, len(s))
	if len(s) > toldByEnds {
		i = maphash.Bytes(w.seed, s)
	}
	for ; ; i++ {
		x := &w.slots[i&uint64(len(w.slots)-1)]
		if x.n == 0 || int(x.n) == len(s)+1 && x.ends == e && (len(s) <= toldByEnds || string(x.rest(len(s))) == string(s[8:len(s)-8])) {
			return x
		}
	}
}

// rest is what lies between the ends of a string of n bytes, more than its ends tell.
func (x *wordSlot[V]) rest(n int) []byte { return x.middle[:n-toldByEnds] }

// mixed is the hash of a string that its ends tell.
func (w *wordMap[V]) mixed(e ends, n int) uint64 {
	high, low := bits.Mul64(e.first^w.keys[0], e.last^w.keys[1]^uint64(n)<<56)
	return high ^ low
}

// set gives a string its value.
func (w *wordMap[V]) set(s string, v V) {
	if len(s) > inSlot {
		if w.long == nil {
			w.long = map[string]V{}
		}
		w.long[s] = v
		return
	}
	if 2*w.taken >= len(w.slots) {
		w.grow()
	}
	b := []byte(s)
	e := endsOf(b)
	x := w.slot(b, e)
	if x.n == 0 {
		w.taken++
	}
	x.value, x.ends, x.n = v, e, uint8(len(b)+1)
	if len(b) > toldByEnds {
		copy(x.middle[:], b[8:len(b)-8])
	}
}

// wordMapOf are a map's.
func wordMapOf[V any](m map[string]V) wordMap[V] {
	w := newWordMap[V](len(m))
	for s, v := range m {
		w.set(s, v)
	}
	return w
}

func (w *wordMap[V]) grow() {
	more := wordMap[V]{slots: make([]wordSlot[V], 2*len(w.slots)), keys: w.keys, seed: w.seed}
	var s [inSlot]byte
	for i := range w.slots {
		if x := &w.slots[i]; x.n > 0 {
			*more.slot(x.hashed(s[:]), x.ends) = *x
		}
	}
	w.slots = more.slots
}

// hashed is what is looked at to find the slot of its string, its ends aside: where these tell it, the length alone.
// It is written into s.
func (x *wordSlot[V]) hashed(s []byte) []byte {
	n := int(x.n) - 1
	s = s[:n]
	if n > toldByEnds {
		binary.LittleEndian.PutUint64(s, x.first)
		copy(s[8:], x.rest(n))
		binary.LittleEndian.PutUint64(s[n-8:], x.last)
	}
	return s
}
