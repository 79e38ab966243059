package wire

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"math"
	"math/big"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"
)

// Compare orders two values as servers do when they sort (the manual's comparison order; strings
// by bytes): first by class of type, then by value, numbers across their types. A zero Value
// stands for a missing one and equals null.
func Compare(a, b Value) int {
	if c := cmp.Compare(class(a.Type), class(b.Type)); c != 0 {
		return c
	}
	if a.IsNumber() {
		return compareNumbers(a, b)
	}
	switch a.Type {
	case bsoncore.TypeString, bsoncore.TypeSymbol, bsoncore.TypeJavaScript:
		return bytes.Compare(a.Data[4:], b.Data[4:])
	case bsoncore.TypeEmbeddedDocument, bsoncore.TypeArray:
		return compareDocs(Doc(a.Data), Doc(b.Data))
	case bsoncore.TypeBinary:
		if c := cmp.Compare(len(a.Data), len(b.Data)); c != 0 {
			return c
		}
		return bytes.Compare(a.Data[4:], b.Data[4:])
	case bsoncore.TypeDateTime:
		return cmp.Compare(int64(binary.LittleEndian.Uint64(a.Data)), int64(binary.LittleEndian.Uint64(b.Data)))
	case bsoncore.TypeTimestamp:
		return cmp.Compare(binary.LittleEndian.Uint64(a.Data), binary.LittleEndian.Uint64(b.Data))
	}
	return bytes.Compare(a.Data, b.Data)
}

// AppendKey appends what two values have in common exactly if they compare equal.
func AppendKey(dst []byte, v Value) []byte {
	dst = append(dst, byte(class(v.Type)))
	switch {
	case class(v.Type) == 0, class(v.Type) == 1:
		return dst
	case v.IsNumber():
		return v.appendNumberKey(dst)
	case v.Type == bsoncore.TypeString, v.Type == bsoncore.TypeSymbol, v.Type == bsoncore.TypeJavaScript, v.Type == bsoncore.TypeBinary:
		return appendSized(dst, v.Data[4:])
	case v.Type == bsoncore.TypeEmbeddedDocument, v.Type == bsoncore.TypeArray:
		for it := Doc(v.Data).Iter(); it.Next(); {
			dst = AppendKey(appendSized(append(dst, 1), it.Key), it.Value)
		}
		return append(dst, 0)
	}
	return appendSized(dst, v.Data)
}

func appendSized(dst, data []byte) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(data))), data...)
}

func (v Value) appendNumberKey(dst []byte) []byte {
	if n, ok := v.Int(); ok {
		return binary.LittleEndian.AppendUint64(append(dst, 'n'), uint64(n))
	}
	if s := v.special(); s != 0 {
		return append(dst, 's', byte(s))
	}
	switch r := v.rational(); {
	case r == nil:
		return appendSized(append(dst, 'b'), v.Data)
	case r.IsInt() && r.Num().IsInt64():
		return binary.LittleEndian.AppendUint64(append(dst, 'n'), uint64(r.Num().Int64()))
	default:
		return appendSized(append(dst, 'r'), []byte(r.RatString()))
	}
}

// class is a type's place in the order.
func class(t bsoncore.Type) int {
	switch t {
	case bsoncore.TypeMinKey:
		return -1
	case bsoncore.TypeUndefined: // before null: the sort key of an empty array
		return 0
	case 0, bsoncore.TypeNull:
		return 1
	case bsoncore.TypeInt32, bsoncore.TypeInt64, bsoncore.TypeDouble, bsoncore.TypeDecimal128:
		return 2
	case bsoncore.TypeString, bsoncore.TypeSymbol:
		return 3
	case bsoncore.TypeEmbeddedDocument:
		return 4
	case bsoncore.TypeArray:
		return 5
	case bsoncore.TypeBinary:
		return 6
	case bsoncore.TypeObjectID:
		return 7
	case bsoncore.TypeBoolean:
		return 8
	case bsoncore.TypeDateTime:
		return 9
	case bsoncore.TypeTimestamp:
		return 10
	case bsoncore.TypeRegex:
		return 11
	case bsoncore.TypeDBPointer:
		return 12
	case bsoncore.TypeJavaScript:
		return 13
	case bsoncore.TypeCodeWithScope:
		return 14
	}
	return 15 // maxKey
}

// compareDocs compares element by element: class of type, then name, then value; a document that
// ends first is less.
func compareDocs(a, b Doc) int {
	x, y := a.Iter(), b.Iter()
	for {
		moreA, moreB := x.Next(), y.Next()
		switch {
		case !moreA && !moreB:
			return 0
		case !moreA:
			return -1
		case !moreB:
			return 1
		}
		if c := cmp.Compare(class(x.Value.Type), class(y.Value.Type)); c != 0 {
			return c
		}
		if c := bytes.Compare(x.Key, y.Key); c != 0 {
			return c
		}
		if c := Compare(x.Value, y.Value); c != 0 {
			return c
		}
	}
}

// compareNumbers compares two numbers by value; NaN is less than all others and equals itself.
func compareNumbers(a, b Value) int {
	n, okA := a.Int()
	m, okB := b.Int()
	if okA && okB {
		return cmp.Compare(n, m)
	}
	x, y := a.special(), b.special()
	if x != 0 || y != 0 {
		return cmp.Compare(x, y)
	}
	r, s := a.rational(), b.rational()
	if r == nil || s == nil {
		return bytes.Compare(a.Data, b.Data)
	}
	return r.Cmp(s)
}

// special orders what is no rational number: NaN -2, -infinity -1, infinity 1, all others 0.
func (v Value) special() int {
	f := 0.0
	switch v.Type {
	case bsoncore.TypeDouble:
		f, _, _ = bsoncore.ReadDouble(v.Data)
	case bsoncore.TypeDecimal128:
		h, l, _, _ := bsoncore.ReadDecimal128(v.Data)
		d := bson.NewDecimal128(h, l)
		switch {
		case d.IsNaN():
			f = math.NaN()
		case d.IsInf() != 0:
			f = math.Inf(d.IsInf())
		}
	}
	switch {
	case math.IsNaN(f):
		return -2
	case math.IsInf(f, -1):
		return -1
	case math.IsInf(f, 1):
		return 1
	}
	return 0
}

func (v Value) rational() *big.Rat {
	if n, ok := v.Int(); ok {
		return new(big.Rat).SetInt64(n)
	}
	if v.Type == bsoncore.TypeDouble {
		f, _, _ := bsoncore.ReadDouble(v.Data)
		return new(big.Rat).SetFloat64(f)
	}
	h, l, _, ok := bsoncore.ReadDecimal128(v.Data)
	if !ok {
		return nil
	}
	coefficient, exp, err := bson.NewDecimal128(h, l).BigInt()
	if err != nil {
		return nil
	}
	power := new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(max(exp, -exp))), nil)
	r := new(big.Rat).SetInt(coefficient)
	if exp < 0 {
		return r.Quo(r, new(big.Rat).SetInt(power))
	}
	return r.Mul(r, new(big.Rat).SetInt(power))
}
