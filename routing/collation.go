package routing

import (
	"bytes"

	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"

	"github.com/smetasc/tenantry/wire"
)

// equality is how strings are compared.
type equality uint8

const (
	byBytes   equality = iota
	byWriting          // those that are written otherwise differ, but for characters that nobody sees
	byLetters          // case, accents, punctuation or the way numbers are written may make no difference
)

// equalityOf is how a collation, or none, compares strings.
// https://www.mongodb.com/docs/manual/reference/collation/
func equalityOf(collation wire.Value) equality {
	d, ok := collation.Doc()
	if !ok && (collation.Type == 0 || null(collation)) {
		return byBytes
	}
	how := byWriting
	for it := d.Iter(); it.Next(); {
		switch string(it.Key) {
		case "locale":
			switch s, _ := it.Value.Str(); {
			case string(s) == "simple":
				return byBytes
			case bytes.HasPrefix(s, []byte("th")): // Thai ignores punctuation of its own accord
				how = byLetters
			}
		case "strength":
			if n, ok := it.Value.Int(); !ok || n < 3 {
				how = byLetters
			}
		case "numericOrdering":
			if it.Value.True() {
				how = byLetters
			}
		case "alternate":
			if s, _ := it.Value.Str(); string(s) != "non-ignorable" {
				how = byLetters
			}
		}
	}
	if !ok {
		return byLetters // the server says what is wrong with it
	}
	return how
}

// simple reports whether strings are compared as bytes.
func simple(collation wire.Value) bool { return equalityOf(collation) == byBytes }

// tells reports whether only the value itself is equal to it.
func (e equality) tells(v wire.Value) bool {
	if e == byBytes || v.Type != bsoncore.TypeString {
		return true
	}
	s, _ := v.Str()
	return e == byWriting && plainText(s)
}

// plainText reports whether a string is of printable ASCII alone, which no other string looks like.
func plainText(s []byte) bool {
	for _, b := range s {
		if b < ' ' || b > '~' {
			return false
		}
	}
	return true
}

// collation is how a command of the collection compares strings that says given of it: by the collection's own
// collation where it says nothing.
func (db *Database) collation(coll []byte, given wire.Value) wire.Value {
	if given.Type != 0 || db == nil || len(db.collated) == 0 {
		return given
	}
	return db.collated[string(coll)]
}

// collation is how the request compares strings.
func (t *Table) collation(r *Request) wire.Value {
	return t.byName.find(r.DB).collation(r.Coll(), r.value(fCollation))
}

// Collation is the collation of the collection that the request is about; the zero value where it has none, or
// the request brings one. It may be kept.
func (t *Table) Collation(r *Request) wire.Value {
	if r.value(fCollation).Type != 0 {
		return wire.Value{}
	}
	return t.collation(r)
}

// HasCollation reports whether the collection has a collation of its own, by which servers read it where a command
// brings none.
func (t *Table) HasCollation(db string, coll []byte) bool {
	return t.byName.find([]byte(db)).collation(coll, wire.Value{}).Type != 0
}

// AppendSimple appends to a command that it compares bytes, whatever the collation of the collection.
func AppendSimple(d []byte) []byte {
	return appendDoc(d, "collation", func(d []byte) []byte { return bsoncore.AppendStringElement(d, "locale", "simple") })
}

// Collated reports whether the request may take strings for equal that are not.
func (t *Table) Collated(r *Request) bool { return !simple(t.collation(r)) }

// Collated reports whether the write may take strings for equal that are not.
func (op *Op) Collated() bool { return !simple(op.Collation) }

// of makes the write one to a collection.
func (op *Op) of(c *Collection, name []byte) {
	op.Coll, op.Name = c, name
	if c != nil {
		op.Collation = c.db.collation(name, op.Collation)
	}
}

// look is what strings have in common that some collation takes for equal: which letters and, in their order,
// which digits they have, but for zeros. Languages write one letter by two or take two for one; none makes
// others of them, in ASCII.
type look struct {
	letters uint32
	digits  string
}

// lookOf is the look of a string; false where that can not be told.
func lookOf(s []byte) (l look, ok bool) {
	if !plainText(s) {
		return look{}, false
	}
	var digits []byte
	for _, b := range s {
		switch {
		case b >= '1' && b <= '9':
			digits = append(digits, b)
			continue
		case b >= 'A' && b <= 'Z':
			b += 'a' - 'A'
		}
		switch b { // Lithuanian has y for an i, Swedish took w for a v
		case 'y', 'j':
			b = 'i'
		case 'w':
			b = 'v'
		}
		if b >= 'a' && b <= 'z' {
			l.letters |= 1 << (b - 'a')
		}
	}
	l.digits = string(digits)
	return l, true
}

// alike are the tenants outside of shared by the look of their values; those whose look can not be told are
// under none.
func (t *Table) alike() map[look][]*Tenant {
	t.looksOnce.Do(func() {
		t.looks = map[look][]*Tenant{}
		for _, tn := range t.tenants {
			if !tn.Isolated() {
				continue
			}
			for _, v := range append([]wire.Value{tn.ID}, tn.aliases...) {
				if s, ok := v.Str(); ok {
					l, _ := lookOf(s)
					t.looks[l] = append(t.looks[l], tn)
				}
			}
		}
	})
	return t.looks
}

// near are the homes of the documents of a collection whose tenant may be equal to a value of the set. Shared is
// one: nobody knows which values it holds.
func (t *Table) near(c *Collection, s *tenantSet) []*Target {
	at := map[*Target]bool{c.db.shared: true}
	for i := range s.n {
		v := s.at(i)
		at[t.byValue.find(v).home(c)] = true
		text, ok := v.Str()
		if !ok {
			continue
		}
		l, ok := lookOf(text)
		if !ok {
			return c.holders
		}
		for _, alike := range [][]*Tenant{t.alike()[l], t.alike()[look{}]} {
			for _, tn := range alike {
				at[tn.home(c)] = true
			}
		}
	}
	return c.these(at)
}

// these are the homes in the order of the holders.
func (c *Collection) these(at map[*Target]bool) (homes []*Target) {
	for _, x := range c.holders {
		if at[x] {
			homes = append(homes, x)
		}
	}
	return homes
}
