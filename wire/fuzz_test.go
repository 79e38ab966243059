package wire

import (
	"bytes"
	"io"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
	"unsafe"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"
)

func seed(f *testing.F, prefixes ...string) {
	f.Helper()
	for _, p := range prefixes {
		for _, b := range seeds(f, p) {
			f.Add(b)
		}
	}
}

// inside reports whether part lies within whole, its capacity not looked at.
func inside(part, whole []byte) bool {
	if len(part) == 0 {
		return true
	}
	from, at := uintptr(unsafe.Pointer(unsafe.SliceData(whole))), uintptr(unsafe.Pointer(unsafe.SliceData(part)))
	return at >= from && at+uintptr(len(part)) <= from+uintptr(len(whole))
}

// FuzzParse: what Parse takes are parts that lie in the frame and make it up again.
func FuzzParse(f *testing.F) {
	seed(f, "msg")
	f.Fuzz(func(t *testing.T, b []byte) {
		b = slices.Clip(b)
		var m Message
		if err := m.Parse(b); err != nil {
			if !isFrameError(err) {
				t.Fatalf("got a %T", err)
			}
			return
		}
		rebuilt := slices.Clone(b[:sectionsAt])
		body := func() { rebuilt = append(append(rebuilt, 0), m.Body...) }
		if !inside(m.Body, b) || &b[m.BodyAt] != &m.Body[0] {
			t.Fatal("body outside of the frame")
		}
		done := false
		for _, s := range m.Sections {
			if !inside(s.Docs, b) || !inside(s.Identifier, b) {
				t.Fatal("section outside of the frame")
			}
			if !done && m.BodyAt < s.Start {
				body()
				done = true
			}
			var docs []Doc
			for rest := s.Docs; len(rest) > 0; {
				var d Doc
				var ok bool
				if d, rest, ok = NextDoc(rest); !ok {
					t.Fatal("documents do not fill their section")
				}
				docs = append(docs, d)
			}
			rebuilt = AppendSection(rebuilt, string(s.Identifier), docs...)
		}
		if !done {
			body()
		}
		putInt32(rebuilt, int32(len(rebuilt)))
		if m.Flags&ChecksumPresent != 0 {
			rebuilt = AppendChecksum(rebuilt)
		}
		if !bytes.Equal(rebuilt, b) {
			t.Fatalf("made of its parts: %x\nwas %x", rebuilt, b)
		}
	})
}

// walk goes through a document to its depths and fails where a part lies outside of it.
func walk(t *testing.T, d Doc, depth int) {
	for it := d.Iter(); it.Next(); {
		if !inside(it.Key, d) || !inside(it.Value.Data, d) || it.End() > len(d)-1 {
			t.Fatalf("element %q outside of its document", it.Key)
		}
		if sub, ok := it.Value.AnyDoc(); ok && depth < maxDepth {
			walk(t, sub, depth+1)
		}
	}
}

// stricter reports whether a document that the driver's Validate takes has something that it
// doesn't look at and Check does: bytes after its end, a string's terminator, a boolean's byte, what
// is inside a code's scope, a pointer's terminator, the depth.
func stricter(d bsoncore.Document, depth int) bool {
	elements, err := d.Elements()
	if err != nil || depth > maxDepth || int(getInt32(d)) != len(d) {
		return true
	}
	for _, e := range elements {
		v := e.Value()
		switch v.Type {
		case bsoncore.TypeCodeWithScope, bsoncore.TypeDBPointer:
			return true
		case bsoncore.TypeString, bsoncore.TypeSymbol, bsoncore.TypeJavaScript:
			if v.Data[len(v.Data)-1] != 0 {
				return true
			}
		case bsoncore.TypeBoolean:
			if v.Data[0] > 1 {
				return true
			}
		case bsoncore.TypeEmbeddedDocument, bsoncore.TypeArray:
			if stricter(v.Data, depth+1) {
				return true
			}
		}
	}
	return false
}

// FuzzCheck compares Check with the driver's Validate, and looks that no part lies outside.
func FuzzCheck(f *testing.F) {
	for _, b := range seeds(f, "msg") {
		var m Message
		if m.Parse(b) == nil {
			f.Add([]byte(m.Body))
		}
	}
	f.Add([]byte(nested(maxDepth + 2)))
	f.Add([]byte(element(bsoncore.TypeCodeWithScope, 15, 0, 0, 0, 2, 0, 0, 0, 'f', 0, 6, 0, 0, 0, 0)))
	f.Add([]byte(element(bsoncore.TypeBoolean, 2)))
	f.Add([]byte(element(bsoncore.TypeBinary, 1, 0, 0, 0, 2, 7)))
	f.Fuzz(func(t *testing.T, b []byte) {
		d := Doc(slices.Clip(b))
		walk(t, d, 0)
		ours, theirs := d.Check(), bsoncore.Document(d).Validate()
		switch {
		case ours == nil && theirs != nil:
			t.Fatalf("Check takes what Validate refuses: %v", theirs)
		case ours != nil && theirs == nil && !stricter(bsoncore.Document(d), 0):
			t.Fatalf("Check refuses what Validate takes: %v", ours)
		}
	})
}

