package routing

import (
	"math/big"
	"strings"

	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"

	"github.com/smetasc/tenantry/wire"
)

var ten = big.NewInt(10)

func newInt() *big.Int { return new(big.Int) }

// fieldPath is the tenant field of a collection.
type fieldPath struct {
	name  string   // as in a filter: "tenantId", "company.id"
	parts []string // split at the dots
}

func newFieldPath(name string) fieldPath {
	return fieldPath{name, strings.Split(name, ".")}
}

// touches reports whether a change of the path key can change the field: the same path, one above
// or one below, positional parts ($, $[], $[x], numbers) being skipped.
func (f *fieldPath) touches(key []byte) bool {
	if len(f.parts) == 1 && len(key) >= len(f.name) && string(key[:len(f.name)]) == f.name {
		return len(key) == len(f.name) || key[len(f.name)] == '.'
	}
	i := 0
	for part := range strings.SplitSeq(string(key), ".") {
		if i == len(f.parts) {
			return true // below the field
		}
		if part == "" || part[0] == '$' || part[0] >= '0' && part[0] <= '9' {
			if part != f.parts[i] {
				continue
			}
		}
		if part != f.parts[i] {
			return false
		}
		i++
	}
	return i > 0
}

// extractor reads what a filter says about the tenant. It never guesses: what it does not
// understand makes the set unknown.
type extractor struct {
	field *fieldPath
	let   wire.Doc // variables of the command whose values are constants
	exact bool     // string equality is exact: no collation
}

// filter reads a query.
func (x *extractor) filter(d wire.Doc, depth int) tenantSet {
	var s tenantSet
	if depth > 64 {
		return s
	}
	it := d.Iter()
	for it.Next() {
		o := x.clause(it.Key, it.Value, depth)
		s.and(&o)
	}
	if it.Err() != nil {
		return tenantSet{}
	}
	return s
}

func (x *extractor) clause(key []byte, v wire.Value, depth int) tenantSet {
	switch string(key) {
	case x.field.name:
		return x.predicate(v)
	case "$and":
		return x.branches(v, depth, (*tenantSet).and)
	case "$or":
		return x.branches(v, depth, (*tenantSet).or)
	case "$expr":
		return x.expr(v, depth+1)
	}
	if len(x.field.parts) > 1 && string(key) == x.field.parts[0] {
		return x.object(v)
	}
	return tenantSet{}
}

func (x *extractor) branches(v wire.Value, depth int, join func(*tenantSet, *tenantSet)) tenantSet {
	a, ok := v.Array()
	if !ok {
		return tenantSet{}
	}
	var s tenantSet
	it := a.Iter()
	for first := true; it.Next(); first = false {
		d, ok := it.Value.Doc()
		if !ok {
			return tenantSet{}
		}
		o := x.filter(d, depth+1)
		if first {
			s = o
		} else {
			join(&s, &o)
		}
	}
	if it.Err() != nil {
		return tenantSet{}
	}
	return s
}

// predicate reads the value that a filter asks of the tenant field.
func (x *extractor) predicate(v wire.Value) tenantSet {
	d, ok := v.Doc()
	if !ok {
		return x.equal(v)
	}
	var s tenantSet
	it := d.Iter()
	for it.Next() {
		var o tenantSet
		switch string(it.Key) {
		case "$eq":
			o = x.equal(it.Value)
		case "$in":
			o = x.in(it.Value)
		}
		s.and(&o)
	}
	if it.Err() != nil {
		return tenantSet{}
	}
	return s
}

func (x *extractor) equal(v wire.Value) tenantSet {
	if null(v) {
		return one(v)
	}
	if !scalar(v) || !x.exact && (v.Type == bsoncore.TypeString || v.Type == bsoncore.TypeSymbol) {
		return tenantSet{}
	}
	return one(v)
}

func (x *extractor) in(v wire.Value) tenantSet {
	a, ok := v.Array()
	if !ok {
		return tenantSet{}
	}
	s := tenantSet{known: true}
	it := a.Iter()
	for it.Next() {
		o := x.equal(it.Value)
		if !o.known {
			return tenantSet{}
		}
		s.add(it.Value)
	}
	if it.Err() != nil {
		return tenantSet{}
	}
	return s
}

