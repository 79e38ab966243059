package routing

import (
	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"

	"github.com/smetasc/tenantry/wire"
)

// A pipeline of a connection with row isolation may join collections of two databases: the tenant's own, and
// shared with what [platform.bound] opens of it. It is cut before each stage of its own that reads the other
// one. Each part is narrowed as a whole pipeline is, by the database that it runs in: so each collection is
// read through its predicate, and what goes from part to part are documents that the connection may see.

// cutRows plans a pipeline whose stages read another database than its collection's; nil where none does, or
// where it can not be cut: then it is refused by what narrows it.
func (t *Table) cutRows(r *Request, tn *Tenant, db *Database, target *Target) ([]Segment, *wire.Error) {
	uses, malformed := r.stages()
	if r.Value.Type != bsoncore.TypeString || r.value(fExplain).True() || !db.leaves(uses, tn, target) {
		return nil, nil
	}
	if malformed != nil {
		return nil, malformed
	}
	x := &isolation{t: t, r: r, tn: tn, target: target}
	if err := x.options(); err != nil {
		return nil, err
	}
	if err := x.stagesName(); err != nil {
		return nil, err
	}
	p := cutter{narrowing: narrowing{isolation: x, db: db, pred: x.pred(x.coll())}}
	p.begin(target, r.Coll())
	a, _ := r.value(fPipeline).Array()
	it := a.Iter()
	for it.Next() {
		if err := p.next(it.Value); err != nil {
			return nil, err
		}
	}
	p.end()
	return p.segs, whole(it)
}

// leaves reports whether some stage reads an open collection that is elsewhere.
func (db *Database) leaves(uses []stageUse, tn *Tenant, target *Target) bool {
	for i := range uses {
		if u := &uses[i]; u.coll != nil && u.row != nil && u.row.Rows == RowsJoin {
			if c, err := db.open(u.coll, false); err == nil && tn.home(c) != target {
				return true
			}
		}
	}
	return false
}

// cutter narrows a pipeline part by part.
type cutter struct {
	narrowing
	segs []Segment
}

// begin begins a part at the target; its documents are the collection's, or those that are brought where
// there is none.
func (p *cutter) begin(target *Target, coll []byte) {
	p.target, p.out, p.n = target, nil, 0
	p.segs = append(p.segs, Segment{Targets: []*Target{target}, Coll: coll, Reads: true})
}

// end gives the part its stages.
func (p *cutter) end() {
	for rest := p.out; len(rest) > 0; {
		e, more, ok := bsoncore.ReadElement(rest)
		if !ok {
			panic("routing: a narrowed pipeline is malformed") // it was made here
		}
		s := &p.segs[len(p.segs)-1]
		s.Stages, rest = append(s.Stages, wire.Doc(e.Value().Data)), more
	}
}

// next takes one stage of the pipeline over.
func (p *cutter) next(v wire.Value) *wire.Error {
	d, _ := v.Doc()
	var w walker
	if err := w.stage(d, 0, 0); err != nil {
		return err
	}
	row := rowOf(d)
	if home := p.homeOf(w.uses); home != nil && home != p.target && row != nil && row.Rows == RowsJoin {
		if p.n == 0 && p.pred != nil {
			p.match(p.pred)
		}
		p.end()
		p.begin(home, nil)
		p.pred = nil // what comes has been narrowed
	}
	if len(p.segs) == 1 {
		return p.stage(v)
	}
	switch {
	case row == nil || row.Rows == RowsDeny: // see stage
	case row.Lead != Follows && row.Rows != RowsFilter:
		return wire.Errorf(wire.IllegalOperation, "%s must be the first stage of its pipeline", row.Name)
	case row.Class == Output:
		return wire.Errorf(wire.IllegalOperation, "%s is not offered of what two databases bring together; read it and write it by two commands", row.Name)
	case readsMeta(d, 0):
		return wire.Errorf(wire.IllegalOperation, "the pipeline reads $meta behind a stage that joins a collection of another database, where it is lost; "+
			"put it into a field by $addFields before")
	}
	return p.stage(v)
}

// homeOf is the one database where all collections are that a stage reads; nil for none, or for several.
func (p *cutter) homeOf(uses []stageUse) (home *Target) {
	for i := range uses {
		u := &uses[i]
		if u.coll == nil {
			continue
		}
		c, err := p.db.open(u.coll, false)
		if err != nil {
			return nil // it is refused where it is narrowed
		}
		at := p.tn.home(c)
		if home != nil && home != at {
			return nil
		}
		home = at
	}
	return home
}
