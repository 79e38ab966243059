package wire

import (
	"bytes"
	"math"
	"slices"
	"strings"
	"testing"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"
)

// element is a document of one element "a" of the type.
func element(typ bsoncore.Type, data ...byte) Doc {
	i, d := bsoncore.AppendDocumentStart(nil)
	d = append(bsoncore.AppendHeader(d, typ, "a"), data...)
	d, _ = bsoncore.AppendDocumentEnd(d, i)
	return d
}

func TestValueSizes(t *testing.T) {
	oid := make([]byte, 12)
	for name, c := range map[string]struct {
		d  Doc
		ok bool
	}{
		"true":                             {element(bsoncore.TypeBoolean, 1), true},
		"boolean of 2":                     {element(bsoncore.TypeBoolean, 2), false},
		"string":                           {element(bsoncore.TypeString, 2, 0, 0, 0, 'x', 0), true},
		"string without end":               {element(bsoncore.TypeString, 2, 0, 0, 0, 'x', 'y'), false},
		"string of length 0":               {element(bsoncore.TypeString, 0, 0, 0, 0, 0), false},
		"string of negative length":        {element(bsoncore.TypeString, 255, 255, 255, 255, 0), false},
		"string to the document's end":     {element(bsoncore.TypeString, 2, 0, 0, 0, 'x'), false},
		"string of 2 GB":                   {element(bsoncore.TypeString, 255, 255, 255, 127, 0), false},
		"array":                            {element(bsoncore.TypeArray, 5, 0, 0, 0, 0), true},
		"document of length 4":             {element(bsoncore.TypeEmbeddedDocument, 4, 0, 0, 0), false},
		"document without end":             {element(bsoncore.TypeEmbeddedDocument, 5, 0, 0, 0, 1), false},
		"binary":                           {element(bsoncore.TypeBinary, 1, 0, 0, 0, 0, 7), true},
		"binary longer than the document":  {element(bsoncore.TypeBinary, 3, 0, 0, 0, 0, 7), false},
		"regex":                            {element(bsoncore.TypeRegex, 'a', 0, 'i', 0), true},
		"regex without options":            {element(bsoncore.TypeRegex, 'a', 0), false},
		"pointer":                          {element(bsoncore.TypeDBPointer, append([]byte{2, 0, 0, 0, 'x', 0}, oid...)...), true},
		"pointer whose name has no end":    {element(bsoncore.TypeDBPointer, append([]byte{2, 0, 0, 0, 'x', 'y'}, oid...)...), false},
		"pointer cut short":                {element(bsoncore.TypeDBPointer, append([]byte{2, 0, 0, 0, 'x', 0}, oid[1:]...)...), false},
		"scope":                            {element(bsoncore.TypeCodeWithScope, 15, 0, 0, 0, 2, 0, 0, 0, 'f', 0, 5, 0, 0, 0, 0), true},
		"scope shorter than its parts":     {element(bsoncore.TypeCodeWithScope, 14, 0, 0, 0, 2, 0, 0, 0, 'f', 0, 5, 0, 0, 0, 0), false},
		"scope of another length":          {element(bsoncore.TypeCodeWithScope, 15, 0, 0, 0, 2, 0, 0, 0, 'f', 0, 6, 0, 0, 0, 0), false},
		"scope whose code walks out of it": {element(bsoncore.TypeCodeWithScope, 15, 0, 0, 0, 90, 0, 0, 0, 'f', 0, 5, 0, 0, 0, 0), false},
		"scope with a malformed document":  {element(bsoncore.TypeCodeWithScope, 18, 0, 0, 0, 2, 0, 0, 0, 'f', 0, 8, 0, 0, 0, 0x7e, 'x', 0, 0), false},
		"type 0":                           {element(0, 0), false},
		"type 0x14":                        {element(0x14, 0), false},
		"name to the document's end":       {Doc{7, 0, 0, 0, 10, 'a', 0}, false},
		"trailing byte":                    {Doc{6, 0, 0, 0, 0, 0}, false},
	} {
		if err := c.d.Check(); (err == nil) != c.ok {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

// nested is a document of so many levels.
func nested(levels int) Doc {
	d := Doc{5, 0, 0, 0, 0}
	for range levels - 1 {
		d = element(bsoncore.TypeEmbeddedDocument, d...)
	}
	return d
}

func TestDepth(t *testing.T) {
	if err := nested(maxDepth + 1).Check(); err != nil {
		t.Error(err)
	}
	if err := nested(maxDepth + 2).Check(); err == nil || !strings.Contains(err.Error(), "nested") {
		t.Errorf("got %v, want a refusal", err)
	}
	scope := Doc{5, 0, 0, 0, 0}
	for range maxDepth + 1 {
		code := append([]byte{2, 0, 0, 0, 'f', 0}, scope...)
		scope = element(bsoncore.TypeCodeWithScope, append(bsoncore.AppendInt32(nil, int32(4+len(code))), code...)...)
	}
	if err := scope.Check(); err == nil || !strings.Contains(err.Error(), "nested") {
		t.Errorf("scopes: got %v, want a refusal", err)
	}
}

func TestIterOffsets(t *testing.T) {
	d := doc(t, bson.D{{Key: "a", Value: int32(1)}, {Key: "bc", Value: "x"}, {Key: "", Value: bson.D{}}})
	it := d.Iter()
	var names []string
	end := 4
	for it.Next() {
		if it.Start != end || &d[it.At] != &it.Value.Data[0] || it.End() != it.At+len(it.Value.Data) {
			t.Errorf("%q: start %d, at %d, end %d", it.Key, it.Start, it.At, it.End())
		}
		end = it.End()
		names = append(names, string(it.Key))
	}
	if it.Err() != nil || !slices.Equal(names, []string{"a", "bc", ""}) || end != len(d)-1 {
		t.Errorf("got %q to %d, %v", names, end, it.Err())
	}
	if it.Next() {
		t.Error("an element behind the end")
	}
}

// Names end where their first zero byte is, however long they are and wherever the document ends.
func TestNameEnds(t *testing.T) {
	for n := range 40 {
		name := strings.Repeat("\xff", n/2) + strings.Repeat("\x01", n-n/2)
		for room := range 12 {
			d := bsoncore.AppendBinaryElement(bsoncore.AppendNullElement([]byte{0, 0, 0, 0}, name), "", 0, make([]byte, room))
			d = append(d, 0)
			d[0] = byte(len(d))
			it := Doc(d).Iter()
			if !it.Next() || string(it.Key) != name || it.At != 4+2+n || !it.Next() || len(it.Value.Data) != 5+room || it.Next() || it.Err() != nil {
				t.Errorf("%d bytes before %d: %q, %v", n, room, it.Key, it.Err())
			}
		}
		cut := append([]byte{byte(6 + n), 0, 0, 0, byte(bsoncore.TypeNull)}, name...) // its end is the document's
		if it := Doc(append(cut, 0)).Iter(); it.Next() || it.Err() == nil || it.Next() {
			t.Errorf("a name of %d bytes without an end was read", n)
		}
	}
}

func TestLookupFirst(t *testing.T) {
	d := doc(t, bson.D{{Key: "a", Value: int32(1)}, {Key: "a", Value: int32(2)}})
	v, ok := d.Lookup("a")
	if n, _ := v.Int(); !ok || n != 1 {
		t.Errorf("got %d, want the first", n)
	}
	if _, ok := d.Lookup("b"); ok {
		t.Error("found what isn't there")
	}
}

func TestNumbers(t *testing.T) {
	for _, c := range []struct {
		v    any
		n    int64
		ok   bool
		true bool
	}{
		{int32(-5), -5, true, true},
		{int64(math.MaxInt64), math.MaxInt64, true, true},
		{2.0, 2, true, true},
		{2.5, 0, false, true},
		{math.NaN(), 0, false, true},
		{math.Inf(1), 0, false, true},
		{9.3e18, 0, false, true},
		{-math.Pow(2, 63), math.MinInt64, true, true},
		{int32(0), 0, true, false},
		{0.0, 0, true, false},
		{math.Copysign(0, -1), 0, true, false},
		{true, 0, false, true},
		{false, 0, false, false},
		{nil, 0, false, false},
		{"1", 0, false, false},
		{decimal(t, "0"), 0, false, false},
		{decimal(t, "0E+10"), 0, false, false},
		{decimal(t, "-0"), 0, false, false},
		{decimal(t, "1"), 0, false, true},
		{decimal(t, "1E-6000"), 0, false, true},
		{decimal(t, "Infinity"), 0, false, true},
		{decimal(t, "NaN"), 0, false, true},
		{decimal(t, "9999999999999999999999999999999999"), 0, false, true},
		{bson.NewDecimal128(3<<61|5, 1), 0, false, false},
		{bson.NewDecimal128(0x3041ffffffffffff, 1), 0, false, false},
	} {
		v, _ := doc(t, bson.D{{Key: "v", Value: c.v}}).Lookup("v")
		if n, ok := v.Int(); ok != c.ok || ok && n != c.n {
			t.Errorf("%v: got %d %v", c.v, n, ok)
		}
		if v.True() != c.true {
			t.Errorf("%v: true is %v", c.v, v.True())
		}
	}
	if _, ok := (Value{Type: bsoncore.TypeInt32}).Int(); ok {
		t.Error("an int32 without bytes is a number")
	}
}

// TestWhole: as servers read a limit.
func TestWhole(t *testing.T) {
	for _, c := range []struct {
		v    any
		want int64
	}{
		{int32(-5), -5},
		{int64(math.MaxInt64), math.MaxInt64},
		{2.9, 2},
		{-2.9, -2},
		{math.NaN(), 0},
		{math.Inf(1), math.MaxInt64},
		{math.Inf(-1), math.MinInt64},
		{9.3e18, math.MaxInt64},
		{decimal(t, "2.5"), 2},
		{decimal(t, "3.5"), 4},
		{decimal(t, "NaN"), 0},
		{decimal(t, "Infinity"), math.MaxInt64},
		{decimal(t, "1E-6000"), 0},
		{decimal(t, "1E+6000"), math.MaxInt64},
		{"3", 0},
		{nil, 0},
	} {
		v, _ := doc(t, bson.D{{Key: "v", Value: c.v}}).Lookup("v")
		if n := v.Whole(); n != c.want {
			t.Errorf("%v: got %d, want %d", c.v, n, c.want)
		}
	}
}

func TestValues(t *testing.T) {
	d := doc(t, bson.D{
		{Key: "s", Value: "x"},
		{Key: "d", Value: bson.D{}},
		{Key: "l", Value: bson.A{}},
		{Key: "u", Value: bson.Binary{Subtype: 4, Data: make([]byte, 16)}},
		{Key: "b", Value: bson.Binary{Subtype: 3, Data: make([]byte, 16)}},
	})
	get := func(name string) Value { v, _ := d.Lookup(name); return v }
	if s, ok := get("s").Str(); !ok || string(s) != "x" || !get("s").Equal(StringValue("x")) {
		t.Errorf("string %q", s)
	}
	if _, ok := get("d").Doc(); !ok {
		t.Error("no document")
	}
	if _, ok := get("l").Array(); !ok {
		t.Error("no array")
	}
	if _, ok := get("l").Doc(); ok {
		t.Error("an array is a document")
	}
	if u, ok := get("u").UUID(); !ok || len(u) != 16 {
		t.Error("no UUID")
	}
	if _, ok := get("b").UUID(); ok {
		t.Error("a binary of subtype 3 is a UUID")
	}
	if !bytes.Contains(get("s").AppendTo(nil, "k"), []byte("k\x00")) || get("s").String() != `"x"` {
		t.Errorf("got %s", get("s"))
	}
}
