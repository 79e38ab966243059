package control

import (
	"bytes"
	"cmp"
	"context"
	"hash/maphash"
	"slices"
	"strings"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"

	"github.com/smetasc/tenantry/config"
	"github.com/smetasc/tenantry/wire"
)

// row is one document of the tenants collection.
type row struct {
	id      tenantID
	value   wire.Value
	key     string
	mode    string // modeShared, modeOwn, or "" for no word
	oddMode string // a mode that is neither, as text
	problem string // why the row can not be used; "" where it can
}

// name is what the row is called in a problem.
func (w *row) name() string {
	return cmp.Or(w.key, shown(w.value))
}

// readRow takes the three fields from a document.
func readRow(doc wire.Doc, from *config.TenantsCollection) row {
	var w row
	v, found := lookupPath(doc, from.ID)
	w.value = cloned(v)
	if w.id = idOf(v); w.id == "" {
		w.problem = "its id is " + shown(v) + ", which no tenant field is compared with; ids are strings, ObjectIds, UUIDs and whole numbers"
		if !found {
			w.problem = "it has no field " + from.ID
		}
	}
	k, _ := lookupPath(doc, from.Key)
	w.key = valueText(k)
	m, _ := lookupPath(doc, from.Mode)
	switch text := valueText(m); {
	case text == modeShared || text == modeOwn:
		w.mode = text
	case m.Type != 0 && m.Type != bsoncore.TypeNull && text != "":
		w.oddMode = m.String()
	}
	return w
}

// lookupPath finds a dotted field; arrays on the way are not searched.
func lookupPath(doc wire.Doc, path string) (wire.Value, bool) {
	for {
		name, rest, deeper := strings.Cut(path, ".")
		v, ok := doc.Lookup(name)
		if !ok || !deeper {
			return v, ok
		}
		if doc, ok = v.Doc(); !ok {
			return wire.Value{}, false
		}
		path = rest
	}
}

// rows is what one reading of the tenants collection gave.
type rows struct {
	all    []row
	digest uint64 // of the documents, so that an unchanged list is seen without taking it apart
}

// list is the rows in the order of their ids; none of a collection that is not configured.
func (r *rows) list() []row {
	if r == nil {
		return nil
	}
	return r.all
}

var digestSeed = maphash.MakeSeed()

// readRows reads the tenants collection. Where its digest is before's, before is returned.
func readRows(ctx context.Context, c cluster, from *config.TenantsCollection, before *rows) (*rows, error) {
	if from == nil {
		return nil, nil
	}
	var docs []wire.Doc
	var h maphash.Hash
	h.SetSeed(digestSeed)
	err := each(ctx, c, from.Database, bson.D{
		{Key: "find", Value: from.Name},
		{Key: "filter", Value: bson.D{}},
		{Key: "projection", Value: projection(from)},
		{Key: "batchSize", Value: int32(5000)},
	}, func(doc wire.Doc) error {
		_, _ = h.Write(doc)
		docs = append(docs, doc)
		return nil
	})
	if err != nil {
		return nil, err
	}
	read := &rows{digest: h.Sum64()}
	if before != nil && before.digest == read.digest && len(before.all) == len(docs) {
		return before, nil
	}
	read.all = make([]row, len(docs))
	for i, doc := range docs {
		read.all[i] = readRow(doc, from)
	}
	slices.SortFunc(read.all, func(a, b row) int {
		return cmp.Or(cmp.Compare(a.id, b.id), cmp.Compare(a.key, b.key), bytes.Compare(a.value.Data, b.value.Data))
	})
	return read, nil
}

// projection asks for the three fields alone; where one holds another, for the outer one.
func projection(from *config.TenantsCollection) bson.D {
	fields := []string{from.ID, from.Key, from.Mode}
	slices.Sort(fields)
	fields = slices.Compact(fields)
	d := bson.D{}
	for _, f := range fields {
		inside := slices.ContainsFunc(fields, func(outer string) bool { return strings.HasPrefix(f, outer+".") })
		if !inside {
			d = append(d, bson.E{Key: f, Value: int32(1)})
		}
	}
	return d
}

// findRow reads one tenant by its id; nil where the collection has none.
func findRow(ctx context.Context, c cluster, from *config.TenantsCollection, id wire.Value) (*row, error) {
	var found *row
	err := each(ctx, c, from.Database, bson.D{
		{Key: "find", Value: from.Name},
		{Key: "filter", Value: bson.D{{Key: from.ID, Value: toRaw(id)}}},
		{Key: "projection", Value: projection(from)},
		{Key: "limit", Value: 1},
		{Key: "singleBatch", Value: true},
	}, func(doc wire.Doc) error {
		w := readRow(doc, from)
		found = &w
		return nil
	})
	if found != nil && (found.id != idOf(id) || found.problem != "") {
		return nil, err // an array that contains it, or a collation that takes it for equal
	}
	return found, err
}
