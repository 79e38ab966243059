package wire

import (
	"bytes"
	"fmt"
	"testing"

	"go.mongodb.org/mongo-driver/v2/bson"
)

// elem encodes one element.
func elem(t testing.TB, key string, v any) []byte {
	d := doc(t, bson.D{{Key: key, Value: v}})
	return d[4 : len(d)-1]
}

func findMessage(t testing.TB) *Buf {
	return NewMessage(1, 0, 0, doc(t, bson.D{
		{Key: "find", Value: "orders"},
		{Key: "filter", Value: bson.D{{Key: "a", Value: int32(1)}}},
		{Key: "$db", Value: "shop"},
	}))
}

// at finds a top-level element of the message's body, its offsets in the frame.
func at(t testing.TB, b *Buf, key string) (start, value, end int) {
	var m Message
	if err := m.Parse(b.B); err != nil {
		t.Fatal(err)
	}
	for it := m.Body.Iter(); it.Next(); {
		if string(it.Key) == key {
			return m.BodyAt + it.Start, m.BodyAt + it.At, m.BodyAt + it.End()
		}
	}
	t.Fatalf("no %s", key)
	return
}

func body(t testing.TB, b *Buf) string {
	t.Helper()
	var m Message
	if err := m.Parse(b.B); err != nil {
		t.Fatal(err)
	}
	if err := m.Body.Check(); err != nil {
		t.Fatal(err)
	}
	return bson.Raw(m.Body).String()
}

