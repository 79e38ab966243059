package proxy

import (
	"strings"
	"testing"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/smetasc/tenantry/wire"
	"github.com/smetasc/tenantry/wire/wiretest"
)

// However many writes fail, and whatever is said of each: the reply is one document, and says which.
func TestManyWriteErrors(t *testing.T) {
	for _, tt := range []struct {
		name          string
		n, text, key  int
		whole, silent int // how many have their text, and how many not even their key
	}{
		{"few", 3, 100, 100, 3, 0},
		{"two long ones", 2, 2 << 20, 10, 2, 0},
		{"long ones", 50, 100_000, 10, 11, 0},
		{"many with keys", 100_000, 20, 200, 32_000, 60_000},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var errors []indexed
			for i := range tt.n {
				errors = append(errors, indexed{i, wiretest.D(d(
					"index", i, "code", 11000, "errmsg", strings.Repeat("x", tt.text), "keyValue", d("_id", strings.Repeat("k", tt.key))))})
			}
			size, whole, silent := 0, 0, 0
			for i, e := range shortened(errors) {
				size += len(e.doc) + 8
				doc := wiretest.Decode(e.doc)
				if wiretest.Get(doc, "index") != int32(i) || wiretest.Get(doc, "code") != int32(11000) {
					t.Fatalf("the error %d is %v", i, doc)
				}
				if text, ok := wiretest.Get(doc, "errmsg").(string); text != "" {
					whole++
				} else if !ok {
					t.Fatalf("%v has no errmsg", doc)
				}
				if _, ok := wiretest.Get(doc, "keyValue").(bson.D); !ok {
					silent++
				}
			}
			if size > wire.MaxDocument {
				t.Errorf("they are %d bytes", size)
			}
			if tt.n <= 50 && (whole != tt.whole || silent != tt.silent) || whole < tt.whole*9/10 || silent < tt.silent*9/10 {
				t.Errorf("%d have their text and %d not even their key, want %d and %d", whole, silent, tt.whole, tt.silent)
			}
		})
	}
}

// What all homes say of the write concern is what the client is told; different reasons are one of ours.
func TestWriteConcernErrors(t *testing.T) {
	for _, tt := range []struct {
		codes []int32
		want  any
	}{
		{nil, nil},
		{[]int32{100}, int32(100)},
		{[]int32{79, 79}, int32(79)},
		{[]int32{100, 79}, int32(wire.WriteConcernFailed)},
	} {
		w := writeResult{}
		for _, code := range tt.codes {
			w.concerns = append(w.concerns, wiretest.D(d("code", code, "errmsg", "no")))
		}
		if got := wiretest.Get(wiretest.Decode(build(w.appendConcern)), "writeConcernError", "code"); got != tt.want {
			t.Errorf("of %v the client is told %v", tt.codes, got)
		}
	}
}
