package wire

import (
	"bytes"
	"encoding/binary"
	"math"
	"math/bits"
	"strconv"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"
)

// Doc is a BSON document or array as bytes.
type Doc []byte

// Value is one BSON value as bytes; Data is a slice of the document it came from.
type Value struct {
	Type bsoncore.Type
	Data []byte
}

// Iter goes through the elements of a document in order. It checks all lengths that it relies
// on, so that no malformed document makes it read past the end; what lies inside a nested
// document is checked by who iterates that. Names may be equal to each other, empty or no UTF-8.
type Iter struct {
	doc Doc
	pos int

	Key   []byte // name of the current element
	Value Value
	Start int // offset of the element (its type byte) in the document
	At    int // offset of the value in the document
	err   error
}

// Iter returns an iterator that stands before the first element. A document whose own length is
// wrong yields no element and an error.
//
// It is a pointer to what lies on the caller's stack, since it is inlined: a for statement makes a new copy of its
// variable for each round, and a copied iterator took as long as the step to the next element.
func (d Doc) Iter() *Iter {
	if !d.whole() {
		return &Iter{err: errDocLength}
	}
	return &Iter{doc: d, pos: 4}
}

var errDocLength = badFrame("document with a wrong length")

// whole reports whether the document's own length is right. It stands apart for Iter to be
// inlined.
func (d Doc) whole() bool {
	return len(d) >= 5 && int(getInt32(d)) == len(d) && d[len(d)-1] == 0
}

// Next goes to the next element; false at the end or where the document is malformed.
func (it *Iter) Next() bool {
	d, start := it.doc, it.pos
	if start >= len(d)-1 {
		return it.ends()
	}
	at, end := span(d, start)
	if end == 0 {
		return it.breaks(start)
	}
	it.Start, it.At, it.pos = start, at, end
	it.Key = d[start+1 : at-1]
	it.Value.Type, it.Value.Data = bsoncore.Type(d[start]), d[at:end]
	return true
}

// span finds where the value of the element at a document's offset lies; 0 and 0 for a malformed one. Most names end
// within a word or two: to look at these here takes less than a call that finds the end of any name.
func span(d Doc, start int) (at, end int) {
	d = d[:len(d)-1]
	for at = start + 1; ; at += 8 {
		if at+8 > len(d) {
			n := bytes.IndexByte(d[at:], 0)
			if n < 0 {
				return 0, 0
			}
			at += n + 1
			break
		}
		x := binary.LittleEndian.Uint64(d[at:])
		// The lowest byte that is zero is the lowest with its high bit set here.
		if zero := (x - 0x0101010101010101) &^ x & 0x8080808080808080; zero != 0 {
			at += bits.TrailingZeros64(zero)/8 + 1
			break
		}
	}
	size, ok := valueSize(bsoncore.Type(d[start]), d[at:])
	if !ok {
		return 0, 0
	}
	return at, at + size
}

// ends notes where no element follows whether the document ends as it should.
func (it *Iter) ends() bool {
	if it.err == nil && it.pos != len(it.doc)-1 {
		it.err = errDocLength
	}
	return false
}

// breaks notes what is wrong with the element at an offset, behind which nothing is read.
func (it *Iter) breaks(start int) bool {
	if name, _, whole := bytes.Cut(it.doc[start+1:len(it.doc)-1], []byte{0}); whole {
		it.err = badFrame("element %q with a wrong type or length", name)
	} else {
		it.err = badFrame("element name without an end")
	}
	it.doc = nil
	return false
}

// End is the offset behind the current element.
func (it *Iter) End() int { return it.pos }

// Err is nil where the document was well formed as far as it was iterated.
func (it *Iter) Err() error { return it.err }

// valueSize is the length of the value of type t at the front of b.
func valueSize(t bsoncore.Type, b []byte) (int, bool) {
	n := 0
	switch t {
	case bsoncore.TypeNull, bsoncore.TypeUndefined, bsoncore.TypeMinKey, bsoncore.TypeMaxKey:
	case bsoncore.TypeBoolean: // another byte than 0 and 1 is true for some and malformed for others
		return 1, len(b) >= 1 && b[0] <= 1
	case bsoncore.TypeInt32:
		n = 4
	case bsoncore.TypeDouble, bsoncore.TypeDateTime, bsoncore.TypeTimestamp, bsoncore.TypeInt64:
		n = 8
	case bsoncore.TypeObjectID:
		n = 12
	case bsoncore.TypeDecimal128:
		n = 16
	default:
		return varSize(t, b)
	}
	return n, n <= len(b)
}

