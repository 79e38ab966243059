package routing

import (
	"bytes"
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
	for more := true; more; {
		var part []byte
		part, key, more = bytes.Cut(key, []byte("."))
		switch {
		case i == len(f.parts):
			return true // below the field
		case string(part) == f.parts[i]:
			i++
		case !positional(part):
			return false
		}
	}
	return i > 0
}

// within reports whether the path is the field's own, or that of what it lies in.
func (f *fieldPath) within(path []byte) bool {
	return strings.HasPrefix(f.name, string(path)) && (len(path) == len(f.name) || f.name[len(path)] == '.')
}

func positional(part []byte) bool {
	return len(part) == 0 || part[0] == '$' || part[0] >= '0' && part[0] <= '9'
}

// extractor reads what a filter says about the tenant. It never guesses: what it does not
// understand makes the set unknown.
type extractor struct {
	field *fieldPath
	let   wire.Doc // variables of the command whose values are constants
	equality
	// rebound says that let gives $$CURRENT another meaning, and with it every "$field".
	rebound bool
	looked  int // variables that have been looked for in let
}

// maxLooked bounds the variables that are looked for: each is, from let's beginning on.
const maxLooked = 256

// filter narrows the set to the tenants whose documents a query can match.
func (x *extractor) filter(s *tenantSet, d wire.Doc, depth int) {
	if depth > 64 {
		return
	}
	it := d.Iter()
	for it.Next() {
		x.clause(s, it.Key, it.Value, depth)
	}
	if it.Err() != nil {
		*s = tenantSet{}
	}
}

func (x *extractor) clause(s *tenantSet, key []byte, v wire.Value, depth int) {
	if string(key) == x.field.name {
		x.predicate(s, v)
		return
	}
	if len(key) > 0 && key[0] == '$' {
		switch string(key) {
		case "$and":
			x.all(s, v, depth)
		case "$or":
			x.any(s, v, depth)
		case "$expr":
			x.expr(s, v, depth+1)
		}
		return
	}
	if len(x.field.parts) > 1 && string(key) == x.field.parts[0] {
		if v, ok := x.object(v); ok {
			x.equal(s, v)
		}
	}
}

// all reads the branches of $and.
func (x *extractor) all(s *tenantSet, v wire.Value, depth int) {
	a, ok := v.Array()
	if !ok {
		return
	}
	it := a.Iter()
	for it.Next() {
		if d, ok := it.Value.Doc(); ok {
			x.filter(s, d, depth+1)
		}
	}
}

// any reads the branches of $or: one that says nothing makes all of them say nothing.
func (x *extractor) any(s *tenantSet, v wire.Value, depth int) {
	a, ok := v.Array()
	if !ok {
		return
	}
	var union tenantSet
	it := a.Iter()
	for first := true; it.Next(); first = false {
		d, ok := it.Value.Doc()
		if !ok {
			return
		}
		var o tenantSet
		x.filter(&o, d, depth+1)
		union.join(&o, first)
	}
	if it.Err() == nil {
		s.and(&union)
	}
}

// predicate reads the value that a filter asks of the tenant field.
func (x *extractor) predicate(s *tenantSet, v wire.Value) {
	d, ok := v.Doc()
	if !ok {
		x.equal(s, v)
		return
	}
	it := d.Iter()
	for it.Next() {
		switch string(it.Key) {
		case "$eq":
			x.equal(s, it.Value)
		case "$in":
			x.in(s, it.Value)
		}
	}
}

func (x *extractor) equal(s *tenantSet, v wire.Value) {
	switch {
	case null(v) || scalar(v) && x.tells(v):
		s.keep(v)
	case scalar(v):
		like := tenantSet{alike: true}
		like.add(v)
		s.and(&like)
	}
}

// enter takes a value of a list that the tenant field is to be in; false where it says nothing.
func (x *extractor) enter(list *tenantSet, v wire.Value) bool {
	if !null(v) && !scalar(v) {
		return false
	}
	list.alike = list.alike || !x.tells(v)
	list.known = !list.alike
	list.add(v)
	return true
}

func (x *extractor) in(s *tenantSet, v wire.Value) {
	a, ok := v.Array()
	if !ok {
		return
	}
	list := tenantSet{known: true}
	it := a.Iter()
	for it.Next() {
		if !x.enter(&list, it.Value) {
			return
		}
	}
	if it.Err() == nil {
		s.and(&list)
	}
}

// object finds the field's value in a whole object that it lies in, for a filter that asks for
// the object or an update that sets it.
func (x *extractor) object(v wire.Value) (wire.Value, bool) { return x.field.inside(v, 1) }

// given is the field's value in what an update sets a path to: the field's own, or that of an object
// that it lies in.
func (f *fieldPath) given(path []byte, v wire.Value) (wire.Value, bool) {
	if string(path) == f.name {
		return v, v.Type != 0
	}
	if n := len(path); n == 0 || n >= len(f.name) || f.name[n] != '.' || f.name[:n] != string(path) {
		return wire.Value{}, false
	}
	return f.inside(v, 1+bytes.Count(path, []byte(".")))
}

