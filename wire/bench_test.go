package wire

import (
	"fmt"
	"testing"

	"go.mongodb.org/mongo-driver/v2/bson"
)

// foundMessage is a reply to a find with documents of so many bytes together.
func foundMessage(t testing.TB, size int) *Buf {
	batch := bson.A{}
	for n := 0; n < size; n += 1000 {
		batch = append(batch, bson.D{{Key: "_id", Value: n}, {Key: "text", Value: string(make([]byte, min(size-n, 950)))}})
	}
	return NewMessage(1, 0, 0, doc(t, bson.D{
		{Key: "cursor", Value: bson.D{{Key: "firstBatch", Value: batch}, {Key: "id", Value: int64(0)}, {Key: "ns", Value: "shop_tenant_acme.orders"}}},
		{Key: "ok", Value: 1.0},
	}))
}

// BenchmarkParse takes messages apart and goes over their bodies' top level.
func BenchmarkParse(b *testing.B) {
	for name, m := range map[string]*Buf{"find": findMessage(b), "reply of 16 KB": foundMessage(b, 16<<10)} {
		b.Run(name, func(b *testing.B) {
			var msg Message
			b.ReportAllocs()
			for b.Loop() {
				if err := msg.Parse(m.B); err != nil {
					b.Fatal(err)
				}
				it := msg.Body.Iter()
				for it.Next() {
				}
			}
		})
	}
}

// BenchmarkPatch makes a reply's namespace shorter, as it is for every reply of an isolated tenant.
func BenchmarkPatch(b *testing.B) {
	for _, size := range []int{100, 16 << 10, 1 << 20} {
		b.Run(fmt.Sprint(size, " bytes"), func(b *testing.B) {
			whole := foundMessage(b, size)
			_, cursorAt, _ := at(b, whole, "cursor")
			var m Message
			if err := m.Parse(whole.B); err != nil {
				b.Fatal(err)
			}
			cursor, _ := m.Body.Lookup("cursor")
			d, _ := cursor.Doc()
			ns, nsAt := Value{}, 0
			for it := d.Iter(); it.Next(); {
				ns, nsAt = it.Value, cursorAt+it.At
			}
			with := StringValue("shop.orders").Data
			var p Patch
			frame := NewBuf(len(whole.B))
			copy(frame.B, whole.B)
			b.ReportAllocs()
			for b.Loop() {
				p.Reset()
				p.Replace(nsAt, len(ns.Data), with, cursorAt, m.BodyAt)
				out := p.Apply(frame)
				if out != frame { // it was freed
					out.Free()
					b.Fatal("the message was copied")
				}
				frame.B = frame.B[:len(whole.B)] // as it was
				copy(frame.B, whole.B[:cursorAt+4])
				copy(frame.B[nsAt:], whole.B[nsAt:])
			}
		})
		b.Run(fmt.Sprint(size, " bytes, copied"), func(b *testing.B) {
			whole := foundMessage(b, size)
			start, value, end := at(b, whole, "ok")
			var p Patch
			b.ReportAllocs()
			for b.Loop() {
				p.Reset()
				p.Replace(start, end-start, whole.B[start:value], sectionsAt+1)
				p.ApplyTo(whole).Free()
			}
		})
	}
}
