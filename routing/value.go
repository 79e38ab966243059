package routing

import (
	"math"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"

	"github.com/smetasc/tenantry/wire"
)

// tenantIndex finds tenants by the values of the tenant field, compared as BSON does: numbers by
// value across their types, everything else by type and bytes.
type tenantIndex struct {
	strings wordMap[*Tenant]
	ids     map[[12]byte]*Tenant
	numbers map[int64]*Tenant
	others  map[string]*Tenant // type byte and bytes
}

func newTenantIndex(n int) tenantIndex {
	return tenantIndex{newWordMap[*Tenant](n), map[[12]byte]*Tenant{}, map[int64]*Tenant{}, map[string]*Tenant{}}
}

func (x *tenantIndex) find(v wire.Value) *Tenant {
	switch v.Type {
	case bsoncore.TypeString:
		s, _ := v.Str()
		return x.strings.find(s)
	case bsoncore.TypeObjectID:
		return x.ids[[12]byte(v.Data)]
	}
	if v.IsNumber() {
		n, ok := integer(v)
		if !ok {
			return nil
		}
		return x.numbers[n]
	}
	if len(x.others) == 0 {
		return nil
	}
	return x.others[otherKey(v)]
}

// add enters the tenant under a value; the tenant that had it before, if any, is returned.
func (x *tenantIndex) add(v wire.Value, t *Tenant) (before *Tenant) {
	before = x.find(v)
	switch {
	case v.Type == bsoncore.TypeString:
		s, _ := v.Str()
		x.strings.set(string(s), t)
	case v.Type == bsoncore.TypeObjectID:
		x.ids[[12]byte(v.Data)] = t
	case v.IsNumber():
		if n, ok := integer(v); ok {
			x.numbers[n] = t
		}
	default:
		x.others[otherKey(v)] = t
	}
	return before
}

func otherKey(v wire.Value) string { return string(byte(v.Type)) + string(v.Data) }

// integer is a number's value where it is a whole one; a decimal too.
func integer(v wire.Value) (int64, bool) {
	if v.Type != bsoncore.TypeDecimal128 {
		return v.Int()
	}
	h, l, _, ok := bsoncore.ReadDecimal128(v.Data)
	if !ok {
		return 0, false
	}
	coefficient, exp, err := bson.NewDecimal128(h, l).BigInt()
	if err != nil || exp < -6200 || exp > 18 {
		return 0, false
	}
	for ; exp > 0; exp-- {
		coefficient.Mul(coefficient, ten)
	}
	for ; exp < 0; exp++ {
		if _, rest := coefficient.QuoRem(coefficient, ten, newInt()); rest.Sign() != 0 {
			return 0, false
		}
	}
	return coefficient.Int64(), coefficient.IsInt64()
}

// SameValue reports whether two values are equal as BSON compares them in a query: numbers
// across their types, everything else by type and bytes. Embedded documents are compared by
// bytes, so that numbers inside of them count by type; it may say no where a server says yes.
func SameValue(a, b wire.Value) bool {
	if a.Equal(b) {
		return true
	}
	if !a.IsNumber() || !b.IsNumber() {
		return false
	}
	n, okA := integer(a)
	m, okB := integer(b)
	if okA && okB {
		return n == m
	}
	x, okA := double(a)
	y, okB := double(b)
	return okA && okB && (x == y || math.IsNaN(x) && math.IsNaN(y))
}

func double(v wire.Value) (float64, bool) {
	if v.Type != bsoncore.TypeDouble {
		return 0, false
	}
	f, _, ok := bsoncore.ReadDouble(v.Data)
	return f, ok
}

// scalar reports whether the value can be a tenant's: no document, array, regular expression or
// code, and not null. A symbol can't: servers find strings by it, and it by strings.
func scalar(v wire.Value) bool {
	switch v.Type {
	case bsoncore.TypeEmbeddedDocument, bsoncore.TypeArray, bsoncore.TypeRegex, bsoncore.TypeJavaScript,
		bsoncore.TypeCodeWithScope, bsoncore.TypeNull, bsoncore.TypeUndefined, bsoncore.TypeDBPointer,
		bsoncore.TypeMinKey, bsoncore.TypeMaxKey, bsoncore.TypeSymbol:
		return false
	}
	return true
}

func null(v wire.Value) bool {
	return v.Type == bsoncore.TypeNull || v.Type == bsoncore.TypeUndefined
}

// tenantSet is what a filter says about the tenants whose documents it can match: unknown, or
// these values only. A null stands for documents without the field, which live in shared.
type tenantSet struct {
	known bool
	alike bool // it is not known, but each is equal to one of the values under a collation
	n     int
	few   [4]wire.Value
	more  []wire.Value
	keys  map[string]struct{} // of all, where they are many
}

// many is from how many values on a set finds them by their keys.
const many = 16

func (s *tenantSet) at(i int) wire.Value {
	if i < len(s.few) {
		return s.few[i]
	}
	return s.more[i-len(s.few)]
}

// values are all of the set; never nil.
func (s *tenantSet) values() []wire.Value {
	all := make([]wire.Value, s.n)
	for i := range all {
		all[i] = s.at(i)
	}
	return all
}

func (s *tenantSet) add(v wire.Value) {
	if s.has(v) {
		return
	}
	if s.n < len(s.few) {
		s.few[s.n] = v
	} else {
		s.more = append(s.more, v)
	}
	s.n++
	switch {
	case s.keys != nil:
		s.keys[string(wire.AppendKey(nil, v))] = struct{}{}
	case s.n == many:
		s.keys = map[string]struct{}{}
		for i := range s.n {
			s.keys[string(wire.AppendKey(nil, s.at(i)))] = struct{}{}
		}
	}
}

func (s *tenantSet) has(v wire.Value) bool {
	if s.keys != nil {
		var key [64]byte
		_, ok := s.keys[string(wire.AppendKey(key[:0], v))]
		return ok
	}
	for i := range s.n {
		if SameValue(s.at(i), v) || null(s.at(i)) && null(v) {
			return true
		}
	}
	return false
}

// keep narrows the set to the one value.
func (s *tenantSet) keep(v wire.Value) {
	if s.known && !s.has(v) {
		s.n, s.more, s.keys = 0, nil, nil
		return
	}
	s.known, s.alike, s.n, s.few[0], s.more, s.keys = true, false, 1, v, nil, nil
}

// and narrows the set to what both say.
func (s *tenantSet) and(o *tenantSet) {
	switch {
	case !o.known && !o.alike:
	case !s.known && (o.known || !s.alike):
		*s = *o
	case !s.known || !o.known: // it says as much, or more
	default:
		var both tenantSet
		both.known = true
		for i := range s.n {
			if v := s.at(i); o.has(v) {
				both.add(v)
			}
		}
		*s = both
	}
}

// join widens the set to what either says, the first one being taken over; unknown as soon as
// one is.
func (s *tenantSet) join(o *tenantSet, first bool) {
	switch {
	case first:
		*s = *o
	case !s.known && !s.alike || !o.known && !o.alike:
		*s = tenantSet{}
	default:
		s.alike = s.alike || o.alike
		s.known = !s.alike
		for i := range o.n {
			s.add(o.at(i))
		}
	}
}