func TestPatchReplaceInsertRemove(t *testing.T) {
	b := findMessage(t)
	_, db, dbEnd := at(t, b, "$db")
	start, filter, end := at(t, b, "filter")
	name, _, nameEnd := at(t, b, "find")
	var p Patch
	p.Replace(db, dbEnd-db, StringValue("warehouse").Data, 21)      // longer
	p.Replace(filter+4, 0, elem(t, "tenant", "x"), 21, filter)      // into the filter
	p.Replace(name, nameEnd-name, elem(t, "find", "o"), 21)         // shorter
	p.Replace(end, 0, elem(t, "limit", int32(1)), 21)               // behind the filter
	p.Replace(start, 0, elem(t, "first", nil), 21)                  // before it
	p.Replace(start, 0, elem(t, "second", nil), 21)                 // in the order of the calls
	p.Replace(dbEnd, 0, elem(t, "comment", bson.D{{Key: "k"}}), 21) // at the end
	copied := p.ApplyTo(b)
	want := `{"find": "o","first": null,"second": null,"filter": {"tenant": "x","a": {"$numberInt":"1"}},"limit": {"$numberInt":"1"},"$db": "warehouse","comment": {"k": null}}`
	if got := body(t, copied); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if got := body(t, b); got == want {
		t.Error("ApplyTo changed its source")
	}
	out := p.Apply(b)
	if got := body(t, out); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// TestPatchInsertAtRemoved inserts where another change begins, in both orders of the calls.
func TestPatchInsertAtRemoved(t *testing.T) {
	for _, insertFirst := range []bool{true, false} {
		b := findMessage(t)
		start, _, end := at(t, b, "filter")
		var p Patch
		if insertFirst {
			p.Replace(start, 0, elem(t, "x", nil), 21)
		}
		p.Replace(start, end-start, nil, 21)
		if !insertFirst {
			p.Replace(start, 0, elem(t, "x", nil), 21)
		}
		if got, want := body(t, p.Apply(b)), `{"find": "orders","x": null,"$db": "shop"}`; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

// TestPatchNetZero has changes of length that add up to none.
func TestPatchNetZero(t *testing.T) {
	b := findMessage(t)
	_, name, nameEnd := at(t, b, "find")
	_, db, dbEnd := at(t, b, "$db")
	var p Patch
	p.Replace(name, nameEnd-name, StringValue("order").Data)
	p.Replace(db, dbEnd-db, StringValue("shops").Data)
	if got, want := body(t, p.Apply(b)), `{"find": "order","filter": {"a": {"$numberInt":"1"}},"$db": "shops"}`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestPatchInPlace(t *testing.T) {
	b := findMessage(t)
	_, db, dbEnd := at(t, b, "$db")
	var p Patch
	p.Replace(db, dbEnd-db, StringValue("SHOP").Data, 21)
	if out := p.Apply(b); out != b {
		t.Error("a new buffer for a change of the same length")
	}
	if _, db, _ := at(t, b, "$db"); string(b.B[db+4:db+8]) != "SHOP" {
		t.Error("not changed")
	}
}

func TestPatchChecksum(t *testing.T) {
	plain := findMessage(t)
	b := &Buf{B: AppendChecksum(bytes.Clone(plain.B))}
	var p Patch
	if out := p.Apply(b); len(out.B) != len(plain.B)+4 {
		t.Error("an empty patch dropped the checksum")
	}
	if out := p.ApplyTo(b); len(out.B) != len(plain.B)+4 {
		t.Error("an empty patch dropped the copy's checksum")
	}
	_, db, dbEnd := at(t, b, "$db")
	p.Replace(db, dbEnd-db, StringValue("SHOP").Data, 21)
	if out := p.Apply(b); len(out.B) != len(plain.B) || body(t, out) == "" {
		t.Error("the checksum stayed")
	}
}

func TestPatchOverlap(t *testing.T) {
	b := findMessage(t)
	start, value, end := at(t, b, "filter")
	var p Patch
	p.Replace(start, end-start, nil, 21)
	p.Replace(value+4, 3, nil, 21, value)
	defer func() {
		if recover() == nil {
			t.Error("overlapping replacements were applied")
		}
	}()
	p.Apply(b)
}

func TestPatchBudget(t *testing.T) {
	g := NewBudget(1 << 20)
	b := NewMessage(1, 0, 0, doc(t, bson.D{{Key: "x", Value: string(make([]byte, BudgetFloor))}}))
	b.budget = g
	b.taken, _ = g.take(cost(len(b.B)), 0)
	var p Patch
	p.Replace(25, 0, elem(t, "y", nil), 21)
	out := p.Apply(b)
	if out.taken == 0 {
		t.Error("the changed message is not counted")
	}
	out.Free()
	if !g.sem.TryAcquire(1 << 20) {
		t.Error("the budget was not given back")
	}
}

// TestPatchLarge is slow by the square if a length costs a walk over all changes.
func TestPatchLarge(t *testing.T) {
	const docs = 100_000
	one := doc(t, bson.D{{Key: "a", Value: int32(1)}})
	all := make([]Doc, docs)
	for i := range all {
		all[i] = one
	}
	b := &Buf{B: AppendSection(AppendMessage(nil, 1, 0, 0, doc(t, bson.D{{Key: "insert", Value: "c"}})), "documents", all...)}
	var m Message
	if err := m.Parse(b.B); err != nil {
		t.Fatal(err)
	}
	s := m.Sections[0]
	var p Patch
	tenant := elem(t, "t", "x")
	for i := range docs {
		at := s.At + i*len(one)
		p.Replace(at+4, 0, tenant, s.Start+1, at)
	}
	out := p.Apply(b)
	if err := m.Parse(out.B); err != nil {
		t.Fatal(err)
	}
	d, _, _ := NextDoc(m.Sections[0].Docs)
	if got := fmt.Sprint(bson.Raw(d)); got != `{"t": "x","a": {"$numberInt":"1"}}` {
		t.Error(got)
	}
	p.Reset()
	if cap(p.cuts) > keptCuts {
		t.Error("a reset patch keeps a large batch's memory")
	}
}

// TestDivide: front and rest together are the message that is changed as a whole.
func TestDivide(t *testing.T) {
	for _, checksum := range []bool{false, true} {
		b := findMessage(t)
		b.B = AppendSection(b.B, "documents", doc(t, bson.D{{Key: "a", Value: 1}}), doc(t, bson.D{{Key: "b", Value: 1}}))
		if checksum {
			b.B = AppendChecksum(b.B)
		}
		_, db, dbEnd := at(t, b, "$db")
		for _, name := range []string{"warehouse", "shop", "s"} {
			var p Patch
			p.Replace(db, dbEnd-db, StringValue(name).Data, sectionsAt+1)
			want := p.ApplyTo(b)
			in := &Buf{B: bytes.Clone(b.B)}
			front, rest := p.Divide(in)
			if got := append(bytes.Clone(front.B), rest...); !bytes.Equal(got, want.B) {
				t.Errorf("%s, checksum %v:\n%q, want\n%q", name, checksum, got, want.B)
			}
			if name == "warehouse" && !checksum && len(rest) == 0 {
				t.Error("all was copied")
			}
		}
	}
}
