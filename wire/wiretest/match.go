package wiretest

import (
	"bytes"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"go.mongodb.org/mongo-driver/v2/bson"
)

// unsupported is what the store can't do: it becomes an error 238, never a wrong answer.
type unsupported string

func (u unsupported) Error() string { return "wiretest's store can't do " + string(u) }

// matches evaluates a filter: equality, $eq, $in, $nin and $regex on top-level fields, $and and $or.
func matches(filter, doc bson.D) (bool, error) {
	all := true
	for _, e := range filter { // to the end, so that what is unsupported is always found
		ok, err := matchesField(e, doc)
		if err != nil {
			return false, err
		}
		all = all && ok
	}
	return all, nil
}

func matchesField(e bson.E, doc bson.D) (bool, error) {
	switch {
	case e.Key == "$and" || e.Key == "$or":
		return matchesList(e, doc)
	case strings.HasPrefix(e.Key, "$") || strings.Contains(e.Key, "."):
		return false, unsupported("filter on " + e.Key)
	}
	value, _ := field(doc, e.Key)
	ops, ok := e.Value.(bson.D)
	if !ok || len(ops) == 0 || !strings.HasPrefix(ops[0].Key, "$") {
		return equals(e.Value, value)
	}
	all := true
	for _, op := range ops {
		list := bson.A{op.Value}
		switch op.Key {
		case "$regex":
			ok, err := fits(op.Value, value)
			if err != nil {
				return false, err
			}
			all = all && ok
			continue
		case "$eq":
		case "$in", "$nin":
			if list, ok = op.Value.(bson.A); !ok {
				return false, unsupported(op.Key + " without an array")
			}
		default:
			return false, unsupported("operator " + op.Key)
		}
		some := false
		for _, want := range list {
			ok, err := equals(want, value)
			if err != nil {
				return false, err
			}
			some = some || ok
		}
		all = all && some == (op.Key != "$nin")
	}
	return all, nil
}

// fits reports whether a string, or one in an array, fits a regular expression without options.
func fits(want, have any) (bool, error) {
	r, ok := want.(bson.Regex)
	if !ok || r.Options != "" {
		return false, unsupported("$regex of that kind")
	}
	expr, err := regexp.Compile(r.Pattern)
	if err != nil {
		return false, unsupported("$regex " + r.Pattern)
	}
	list, ok := have.(bson.A)
	if !ok {
		list = bson.A{have}
	}
	return slices.ContainsFunc(list, func(v any) bool {
		s, ok := v.(string)
		return ok && expr.MatchString(s)
	}), nil
}

func matchesList(e bson.E, doc bson.D) (bool, error) {
	list, ok := e.Value.(bson.A)
	if !ok || len(list) == 0 {
		return false, unsupported(e.Key + " without an array")
	}
	all, some := true, false
	for _, f := range list {
		d, ok := f.(bson.D)
		if !ok {
			return false, unsupported(e.Key + " of no documents")
		}
		ok, err := matches(d, doc)
		if err != nil {
			return false, err
		}
		all, some = all && ok, some || ok
	}
	if e.Key == "$or" {
		return some, nil
	}
	return all, nil
}

// equals is a filter's equality: null is equal to a missing field, an array to each of its elements.
func equals(want, have any) (bool, error) {
	ok, err := same(want, have)
	if ok || err != nil {
		return ok, err
	}
	if list, isArray := have.(bson.A); isArray {
		for _, h := range list {
			if ok, err := same(want, h); ok || err != nil {
				return ok, err
			}
		}
	}
	return false, nil
}

// same compares two values; numbers of different types are equal if they are the same number.
func same(a, b any) (bool, error) {
	for _, v := range []any{a, b} {
		switch v.(type) {
		case bson.Regex, bson.Decimal128, bson.Undefined, bson.CodeWithScope, bson.DBPointer, bson.Symbol:
			return false, unsupported(fmt.Sprintf("comparing a %T", v))
		}
	}
	if x, ok := number(a); ok {
		y, ok := number(b)
		return ok && x == y, nil
	}
	switch a := a.(type) {
	case bson.D:
		b, ok := b.(bson.D)
		return sameDocs(a, b, ok)
	case bson.A:
		b, ok := b.(bson.A)
		return sameLists(a, b, ok)
	case bson.Binary:
		b, ok := b.(bson.Binary)
		return ok && a.Subtype == b.Subtype && bytes.Equal(a.Data, b.Data), nil
	}
	return reflect.DeepEqual(a, b), nil
}