// object reads the equality of a whole object that the dotted field lies in.
func (x *extractor) object(v wire.Value) tenantSet {
	for _, part := range x.field.parts[1:] {
		d, ok := v.Doc()
		if !ok {
			return tenantSet{}
		}
		it := d.Iter()
		v = wire.Value{}
		for it.Next() {
			if len(it.Key) > 0 && it.Key[0] == '$' {
				return tenantSet{}
			}
			if string(it.Key) == part {
				if v.Type != 0 {
					return tenantSet{}
				}
				v = it.Value
			}
		}
		if v.Type == 0 || it.Err() != nil {
			return tenantSet{}
		}
	}
	if null(v) {
		return tenantSet{}
	}
	return x.equal(v)
}

// expr reads the expression of $expr.
func (x *extractor) expr(v wire.Value, depth int) tenantSet {
	d, ok := v.Doc()
	if !ok || depth > 64 {
		return tenantSet{}
	}
	it := d.Iter()
	if !it.Next() {
		return tenantSet{}
	}
	op, arg := string(it.Key), it.Value
	if it.Next() || it.Err() != nil {
		return tenantSet{}
	}
	switch op {
	case "$eq":
		a, b, ok := pair(arg)
		if !ok {
			return tenantSet{}
		}
		if !x.isField(a) {
			a, b = b, a
		}
		return x.exprEqual(a, b)
	case "$in":
		a, b, ok := pair(arg)
		if !ok || !x.isField(a) {
			return tenantSet{}
		}
		return x.exprIn(b)
	case "$and":
		return x.exprBranches(arg, depth, (*tenantSet).and)
	case "$or":
		return x.exprBranches(arg, depth, (*tenantSet).or)
	}
	return tenantSet{}
}

func (x *extractor) exprBranches(v wire.Value, depth int, join func(*tenantSet, *tenantSet)) tenantSet {
	a, ok := v.Array()
	if !ok {
		return tenantSet{}
	}
	var s tenantSet
	it := a.Iter()
	for first := true; it.Next(); first = false {
		o := x.expr(it.Value, depth+1)
		if first {
			s = o
		} else {
			join(&s, &o)
		}
	}
	if it.Err() != nil {
		return tenantSet{}
	}
	return s
}

func (x *extractor) exprEqual(f, v wire.Value) tenantSet {
	c, ok := x.constant(v)
	if !x.isField(f) || !ok || null(c) {
		return tenantSet{}
	}
	return x.equal(c)
}

// exprIn reads the list of $in, an array of constants or a constant array.
func (x *extractor) exprIn(v wire.Value) tenantSet {
	a, ok := v.Array()
	if !ok {
		c, ok := x.constant(v)
		if !ok || c.Type != bsoncore.TypeArray {
			return tenantSet{}
		}
		a = wire.Doc(c.Data)
	}
	s := tenantSet{known: true}
	it := a.Iter()
	for it.Next() {
		c, ok := x.constant(it.Value)
		if !ok || null(c) {
			return tenantSet{}
		}
		o := x.equal(c)
		if !o.known {
			return tenantSet{}
		}
		s.add(c)
	}
	if it.Err() != nil {
		return tenantSet{}
	}
	return s
}

func pair(v wire.Value) (a, b wire.Value, ok bool) {
	arr, ok := v.Array()
	if !ok {
		return a, b, false
	}
	it := arr.Iter()
	if !it.Next() {
		return a, b, false
	}
	a = it.Value
	if !it.Next() {
		return a, b, false
	}
	b = it.Value
	return a, b, !it.Next() && it.Err() == nil
}

func (x *extractor) isField(v wire.Value) bool {
	s, ok := v.Str()
	if !ok {
		return false
	}
	p, ok := strings.CutPrefix(string(s), "$$CURRENT.")
	if !ok {
		p, ok = strings.CutPrefix(string(s), "$")
	}
	return ok && p == x.field.name
}