// patchCase is a message, what a patch shall make of it, and the replacements in any order.
type patchCase struct {
	rand   *rand.Rand
	frame  []byte
	cuts   []func(*Patch)
	serial int
}

func (c *patchCase) value() any {
	c.serial++
	switch c.rand.IntN(5) {
	case 0:
		return int32(c.serial)
	case 1:
		return string(bytes.Repeat([]byte{'v'}, c.rand.IntN(40)))
	case 2:
		return bson.D{{Key: "in", Value: int64(c.serial)}}
	case 3:
		return bson.A{int32(1), "x"}
	}
	return float64(c.serial)
}

// document is a random one, nested a little.
func (c *patchCase) document(depth int) bson.D {
	d := bson.D{}
	for range c.rand.IntN(5) {
		c.serial++
		e := bson.E{Key: string(rune('a' + c.serial%26)), Value: c.value()}
		if depth > 0 && c.rand.IntN(3) == 0 {
			e.Value = c.document(depth - 1)
		}
		d = append(d, e)
	}
	return d
}

func (c *patchCase) replace(at, n int, with []byte, inside []int) {
	inside = slices.Clone(inside)
	c.cuts = append(c.cuts, func(p *Patch) { p.Replace(at, n, with, inside...) })
}

// mutate chooses changes for the document at the frame's offset and returns what it becomes: the
// model, built by decoding and without offsets.
func (c *patchCase) mutate(t *testing.T, base int, outer []int) bson.D {
	d := Doc(c.frame[base:][:getInt32(c.frame[base:])])
	var old bson.D
	if err := bson.Unmarshal(d, &old); err != nil {
		t.Fatal(err)
	}
	inside := append(slices.Clone(outer), base)
	model := bson.D{}
	it := d.Iter()
	for i := 0; it.Next(); i++ {
		if c.rand.IntN(4) == 0 {
			e := bson.E{Key: "new", Value: c.value()}
			c.replace(base+it.Start, 0, elem(t, e.Key, e.Value), inside)
			model = append(model, e)
		}
		e := old[i]
		_, isDoc := it.Value.Doc()
		switch n := c.rand.IntN(5); {
		case n == 0: // removed
			c.replace(base+it.Start, it.End()-it.Start, nil, inside)
			continue
		case n == 1:
			e.Value = c.value()
			c.replace(base+it.Start, it.End()-it.Start, elem(t, e.Key, e.Value), inside)
		case n == 2 && isDoc:
			e.Value = c.mutate(t, base+it.At, inside)
		}
		model = append(model, e)
	}
	if c.rand.IntN(3) == 0 {
		e := bson.E{Key: "last", Value: c.value()}
		c.replace(base+len(d)-1, 0, elem(t, e.Key, e.Value), inside)
		model = append(model, e)
	}
	return model
}

// FuzzPatch applies random changes in a random order and compares with the model.
func FuzzPatch(f *testing.F) {
	for i := range uint64(40) {
		f.Add(i, i*7)
	}
	f.Fuzz(func(t *testing.T, a, b uint64) {
		c := &patchCase{rand: rand.New(rand.NewPCG(a, b))}
		c.frame = AppendMessage(nil, 1, 2, 0, doc(t, c.document(2)))
		c.frame = AppendSection(c.frame, "documents", doc(t, c.document(1)), doc(t, c.document(1)))
		if c.rand.IntN(2) == 0 {
			c.frame = AppendChecksum(c.frame)
		}
		var m Message
		if err := m.Parse(c.frame); err != nil {
			t.Fatal(err)
		}
		model := []bson.D{c.mutate(t, m.BodyAt, nil)}
		s := m.Sections[0]
		first, _, _ := NextDoc(s.Docs)
		model = append(model, c.mutate(t, s.At, []int{s.Start + 1}), c.mutate(t, s.At+len(first), []int{s.Start + 1}))

		c.rand.Shuffle(len(c.cuts), func(i, j int) { c.cuts[i], c.cuts[j] = c.cuts[j], c.cuts[i] })
		var p Patch
		for _, cut := range c.cuts {
			cut(&p)
		}
		in := NewBuf(len(c.frame))
		copy(in.B, c.frame)
		copied := p.ApplyTo(in)
		out := p.Apply(in)
		defer out.Free()
		defer copied.Free()
		if !bytes.Equal(copied.B, out.B) {
			t.Fatal("Apply and ApplyTo differ")
		}
		if err := m.Parse(out.B); err != nil {
			t.Fatal(err)
		}
		second, rest, _ := NextDoc(m.Sections[0].Docs)
		for i, d := range []Doc{m.Body, second, rest} {
			var got bson.D
			if err := bson.Unmarshal(d, &got); err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got, model[i]) {
				t.Fatalf("document %d: got %v, want %v", i, got, model[i])
			}
		}
	})
}