// varSize is valueSize for the types that carry their length.
func varSize(t bsoncore.Type, b []byte) (int, bool) {
	if t == bsoncore.TypeRegex {
		i := bytes.IndexByte(b, 0)
		if i < 0 {
			return 0, false
		}
		j := bytes.IndexByte(b[i+1:], 0)
		return i + j + 2, j >= 0
	}
	if len(b) < 4 {
		return 0, false
	}
	l := int(getInt32(b))
	if l < 0 || l > len(b) {
		return 0, false
	}
	switch t {
	case bsoncore.TypeString, bsoncore.TypeJavaScript, bsoncore.TypeSymbol:
		n := 4 + l
		return n, l >= 1 && n <= len(b) && b[n-1] == 0
	case bsoncore.TypeEmbeddedDocument, bsoncore.TypeArray:
		return l, l >= 5 && b[l-1] == 0
	case bsoncore.TypeCodeWithScope:
		return l, l >= 14 && scopeAt(b[:l]) > 0
	case bsoncore.TypeBinary:
		n := 5 + l
		return n, n <= len(b)
	case bsoncore.TypeDBPointer:
		n := 4 + l + 12
		return n, l >= 1 && n <= len(b) && b[4+l-1] == 0
	}
	return 0, false
}

// scopeAt is the offset of the scope in a code with scope (int32 length, string, document), 0
// where string and document do not fill it.
func scopeAt(b []byte) int {
	n, ok := varSize(bsoncore.TypeString, b[4:])
	if !ok || !isDoc(b[4+n:]) {
		return 0
	}
	return 4 + n
}

// Lookup finds the first element with the name.
func (d Doc) Lookup(key string) (Value, bool) {
	it := d.Iter()
	for it.Next() {
		if string(it.Key) == key {
			return it.Value, true
		}
	}
	return Value{}, false
}

// Check walks the document to its depths, scopes of code included, and reports malformed BSON and
// nesting deeper than the 200 levels that servers accept. Not looked at are UTF-8, the keys of
// arrays and what is inside a binary, as servers don't either.
func (d Doc) Check() error { return d.check(0) }

// maxDepth is BSONDepth::kDefaultMaxAllowableDepth of the server.
const maxDepth = 200

func (d Doc) check(depth int) error {
	if depth > maxDepth {
		return badFrame("document nested deeper than %d levels", maxDepth)
	}
	it := d.Iter()
	for it.Next() {
		sub, ok := it.Value.AnyDoc()
		if it.Value.Type == bsoncore.TypeCodeWithScope {
			sub, ok = Doc(it.Value.Data[scopeAt(it.Value.Data):]), true
		}
		if ok {
			if err := sub.check(depth + 1); err != nil {
				return err
			}
		}
	}
	return it.err
}

// Doc returns an embedded document.
func (v Value) Doc() (Doc, bool) {
	return Doc(v.Data), v.Type == bsoncore.TypeEmbeddedDocument
}

// Array returns an array, whose elements are iterated like a document's.
func (v Value) Array() (Doc, bool) { return Doc(v.Data), v.Type == bsoncore.TypeArray }

// AnyDoc returns an embedded document or an array.
func (v Value) AnyDoc() (Doc, bool) {
	return Doc(v.Data), v.Type == bsoncore.TypeEmbeddedDocument || v.Type == bsoncore.TypeArray
}

// Str returns a string's bytes, without its length and end.
func (v Value) Str() ([]byte, bool) {
	if v.Type != bsoncore.TypeString || len(v.Data) < 5 {
		return nil, false
	}
	return v.Data[4 : len(v.Data)-1], true
}

