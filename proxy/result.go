package proxy

import (
	"cmp"
	"slices"

	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"

	"github.com/smetasc/tenantry/routing"
	"github.com/smetasc/tenantry/wire"
)

// writeResult puts the outcome of a batch together from the replies to its parts.
type writeResult struct {
	any      bool // some part has been answered
	n        int64
	modified int64
	upserted []indexed
	errors   []indexed
	concerns []wire.Doc // writeConcernErrors
	labels   []string   // that drivers retry by
	retried  []int32

	bulk   bool      // of a bulkWrite: its errors are rows of a cursor
	rows   []indexed // those of writes that have not failed
	counts [len(bulkCounts)]int64
}

// indexed is an element of an answer that speaks of one write of the batch.
type indexed struct {
	index int
	doc   wire.Doc
}

// add takes in the reply to a part whose writes had these places in the client's batch.
func (w *writeResult) add(c *clientConn, tr *trip, ops []int) {
	w.any = true
	said := c.telling(tr)
	for it := tr.msg.Body.Iter(); it.Next(); {
		switch string(it.Key) {
		case "n":
			n, _ := it.Value.Int()
			w.n += n
		case "nModified":
			n, _ := it.Value.Int()
			w.modified += n
		case "upserted":
			w.upserted = appendIndexed(w.upserted, it.Value, ops, nil)
		case "writeErrors":
			w.errors = appendIndexed(w.errors, it.Value, ops, said)
		case "writeConcernError":
			w.addConcern(it.Value, said)
		case "errorLabels":
			w.addLabels(it.Value)
		case "retriedStmtIds":
			w.addRetried(it.Value)
		}
	}
}

func (w *writeResult) addConcern(v wire.Value, said func(wire.Doc) wire.Doc) {
	if d, ok := v.Doc(); ok {
		w.concerns = append(w.concerns, said(d))
	}
}

// telling makes what a server has said of writes that failed what the client may be told.
func (c *clientConn) telling(tr *trip) func(wire.Doc) wire.Doc {
	return func(d wire.Doc) wire.Doc {
		names := renamer{target: tr.target, rule: errorTexts}
		if d = names.doc(nil, d, "", 0); c.sealed(tr) {
			d = sealedError(d)
		}
		return d
	}
}

// addRetried takes in the numbers of writes that a server had made before: they are the client's own.
func (w *writeResult) addRetried(v wire.Value) {
	a, _ := v.Array()
	for it := a.Iter(); it.Next(); {
		n, _ := it.Value.Int()
		w.retried = append(w.retried, int32(n))
	}
}

func (w *writeResult) addLabels(v wire.Value) {
	for _, l := range readLabels(v) {
		if !slices.Contains(w.labels, l) {
			w.labels = append(w.labels, l)
		}
	}
}

// readLabels reads the array of a reply's errorLabels.
func readLabels(v wire.Value) (labels []string) {
	a, _ := v.Array()
	for it := a.Iter(); it.Next(); {
		if l, ok := it.Value.Str(); ok {
			labels = append(labels, string(l))
		}
	}
	return labels
}

// appendIndexed appends the elements of an array with the places that they had in the client's batch.
func appendIndexed(to []indexed, v wire.Value, ops []int, said func(wire.Doc) wire.Doc) []indexed {
	a, _ := v.Array()
	for it := a.Iter(); it.Next(); {
		d, _ := it.Value.Doc()
		v, _ := d.Lookup("index")
		k, ok := v.Int()
		if !ok || k < 0 || int(k) >= len(ops) {
			continue
		}
		if said != nil {
			d = said(d)
		}
		to = append(to, indexed{ops[k], reindexed(d, ops[k])})
	}
	return to
}

func reindexed(d wire.Doc, index int) wire.Doc {
	return build(func(out []byte) []byte {
		for it := d.Iter(); it.Next(); {
			if string(it.Key) == "index" {
				out = bsoncore.AppendInt32Element(out, "index", int32(index))
				continue
			}
			out = append(out, d[it.Start:it.End()]...)
		}
		return out
	})
}

// fail notes a write that was refused here.
func (w *writeResult) fail(i int, e *wire.Error) {
	if w.bulk {
		w.failRow(i, e)
		return
	}
	w.errors = append(w.errors, indexed{i, build(func(d []byte) []byte {
		d = bsoncore.AppendInt32Element(d, "index", int32(i))
		d = bsoncore.AppendInt32Element(d, "code", int32(e.Code))
		return bsoncore.AppendStringElement(d, "errmsg", e.Error())
	})})
}

// failAll notes that a part's writes have failed together: of an ordered batch the first, which is
// where it ends.
func (w *writeResult) failAll(ops []int, e *wire.Error, ordered bool) {
	for _, i := range ops {
		w.fail(i, e)
		if ordered {
			return
		}
	}
}

// failed reports whether the write has failed.
func (w *writeResult) failed(i int) bool {
	return slices.ContainsFunc(w.errors, func(e indexed) bool { return e.index == i })
}