// FuzzDecompress: what comes out has the announced length, within the limit; nothing else does.
func FuzzDecompress(f *testing.F) {
	seed(f, "compressed")
	for _, c := range compressors {
		f.Add(compressed(c, 5000, packed(f, c, 5000)).B)
		f.Add(compressed(c, 500, packed(f, c, 5000)).B)
	}
	const limit = 1 << 16
	f.Fuzz(func(t *testing.T, b []byte) {
		b = slices.Clip(b)
		was := slices.Clone(b)
		out, c, err := Decompress(&Buf{B: b}, limit)
		if !bytes.Equal(b, was) {
			t.Fatal("the frame was changed")
		}
		if err != nil {
			if !isFrameError(err) || out != nil {
				t.Fatalf("got a %T", err)
			}
			return
		}
		if len(out.B) > limit || len(out.B) != HeaderLen+int(getInt32(b[announcedAt:])) {
			t.Fatalf("%d bytes, announced %d", len(out.B)-HeaderLen, getInt32(b[announcedAt:]))
		}
		if h := ReadHeader(out.B); int(h.Length) != len(out.B) || h.RequestID != ReadHeader(b).RequestID {
			t.Fatalf("header %v", h)
		}
		plain := slices.Clone(out.B)
		again, err := Compress(out, c)
		if err != nil {
			t.Fatal(err)
		}
		if ReadHeader(plain).OpCode != OpCompressed && ReadHeader(again.B).OpCode == OpCompressed {
			back, _, err := Decompress(again, limit)
			if err != nil || !bytes.Equal(back.B, plain) {
				t.Fatalf("compressed again: %v", err)
			}
			back.Free()
		}
		again.Free()
		out.Free()
	})
}

// FuzzQuery: what is taken for a hello lies in the frame and is one.
func FuzzQuery(f *testing.F) {
	seed(f, "query", "reply")
	f.Fuzz(func(t *testing.T, b []byte) {
		b = slices.Clip(b)
		if _, d, _, err := ReadReply(b); err == nil && !inside(d, b) {
			t.Fatal("reply outside of the frame")
		}
		q, err := ParseQuery(b)
		if err != nil {
			return
		}
		if !inside(q.Body, b) || !inside(q.DB, b) || !inside(q.Name, b) || !IsHello(q.Name) || len(q.DB) == 0 {
			t.Fatalf("got %q %q", q.DB, q.Name)
		}
		if bytes.IndexByte(q.DB, 0) >= 0 || bytes.IndexByte(q.DB, '.') >= 0 {
			t.Fatalf("database %q", q.DB)
		}
		if it := q.Body.Iter(); !it.Next() || string(it.Key) != string(q.Name) {
			t.Fatalf("body does not begin with %q", q.Name)
		}
	})
}

// FuzzReadMessage reads a stream in random pieces and compares with cutting it by its lengths.
func FuzzReadMessage(f *testing.F) {
	_, stream := messages(f)
	f.Add(stream, []byte{0, 1, 2, 15, 16, 255})
	var all []byte
	for _, d := range dumps(f) {
		f.Add(d.b, []byte{7})
		all = append(all, d.b...)
	}
	f.Add(all, []byte{0, 200, 3})
	f.Fuzz(func(t *testing.T, stream, sizes []byte) {
		const limit = 1 << 17
		c := NewConn(&chunked{b: stream, size: 4096, sizes: sizes})
		defer c.Release()
		for rest := stream; ; {
			want, after, fault := cutOff(rest, limit)
			b, err := c.ReadMessage(limit)
			switch {
			case fault != nil && (err == nil || isFrameError(fault) != isFrameError(err) || !isFrameError(fault) && err != fault):
				t.Fatalf("got %v, want %v", err, fault)
			case fault == nil && (err != nil || !bytes.Equal(b.B, want)):
				t.Fatalf("got %v, want %d bytes", err, len(want))
			}
			if err != nil {
				return
			}
			b.Free()
			rest = after
		}
	})
}

// cutOff is the model: the stream's first message, by its length.
func cutOff(b []byte, limit int) (first, rest []byte, err error) {
	switch {
	case len(b) == 0:
		return nil, nil, io.EOF
	case len(b) < HeaderLen:
		return nil, nil, io.ErrUnexpectedEOF
	}
	h := ReadHeader(b)
	if h.Length < HeaderLen || int(h.Length) > limit {
		return nil, nil, FrameError("length")
	}
	if h.OpCode == OpCompressed {
		if h.Length < compressedAt {
			return nil, nil, FrameError("length")
		}
		if len(b) < compressedAt {
			return nil, nil, io.ErrUnexpectedEOF
		}
		if n := getInt32(b[announcedAt:]); n < 0 || int(n) > limit-HeaderLen || OpCode(getInt32(b[originalAt:])) == OpCompressed {
			return nil, nil, FrameError("announced")
		}
	}
	if int(h.Length) > len(b) {
		return nil, nil, io.ErrUnexpectedEOF
	}
	return b[:h.Length], b[h.Length:], nil
}
