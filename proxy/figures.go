package proxy

import (
	"strings"

	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"

	"github.com/smetasc/tenantry/routing"
	"github.com/smetasc/tenantry/wire"
)

// figures puts together what several homes tell of a collection or database: sizes and counts are
// summed; how many collections and indexes there are shared tells, which has all of them; what
// describes one server's storage is left out. What a move has left in shared is counted where it is.
func (c *clientConn) figures(t *routing.Table, d *routing.Decision, tx *txn) (*wire.Buf, *wire.Error) {
	parts := c.scatter(c.spread(t, d, tx), tx)
	defer free(parts)
	var all []wire.Doc
	names := renamer{rule: rowNames}
	for i := range parts {
		switch p := &parts[i]; {
		case p.err == nil && p.tr.facts.ok:
			if all == nil {
				names.target = p.tr.target
			}
			all = append(all, p.tr.msg.Body)
		case p.err != nil || !settled(p.tr.facts.code) || i == len(parts)-1 && all == nil:
			return c.pick(parts, i)
		}
	}
	return c.answerOf(tx, func(out []byte) []byte { return appendFigures(out, all, &names) }), nil
}

// appendFigures appends the fields of the first document, with the others' added to them.
func appendFigures(out []byte, all []wire.Doc, names *renamer) []byte {
	for it := all[0].Iter(); it.Next(); {
		key := string(it.Key)
		switch v := it.Value; {
		case generic(key) || key == "wiredTiger" || key == "indexDetails" || key == "host" || key == "shards":
		case key == "avgObjSize":
			out = appendAverage(out, all)
		case v.IsNumber() && summed(key):
			out = appendSum(out, key, all)
		case key == "valid":
			out = bsoncore.AppendBooleanElement(out, key, everywhereTrue(all, key))
		case key == "errors" || key == "warnings":
			out = appendJoined(out, key, all)
		case key == "indexSizes" || key == "keysPerIndex":
			out = appendSums(out, key, all)
		case key == "ns":
			s, _ := v.Str()
			out = bsoncore.AppendStringElement(out, key, renameText(string(s), names.target))
		default:
			out = v.AppendTo(out, key)
		}
	}
	return out
}

// generic reports whether a field belongs to the reply and not to what it tells.
func generic(key string) bool {
	return key == "ok" || key == "operationTime" || strings.HasPrefix(key, "$")
}

// summed reports whether a figure is one of several databases together.
func summed(key string) bool {
	switch key {
	case "scaleFactor", "nindexes", "nIndexes", "indexes", "collections", "views", "fsUsedSize", "fsTotalSize", "maxSize", "max":
		return false
	}
	return true
}

// sum is the sum of the field in all documents; whole says that it is a whole number in each.
func sum(all []wire.Doc, path ...string) (f float64, n int64, whole bool) {
	whole = true
	for _, d := range all {
		v := at(d, path...)
		switch k, ok := v.Int(); {
		case ok && v.Type != bsoncore.TypeDouble:
			n, f = n+k, f+float64(k)
		case v.Type == bsoncore.TypeDouble:
			x, _, _ := bsoncore.ReadDouble(v.Data)
			f, whole = f+x, false
		}
	}
	return f, n, whole
}

// at is the value at a path.
func at(d wire.Doc, path ...string) (v wire.Value) {
	for _, key := range path {
		v, _ = d.Lookup(key)
		d, _ = v.Doc()
	}
	return v
}

func appendSum(out []byte, key string, all []wire.Doc, path ...string) []byte {
	f, n, whole := sum(all, append(path, key)...)
	if whole {
		return appendNumber(out, key, n)
	}
	return bsoncore.AppendDoubleElement(out, key, f)
}

func appendAverage(out []byte, all []wire.Doc) []byte {
	size, _, _ := sum(all, "size")
	count, _, _ := sum(all, "count")
	if _, ok := all[0].Lookup("objects"); ok { // dbStats
		size, _, _ = sum(all, "dataSize")
		count, _, _ = sum(all, "objects")
	}
	if count == 0 {
		return appendNumber(out, "avgObjSize", 0)
	}
	return bsoncore.AppendDoubleElement(out, "avgObjSize", size/count)
}

// appendSums appends a document of figures by name.
func appendSums(out []byte, key string, all []wire.Doc) []byte {
	i, out := bsoncore.AppendDocumentElementStart(out, key)
	seen := map[string]bool{}
	for _, d := range all {
		sub, _ := at(d, key).Doc()
		for it := sub.Iter(); it.Next(); {
			if name := string(it.Key); !seen[name] {
				seen[name] = true
				out = appendSum(out, name, all, key)
			}
		}
	}
	out, _ = bsoncore.AppendDocumentEnd(out, i)
	return out
}

func everywhereTrue(all []wire.Doc, key string) bool {
	for _, d := range all {
		if v, ok := d.Lookup(key); ok && !v.True() {
			return false
		}
	}
	return true
}

func appendJoined(out []byte, key string, all []wire.Doc) []byte {
	i, out := bsoncore.AppendArrayElementStart(out, key)
	n := 0
	for _, d := range all {
		a, _ := at(d, key).Array()
		for it := a.Iter(); it.Next(); n++ {
			out = it.Value.AppendTo(out, itoa(n))
		}
	}
	out, _ = bsoncore.AppendArrayEnd(out, i)
	return out
}