// inside is the field's value in an object at the first parts of its path.
func (f *fieldPath) inside(v wire.Value, parts int) (wire.Value, bool) {
	for _, part := range f.parts[parts:] {
		d, ok := v.Doc()
		if !ok {
			return v, false
		}
		it := d.Iter()
		v = wire.Value{}
		for it.Next() {
			if len(it.Key) > 0 && it.Key[0] == '$' {
				return v, false
			}
			if string(it.Key) == part {
				if v.Type != 0 {
					return v, false
				}
				v = it.Value
			}
		}
		if v.Type == 0 || it.Err() != nil {
			return v, false
		}
	}
	return v, !null(v)
}

// expr reads the expression of $expr.
func (x *extractor) expr(s *tenantSet, v wire.Value, depth int) {
	d, ok := v.Doc()
	if !ok || depth > 64 || x.rebound {
		return
	}
	it := d.Iter()
	if !it.Next() {
		return
	}
	op, arg := it.Key, it.Value
	if it.Next() || it.Err() != nil {
		return
	}
	switch string(op) {
	case "$eq":
		x.exprEqual(s, arg)
	case "$in":
		x.exprIn(s, arg)
	case "$and":
		x.exprAll(s, arg, depth)
	case "$or":
		x.exprAny(s, arg, depth)
	}
}

func (x *extractor) exprAll(s *tenantSet, v wire.Value, depth int) {
	a, ok := v.Array()
	if !ok {
		return
	}
	it := a.Iter()
	for it.Next() {
		x.expr(s, it.Value, depth+1)
	}
}

func (x *extractor) exprAny(s *tenantSet, v wire.Value, depth int) {
	a, ok := v.Array()
	if !ok {
		return
	}
	var union tenantSet
	it := a.Iter()
	for first := true; it.Next(); first = false {
		var o tenantSet
		x.expr(&o, it.Value, depth+1)
		union.join(&o, first)
	}
	if it.Err() == nil {
		s.and(&union)
	}
}

// exprEqual reads $eq of the field and a constant in either order. Null is left out: in an
// expression a missing field does not equal it.
func (x *extractor) exprEqual(s *tenantSet, arg wire.Value) {
	f, v, ok := pair(arg)
	if !ok {
		return
	}
	if !x.isField(f) {
		f, v = v, f
	}
	if c, ok := x.constant(v); ok && x.isField(f) && !null(c) {
		x.equal(s, c)
	}
}

// exprIn reads $in of the field and an array of constants or a constant array.
func (x *extractor) exprIn(s *tenantSet, arg wire.Value) {
	f, v, ok := pair(arg)
	if !ok || !x.isField(f) {
		return
	}
	a, written := v.Array()
	if !written {
		c, ok := x.constant(v)
		if !ok || c.Type != bsoncore.TypeArray {
			return
		}
		a = wire.Doc(c.Data)
	}
	list := tenantSet{known: true}
	it := a.Iter()
	for it.Next() {
		c, ok := it.Value, true
		if written {
			c, ok = x.constant(c)
		}
		if !ok || null(c) || !x.enter(&list, c) {
			return
		}
	}
	if it.Err() == nil {
		s.and(&list)
	}
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
	p, ok := v.Str()
	if !ok {
		return false
	}
	p, ok = bytes.CutPrefix(p, []byte("$$CURRENT."))
	if !ok {
		p, ok = bytes.CutPrefix(p, []byte("$"))
	}
	return ok && string(p) == x.field.name
}

// constant is an expression's value where it is one whatever the document: a literal, {$literal},
// or a variable of let that is one.
func (x *extractor) constant(v wire.Value) (wire.Value, bool) {
	if s, ok := v.Str(); ok && len(s) > 0 && s[0] == '$' {
		name, ok := strings.CutPrefix(string(s), "$$")
		if x.looked++; !ok || x.let == nil || x.looked > maxLooked {
			return v, false
		}
		bound, ok := x.let.Lookup(name)
		if !ok {
			return v, false
		}
		inner := extractor{field: x.field, equality: x.equality}
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

// SelectedIDs are the _ids by which a read selects, and whether by nothing else: not ok where it selects otherwise, or
// under a collation that may take others for them.
func (t *Table) SelectedIDs(r *Request) (ids []wire.Value, alone, ok bool) {
	var filter wire.Doc
	switch at := r.Cmd.Tenant; at.Kind {
	case InFilter:
		filter, _ = r.value(at.Path).Doc()
	case InStages:
		a, _ := r.value(at.Path).Array()
		first, _ := a.Lookup("0")
		stage, _ := first.Doc()
		match, _ := stage.Lookup("$match")
		filter, _ = match.Doc()
	}
	if ids, ok = IDs(filter); !ok || t.Collated(r) {
		return nil, false, false
	}
	it := filter.Iter()
	it.Next()
	return ids, !it.Next(), true
}

// SelectedIDs are the _ids by which a write selects, as of a read.
func (op *Op) SelectedIDs() (ids []wire.Value, ok bool) {
	if op.Collated() {
		return nil, false
	}
	return IDs(op.Filter)
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