func sameDocs(a, b bson.D, ok bool) (bool, error) {
	if !ok || len(a) != len(b) {
		return false, nil
	}
	for i := range a {
		if a[i].Key != b[i].Key {
			return false, nil
		}
		if ok, err := same(a[i].Value, b[i].Value); !ok || err != nil {
			return false, err
		}
	}
	return true, nil
}

func sameLists(a, b bson.A, ok bool) (bool, error) {
	if !ok || len(a) != len(b) {
		return false, nil
	}
	for i := range a {
		if ok, err := same(a[i], b[i]); !ok || err != nil {
			return false, err
		}
	}
	return true, nil
}

// number is a number of one of the three types in a form that compares; an int64 that no double
// holds stays one and is equal to none.
func number(v any) (float64, bool) {
	switch v := v.(type) {
	case int32:
		return float64(v), true
	case int64:
		return float64(v), int64(float64(v)) == v
	case float64:
		return v, true
	}
	return 0, false
}

// changed applies an update to a document: a replacement, or $set, $unset and $inc of top-level
// fields. $setOnInsert counts where the document is new.
func changed(doc bson.D, update any, isNew bool) (bson.D, error) {
	u, ok := update.(bson.D)
	if !ok {
		return nil, unsupported("an update that is no document")
	}
	out := append(bson.D{}, doc...)
	if len(u) == 0 || !strings.HasPrefix(u[0].Key, "$") {
		id, has := field(doc, "_id")
		if other, given := field(u, "_id"); given && has {
			if ok, err := same(id, other); !ok || err != nil {
				return nil, unsupported("a replacement with another _id")
			}
			has = false
		}
		out = append(bson.D{}, u...)
		if has {
			out = append(bson.D{{Key: "_id", Value: id}}, u...)
		}
		return out, nil
	}
	for _, op := range u {
		fields, ok := op.Value.(bson.D)
		if !ok {
			return nil, unsupported("update " + op.Key)
		}
		for _, f := range fields {
			var err error
			if out, err = changedField(out, op.Key, f, isNew); err != nil {
				return nil, err
			}
		}
	}
	return out, nil
}

func changedField(doc bson.D, op string, f bson.E, isNew bool) (bson.D, error) {
	if strings.ContainsAny(f.Key, ".$") || f.Key == "_id" {
		return nil, unsupported(op + " of " + f.Key)
	}
	at := -1
	for i, e := range doc {
		if e.Key == f.Key {
			at = i
		}
	}
	switch {
	case op == "$setOnInsert" && !isNew, op == "$unset" && at < 0:
		return doc, nil
	case op == "$unset":
		return append(doc[:at:at], doc[at+1:]...), nil
	case op == "$set" || op == "$setOnInsert" || op == "$inc" && at < 0:
	case op == "$inc":
		sum, err := added(doc[at].Value, f.Value)
		if err != nil {
			return nil, err
		}
		f.Value = sum
	default:
		return nil, unsupported("update operator " + op)
	}
	if at < 0 {
		return append(doc, f), nil
	}
	doc[at].Value = f.Value
	return doc, nil
}

// added is the sum of two integers of one type.
func added(a, b any) (any, error) {
	switch a := a.(type) {
	case int32:
		if b, ok := b.(int32); ok {
			if sum := int64(a) + int64(b); sum == int64(int32(sum)) {
				return int32(sum), nil
			}
		}
	case int64:
		if b, ok := b.(int64); ok && (b >= 0) == (a+b >= a) {
			return a + b, nil
		}
	}
	return nil, unsupported(fmt.Sprintf("$inc of %T by %T", a, b))
}