// join makes one error of those that several homes have given for one write: the first of them where
// all have the same code, else MultipleErrorsOccurred.
func (w *writeResult) join(i int) {
	var own []indexed
	for _, e := range w.errors {
		if e.index == i {
			own = append(own, e)
		}
	}
	if len(own) < 2 {
		return
	}
	w.errors = slices.DeleteFunc(w.errors, func(e indexed) bool { return e.index == i })
	code, same := codeOf(own[0].doc), true
	for _, e := range own {
		same = same && codeOf(e.doc) == code
	}
	if same {
		w.errors = append(w.errors, own[0])
		return
	}
	w.fail(i, wire.Errorf(wire.MultipleErrorsOccurred, "several databases have refused the write, for different reasons"))
}

// endWithFirst leaves out what was said of the writes behind the first that has failed.
func (w *writeResult) endWithFirst() {
	if len(w.errors) == 0 {
		return
	}
	first := slices.MinFunc(w.errors, func(a, b indexed) int { return cmp.Compare(a.index, b.index) }).index
	behind := func(x indexed) bool { return x.index > first }
	w.errors, w.rows = slices.DeleteFunc(w.errors, behind), slices.DeleteFunc(w.rows, behind)
}

func codeOf(d wire.Doc) wire.Code {
	v, _ := d.Lookup("code")
	n, _ := v.Int()
	return wire.Code(n)
}

// code is what the command's metrics say of it.
func (w *writeResult) code() wire.Code {
	if len(w.errors) == 0 {
		return 0
	}
	return codeOf(w.errors[0].doc)
}

// reply is the answer to the whole batch.
func (w *writeResult) reply(c *clientConn, tx *txn) *wire.Buf {
	byIndex := func(a, b indexed) int { return cmp.Compare(a.index, b.index) }
	slices.SortStableFunc(w.errors, byIndex)
	slices.SortStableFunc(w.upserted, byIndex)
	return c.answerOf(tx, func(d []byte) []byte {
		d = appendNumber(d, "n", w.n)
		if c.req.Cmd.Tenant.Kind == routing.InUpdates {
			d = appendNumber(d, "nModified", w.modified)
		}
		d = appendAll(d, "upserted", w.upserted)
		d = appendAll(d, "writeErrors", shortened(w.errors))
		return w.appendRetried(w.appendConcern(d))
	})
}

func (w *writeResult) appendRetried(d []byte) []byte {
	if len(w.retried) == 0 {
		return d
	}
	slices.Sort(w.retried)
	i, d := bsoncore.AppendArrayElementStart(d, "retriedStmtIds")
	for k, n := range w.retried {
		d = bsoncore.AppendInt32Element(d, itoa(k), n)
	}
	d, _ = bsoncore.AppendArrayEnd(d, i)
	return d
}

// Servers leave the texts of further errors out when those of the first two or more are this long
// (write_ops_exec and write_cmds, kErrorSizeTruncationMin). What the parts of a batch say together may be
// longer still, by the keys that stand beside the texts: behind all that fits an error is its code alone.
const (
	maxTexts  = 1 << 20
	maxErrors = wire.MaxDocument / 2 // 100,000 codes have room in the other half
)

// shortened are the errors as far as a reply can hold them.
func shortened(errors []indexed) []indexed {
	out := slices.Clone(errors)
	texts, size := 0, 0
	for i := range out {
		d := out[i].doc
		v, _ := d.Lookup("errmsg")
		if size += len(d); texts < maxTexts && size < maxErrors || i < 2 {
			texts += len(v.Data)
			continue
		}
		full := size < maxErrors
		out[i].doc = build(func(short []byte) []byte {
			for it := d.Iter(); it.Next(); {
				switch key := string(it.Key); {
				case key == "errmsg":
					short = bsoncore.AppendStringElement(short, key, "")
				case full || key == "index" || key == "code":
					short = append(short, d[it.Start:it.End()]...)
				}
			}
			return short
		})
	}
	return out
}

func appendAll(d []byte, name string, list []indexed) []byte {
	if len(list) == 0 {
		return d
	}
	docs := make([]wire.Doc, len(list))
	for i, x := range list {
		docs[i] = x.doc
	}
	return appendBatch(d, name, docs)
}

// appendConcern appends the first writeConcernError where all have one code, else one that says that there
// are several, and the labels that servers have given to it.
func (w *writeResult) appendConcern(d []byte) []byte {
	other := func(e wire.Doc) bool { return codeOf(e) != codeOf(w.concerns[0]) }
	switch {
	case len(w.concerns) == 0:
		return d
	case !slices.ContainsFunc(w.concerns, other):
		d = bsoncore.AppendDocumentElement(d, "writeConcernError", bsoncore.Document(w.concerns[0]))
	default:
		i, e := bsoncore.AppendDocumentElementStart(d, "writeConcernError")
		e = bsoncore.AppendInt32Element(e, "code", int32(wire.WriteConcernFailed))
		e = bsoncore.AppendStringElement(e, "codeName", wire.WriteConcernFailed.Name())
		e = bsoncore.AppendStringElement(e, "errmsg", "tenantry: the write concern failed in several databases, for different reasons")
		d, _ = bsoncore.AppendDocumentEnd(e, i)
	}
	if len(w.labels) == 0 {
		return d
	}
	i, d := bsoncore.AppendArrayElementStart(d, "errorLabels")
	for k, l := range w.labels {
		d = bsoncore.AppendStringElement(d, itoa(k), l)
	}
	d, _ = bsoncore.AppendArrayEnd(d, i)
	return d
}
