package proxy

import (
	"fmt"
	"testing"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/smetasc/tenantry/wire"
	"github.com/smetasc/tenantry/wire/wiretest"
)

// BenchmarkMerge puts the first batches of several homes in order and makes one of them.
func BenchmarkMerge(b *testing.B) {
	for _, homes := range []int{2, 32} {
		b.Run(fmt.Sprint(homes, " homes"), func(b *testing.B) {
			const each = 100
			docs := make([][]wire.Doc, homes)
			for h := range docs {
				for n := range each {
					docs[h] = append(docs[h], wiretest.D(bson.D{{Key: "_id", Value: n}, {Key: sortKey, Value: bson.A{n}}}))
				}
			}
			b.ReportAllocs()
			for b.Loop() {
				m := &merged{down: []bool{false}, left: -1}
				for h := range docs {
					m.streams = append(m.streams, &stream{docs: docs[h]})
				}
				got, err := (&clientConn{}).take(&cursor{merged: m}, homes*each, nil)
				if err != nil || len(got) != homes*each {
					b.Fatal(len(got), err)
				}
			}
		})
	}
}
