package proxy

import (
	"strconv"

	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"

	"github.com/smetasc/tenantry/wire"
)

// What a shape shows of a command at most.
const (
	shapeSize  = 600 // bytes
	shapeDepth = 6
	shapeName  = 64 // bytes of a field's name
)

// shapeOf is a command without its values: the names of its fields and the types of what is in them,
// of an array its length and its first element.
func shapeOf(m *wire.Message) string {
	s := shaper{}
	s.doc(m.Body, 0, true)
	for i := range m.Sections {
		first, _, _ := wire.NextDoc(m.Sections[i].Docs)
		s.text(" " + clipped(m.Sections[i].Identifier) + ": [")
		s.doc(first, 1, false)
		s.text("]")
	}
	if len(s.out) > shapeSize {
		return string(s.out[:shapeSize]) + "…"
	}
	return string(s.out)
}

type shaper struct{ out []byte }

func (s *shaper) text(t string) { s.out = append(s.out, t...) }

func (s *shaper) full() bool { return len(s.out) > shapeSize }

// doc writes a document; of a command the fields that every one has are left out.
func (s *shaper) doc(d wire.Doc, depth int, command bool) {
	s.text("{")
	n := 0
	for it := d.Iter(); it.Next() && !s.full(); {
		switch string(it.Key) {
		case "$db", "lsid", "$clusterTime", "$readPreference":
			if command {
				continue
			}
		}
		if n++; n > 1 {
			s.text(", ")
		}
		s.text(clipped(it.Key) + ": ")
		s.value(it.Value, depth)
	}
	s.text("}")
}

func (s *shaper) value(v wire.Value, depth int) {
	if depth >= shapeDepth {
		s.text(typeText(v.Type))
	} else if d, ok := v.Doc(); ok {
		s.doc(d, depth+1, false)
	} else if a, ok := v.Array(); ok {
		s.array(a, depth+1)
	} else {
		s.text(typeText(v.Type))
	}
}

func (s *shaper) array(a wire.Doc, depth int) {
	n := 0
	s.text("[")
	for it := a.Iter(); it.Next(); n++ {
		if n == 0 {
			s.value(it.Value, depth)
		}
	}
	s.text("]×" + strconv.Itoa(n))
}

func clipped(name []byte) string {
	if len(name) > shapeName {
		return strconv.Quote(string(name[:shapeName])) + "…"
	}
	for _, b := range name {
		if b <= ' ' || b == '"' || b >= 0x7f {
			return strconv.Quote(string(name))
		}
	}
	return string(name)
}

// typeText is a type's name as $type writes it.
func typeText(t bsoncore.Type) string {
	switch t {
	case bsoncore.TypeDouble:
		return "double"
	case bsoncore.TypeString:
		return "string"
	case bsoncore.TypeBinary:
		return "binData"
	case bsoncore.TypeObjectID:
		return "objectId"
	case bsoncore.TypeBoolean:
		return "bool"
	case bsoncore.TypeDateTime:
		return "date"
	case bsoncore.TypeNull:
		return "null"
	case bsoncore.TypeRegex:
		return "regex"
	case bsoncore.TypeInt32:
		return "int"
	case bsoncore.TypeInt64:
		return "long"
	case bsoncore.TypeDecimal128:
		return "decimal"
	}
	return t.String()
}
