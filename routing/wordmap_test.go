package routing

import (
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// A wordMap says what a map of the language says, whatever is asked for.
func TestWordMap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.OneOf(
			rapid.StringN(0, 4, -1),
			rapid.Map(rapid.IntRange(50, 60), func(n int) string { return strings.Repeat("x", n) }), // around what fits
			rapid.Map(rapid.StringN(0, 4, -1), func(s string) string { return s + "\x00" }),
			rapid.Map(rapid.StringN(0, 6, -1), func(s string) string { return "beginning" + s + "the end" }), // of equal ends
		)
		got, want := newWordMap[int](rapid.IntRange(0, 9).Draw(t, "room")), map[string]int{}
		for i, s := range rapid.SliceOfN(text, 0, 60).Draw(t, "set") {
			got.set(s, i+1)
			want[s] = i + 1
		}
		for _, s := range append(rapid.SliceOf(text).Draw(t, "asked"), "") {
			if v := got.find([]byte(s)); v != want[s] {
				t.Fatalf("%q is %d, want %d", s, v, want[s])
			}
		}
		for s, v := range want {
			if got.find([]byte(s)) != v {
				t.Fatalf("%q is lost", s)
			}
		}
	})
}

// Each byte of a name counts, and its length.
func TestWordMapBytes(t *testing.T) {
	for n := range inSlot + 3 {
		w := newWordMap[int](0)
		name := make([]byte, n)
		w.set(string(name), 1)
		for i := range name {
			name[i] = 1
			if w.find(name) != 0 {
				t.Errorf("byte %d of %d is not looked at", i, n)
			}
			name[i] = 0
		}
		if w.find(name) != 1 || w.find(append(name, 0)) != 0 {
			t.Errorf("a name of %d bytes", n)
		}
		var all []int
		for v := range w.all {
			all = append(all, v)
		}
		if !slices.Equal(all, []int{1}) {
			t.Errorf("a name of %d bytes is not among all: %v", n, all)
		}
	}
}