// constant is an expression's value where it is one whatever the document: a literal, {$literal},
// or a variable of let that is one.
func (x *extractor) constant(v wire.Value) (wire.Value, bool) {
	if s, ok := v.Str(); ok && len(s) > 0 && s[0] == '$' {
		name, ok := strings.CutPrefix(string(s), "$$")
		if !ok || x.let == nil {
			return v, false
		}
		bound, ok := x.let.Lookup(name)
		if !ok {
			return v, false
		}
		inner := extractor{field: x.field, exact: x.exact}
		return inner.constant(bound)
	}
	d, ok := v.Doc()
	if !ok {
		return v, scalar(v) || null(v)
	}
	it := d.Iter()
	if !it.Next() || string(it.Key) != "$literal" {
		return v, false
	}
	lit := it.Value
	return lit, !it.Next() && it.Err() == nil
}

// documentTenant reads the tenant field of a document that will be stored: its value, none where
// the document lacks it, or an error where two readers could see different tenants.
func (f *fieldPath) documentTenant(d wire.Doc) (v wire.Value, found bool, err *wire.Error) {
	for i, part := range f.parts {
		v, found = wire.Value{}, false
		it := d.Iter()
		for it.Next() {
			if string(it.Key) != part {
				continue
			}
			if found {
				return v, false, wire.Errorf(wire.BadValue, "a document has the field %q twice", f.name)
			}
			v, found = it.Value, true
		}
		if it.Err() != nil {
			return v, false, wire.Errorf(wire.FailedToParse, "a document is malformed BSON")
		}
		if !found {
			return v, false, nil
		}
		if i == len(f.parts)-1 {
			break
		}
		sub, ok := v.Doc()
		if !ok {
			return f.noParent(v)
		}
		d = sub
	}
	if v.Type == bsoncore.TypeArray {
		return v, false, wire.Errorf(wire.BadValue,
			"the tenant field %q holds an array, which would belong to several tenants; give it one value", f.name)
	}
	if null(v) {
		return v, false, nil
	}
	return v, true, nil
}

func (f *fieldPath) noParent(v wire.Value) (wire.Value, bool, *wire.Error) {
	if v.Type == bsoncore.TypeArray {
		return v, false, wire.Errorf(wire.BadValue,
			"the tenant field %q lies in an array, which would belong to several tenants; give it one value", f.name)
	}
	return v, false, nil
}

// IDs reads which documents a filter selects by _id: equality or $in at the top or in $and.
func IDs(filter wire.Doc) (ids []wire.Value, ok bool) {
	it := filter.Iter()
	for it.Next() {
		switch string(it.Key) {
		case "_id":
			return idValues(it.Value)
		case "$and":
			a, isArray := it.Value.Array()
			if !isArray {
				continue
			}
			sub := a.Iter()
			for sub.Next() {
				if d, isDoc := sub.Value.Doc(); isDoc {
					if ids, ok = IDs(d); ok {
						return ids, true
					}
				}
			}
		}
	}
	return nil, false
}

func idValues(v wire.Value) ([]wire.Value, bool) {
	d, ok := v.Doc()
	if !ok {
		return []wire.Value{v}, v.Type != bsoncore.TypeRegex && v.Type != bsoncore.TypeArray
	}
	it := d.Iter()
	operators := false
	for it.Next() {
		if len(it.Key) == 0 || it.Key[0] != '$' {
			break
		}
		operators = true
		switch string(it.Key) {
		case "$eq":
			return []wire.Value{it.Value}, true
		case "$in":
			return inValues(it.Value)
		}
	}
	if operators {
		return nil, false
	}
	return []wire.Value{v}, true // equality with an embedded document
}

func inValues(v wire.Value) ([]wire.Value, bool) {
	a, ok := v.Array()
	if !ok {
		return nil, false
	}
	var ids []wire.Value
	it := a.Iter()
	for it.Next() {
		if it.Value.Type == bsoncore.TypeRegex {
			return nil, false
		}
		ids = append(ids, it.Value)
	}
	return ids, it.Err() == nil
}
