package wire

import (
	"bytes"
	"math"
	"testing"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"
)

// Values that compare equal have one key, and no others have.
func TestAppendKey(t *testing.T) {
	var all []Value
	for _, v := range []any{
		bson.Null{},
		bson.Undefined{},
		false, true, "", "1", bson.Symbol("1"), "a", bson.JavaScript("a"), bson.NewObjectID(),
		int32(0), int64(0), 0.0, math.Copysign(0, -1), decimal(t, "0"), int32(1), int64(1), 1.0, decimal(t, "1"), decimal(t, "1.00"), decimal(t, "10E-1"),
		0.5, decimal(t, "0.5"), 0.1, decimal(t, "0.1"), math.NaN(), decimal(t, "NaN"), math.Inf(1), decimal(t, "Infinity"), math.Inf(-1), decimal(t, "-Infinity"),
		int64(1) << 53, int64(1)<<53 + 1, float64(1 << 53), 1e300, decimal(t, "1E300"), decimal(t, "1E+6144"), int64(math.MaxInt64), float64(1 << 63),
		bson.D{},
		bson.D{{Key: "a", Value: 1}},
		bson.D{{Key: "a", Value: 1.0}},
		bson.D{{Key: "a", Value: "1"}},
		bson.D{{Key: "b", Value: 1}},
		bson.D{{Key: "a", Value: bson.D{{Key: "b", Value: 1}}}},
		bson.D{{Key: "a", Value: bson.D{}}, {Key: "b", Value: 1}},
		bson.A{},
		bson.A{1},
		bson.A{int64(1)},
		bson.A{"1"},
		bson.A{"1", "1"},
		bson.A{bson.A{"1"}, "1"},
		bson.A{bson.A{"1", "1"}},
		bson.Binary{Data: []byte{1}},
		bson.Binary{Subtype: 4, Data: []byte{1}},
		bson.DateTime(1),
		bson.Timestamp{I: 1},
		bson.Regex{Pattern: "1"},
		bson.MinKey{},
		bson.MaxKey{},
	} {
		kind, data, err := bson.MarshalValue(v)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, Value{Type: bsoncore.Type(kind), Data: data})
	}
	for i, a := range all {
		for j, b := range all {
			same := bytes.Equal(AppendKey(nil, a), AppendKey(nil, b))
			if equal := Compare(a, b) == 0; same != equal {
				t.Errorf("%d %v and %d %v: equal %v, one key %v", i, a, j, b, equal, same)
			}
		}
	}
}

// An empty array's sort key is undefined, which servers sort before null.
func TestCompareUndefined(t *testing.T) {
	order := []bsoncore.Type{bsoncore.TypeMinKey, bsoncore.TypeUndefined, bsoncore.TypeNull, bsoncore.TypeMaxKey}
	for i, a := range order {
		for j, b := range order {
			if got := Compare(Value{Type: a}, Value{Type: b}); (got < 0) != (i < j) || (got > 0) != (i > j) {
				t.Errorf("%s and %s: %d", a, b, got)
			}
		}
	}
	if Compare(Value{}, Value{Type: bsoncore.TypeNull}) != 0 {
		t.Error("a missing value is no null")
	}
}
