package routing

import "hash/maphash"

// wordMap is a map of strings that touches one line of the processor's cache where a map of the language touches
// four or five: a command looks up some ten names, of whose lines hardly any is at hand when clients take turns.
// It is filled before it is read.
type wordMap[V any] struct {
	slots []wordSlot[V] // a power of two, at most half of them taken
	taken int
	seed  maphash.Seed
	long  map[string]V // what has no room in a slot
}

// wordSlot is a string with its value, 64 bytes where the value takes eight.
type wordSlot[V any] struct {
	value V
	n     uint8 // bytes of the string and one more; 0 for a free slot
	text  [55]byte
}

// newWordMap makes room for n words.
func newWordMap[V any](n int) wordMap[V] {
	size := 8
	for size < 2*n {
		size *= 2
	}
	return wordMap[V]{slots: make([]wordSlot[V], size), seed: maphash.MakeSeed()}
}

// find is the value of a string; the zero value where it has none.
func (w *wordMap[V]) find(s []byte) (v V) {
	if len(s) >= len(wordSlot[V]{}.text) {
		return w.long[string(s)]
	}
	if x := w.slot(s); x.n > 0 {
		v = x.value
	}
	return v
}

// slot is the one of a string that fits, or the free one where it belongs.
func (w *wordMap[V]) slot(s []byte) *wordSlot[V] {
	mask := len(w.slots) - 1
	for i := int(maphash.Bytes(w.seed, s)); ; i++ {
		x := &w.slots[i&mask]
		if x.n == 0 || int(x.n) == len(s)+1 && string(x.text[:x.n-1]) == string(s) {
			return x
		}
	}
}

// set gives a string its value.
func (w *wordMap[V]) set(s string, v V) {
	if len(s) >= len(wordSlot[V]{}.text) {
		if w.long == nil {
			w.long = map[string]V{}
		}
		w.long[s] = v
		return
	}
	if 2*w.taken >= len(w.slots) {
		w.grow()
	}
	x := w.slot([]byte(s))
	if x.n == 0 {
		w.taken++
	}
	x.value, x.n = v, uint8(len(s)+1)
	copy(x.text[:], s)
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
	more := newWordMap[V](len(w.slots))
	for i := range w.slots {
		if x := &w.slots[i]; x.n > 0 {
			*more.slot(x.text[:x.n-1]) = *x
		}
	}
	w.slots, w.seed = more.slots, more.seed
}