// UUID returns the 16 bytes of a binary of subtype 4.
func (v Value) UUID() ([]byte, bool) {
	if v.Type != bsoncore.TypeBinary || len(v.Data) != 21 || v.Data[4] != 4 {
		return nil, false
	}
	return v.Data[5:], true
}

// Int returns an int32, an int64 or a double as an integer, where it is one. A decimal is none.
func (v Value) Int() (int64, bool) {
	switch v.Type {
	case bsoncore.TypeInt32:
		n, _, ok := bsoncore.ReadInt32(v.Data)
		return int64(n), ok
	case bsoncore.TypeInt64:
		n, _, ok := bsoncore.ReadInt64(v.Data)
		return n, ok
	case bsoncore.TypeDouble:
		f, _, ok := bsoncore.ReadDouble(v.Data)
		n := int64(f)
		return n, ok && f >= math.MinInt64 && f < math.MaxInt64 && float64(n) == f
	}
	return 0, false
}

// Whole is the whole number that servers read in its place where a command counts documents, as in limit and skip:
// doubles are cut off, decimals rounded to even, and neither is more than an int64 can hold. 0 for what is no number.
//
// Source: BSONElement::safeNumberLong of the server.
func (v Value) Whole() int64 {
	var f float64
	switch v.Type {
	case bsoncore.TypeDouble:
		f, _, _ = bsoncore.ReadDouble(v.Data)
		f = math.Trunc(f)
	case bsoncore.TypeDecimal128:
		high, low, _, _ := bsoncore.ReadDecimal128(v.Data)
		f, _ = strconv.ParseFloat(bson.NewDecimal128(high, low).String(), 64)
		f = math.RoundToEven(f)
	default:
		n, _ := v.Int()
		return n
	}
	switch {
	case math.IsNaN(f):
		return 0
	case f >= math.MaxInt64:
		return math.MaxInt64
	case f <= math.MinInt64:
		return math.MinInt64
	}
	return int64(f)
}

// True reports whether the value is what servers take for true in a command's flag: true or a
// number other than 0.
func (v Value) True() bool {
	switch v.Type {
	case bsoncore.TypeBoolean:
		return len(v.Data) == 1 && v.Data[0] != 0
	case bsoncore.TypeDouble:
		f, _, ok := bsoncore.ReadDouble(v.Data)
		return ok && f != 0
	case bsoncore.TypeDecimal128:
		high, low, _, ok := bsoncore.ReadDecimal128(v.Data)
		return ok && decimalTrue(high, low)
	}
	n, ok := v.Int()
	return ok && n != 0
}

// decimalTrue reports whether a decimal is other than 0. IEEE 754-2008, 3.5.2: a combination field
// of 11 has infinities and NaN (1111) and coefficients too large to be valid, which count as 0; so
// does a coefficient of more than 34 digits.
func decimalTrue(high, low uint64) bool {
	if high>>61&3 == 3 {
		return high>>59&0xf == 0xf
	}
	const maxHigh, maxLow = 0x1ed09bead87c0, 0x378d8e63ffffffff // 10^34 - 1
	high &= 1<<49 - 1
	return high|low != 0 && (high < maxHigh || high == maxHigh && low <= maxLow)
}

// IsNumber reports whether the value has one of the four numeric types.
func (v Value) IsNumber() bool {
	switch v.Type {
	case bsoncore.TypeInt32, bsoncore.TypeInt64, bsoncore.TypeDouble, bsoncore.TypeDecimal128:
		return true
	}
	return false
}

// Equal reports whether the two values have the same type and bytes.
func (v Value) Equal(o Value) bool { return v.Type == o.Type && bytes.Equal(v.Data, o.Data) }

// String returns the value as a string, for texts and logs.
func (v Value) String() string { return bsoncore.Value{Type: v.Type, Data: v.Data}.String() }

// AppendTo appends the value as an element with the name.
func (v Value) AppendTo(dst []byte, key string) []byte {
	dst = bsoncore.AppendHeader(dst, v.Type, key)
	return append(dst, v.Data...)
}

// StringValue encodes a string as a value.
func StringValue(s string) Value {
	return Value{Type: bsoncore.TypeString, Data: bsoncore.AppendString(nil, s)}
}
