package routing

import (
	"bytes"
	"slices"

	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"

	"github.com/smetasc/tenantry/wire"
)

// Grant is what connections with row isolation may do with a platform collection.
type Grant uint8

// Grants.
const (
	NoGrant  Grant = iota
	OwnRows        // the rows that carry their tenant
	ReadRows       // read all rows
)

// isolation is one command of a connection with row isolation: whatever it says, it sees and changes only
// documents that carry its tenant. That is so in a database of the tenant's own too: a second lock.
//
//	what comes ─▶ inspector: only what is known, nothing that could tell of others by failing
//	           ─▶ the predicate { tenantField: T } in every filter, and before every pipeline
//	           ─▶ fieldGuard: no write gives a document to another tenant
type isolation struct {
	t      *Table
	r      *Request
	tn     *Tenant
	target *Target
	look   inspector
}

// shared reports whether the database has other tenants' documents too.
func (x *isolation) shared() bool { return x.target.Tenant == nil }

// routeRows decides for a connection that belongs to one tenant and whose boundary is the tenant's rows.
func (t *Table) routeRows(r *Request, tn *Tenant, d *Decision) *wire.Error {
	c := r.Cmd
	db := t.byName.find(r.DB)
	switch {
	case c.Route == Home:
		*d = Decision{Action: Forward, Target: t.HomeAny, Tenant: tn}
		return nil
	case len(c.Names) > 0 && c.Names[0].Kind == FullNS:
		return wire.Errorf(wire.Unauthorized, "%s is not allowed on this connection", c.Name)
	case db == nil && string(r.DB) == "admin" && c.Tenant.Kind != InBulkOps:
		return wire.Errorf(wire.Unauthorized, "%s on %q is not allowed on this connection", c.Name, r.DB)
	case db == nil && c.Tenant.Kind != InBulkOps:
		return t.boundNowhere(r, d)
	case c.Tenant.Kind == InInner:
		return t.explainRows(r, tn, d)
	}
	*d = Decision{Tenant: tn, Why: "rows of the connection's tenant"}
	if c.Merge == MergeCollections {
		return t.listRows(r, db, d)
	}
	target, err := t.rowsTarget(r, tn, db)
	if err != nil {
		return err
	}
	if (c.Bound == BoundOwn || c.Bound == BoundOwner) && target.Tenant == nil {
		return wire.Errorf(wire.Unauthorized, "%s is not allowed in a database that other tenants share", c.Name)
	}
	if r.Watches() {
		return t.watchRows(r, tn, target, d)
	}
	if c.Tenant.Kind == InStages {
		segs, err := t.cutRows(r, tn, db, target)
		if err != nil {
			return err
		}
		if len(segs) > 1 {
			d.Action, d.Targets, d.Segments = Scatter, segs[0].Targets, segs
			return nil
		}
	}
	d.Action, d.Target, d.Fit = Forward, target, c.Tenant.Kind != NoTenant
	return nil
}

// rowsTarget is the one database that the command's documents are in.
func (t *Table) rowsTarget(r *Request, tn *Tenant, db *Database) (*Target, *wire.Error) {
	if r.Cmd.Tenant.Kind == InBulkOps {
		return t.bulkTarget(r, tn)
	}
	if r.index[fUUID] != 0 || r.index[fEncryption] != 0 || r.Value.Type == bsoncore.TypeBinary {
		return nil, wire.Errorf(wire.InvalidNamespace, "a collection must be named, and not by UUID or encryption state")
	}
	if r.Value.Type == bsoncore.TypeString {
		if v := r.value(fViewOn); v.Type != 0 {
			return nil, wire.Errorf(wire.Unauthorized, "views are not open to this connection")
		}
		target, err := db.rowsHome(r.Coll(), tn, r.Writes())
		if err == nil {
			err = t.untold(r, db, r.Coll(), target)
		}
		return target, err
	}
	if r.Cmd.Tenant.Kind != InStages {
		return nil, wire.Errorf(wire.Unauthorized, "%s of a whole database is not allowed on this connection", r.Cmd.Name)
	}
	uses, err := r.stages()
	for i := range uses {
		if u := &uses[i]; err == nil && u.coll != nil {
			return db.rowsHome(u.coll, tn, false)
		}
	}
	return db.shared, err // it reads no collection
}

func (t *Table) bulkTarget(r *Request, tn *Tenant) (target *Target, err *wire.Error) {
	if err := r.onlyNamed(); err != nil {
		return nil, err
	}
	err = r.nsInfo(func(p *Place) *wire.Error {
		db := t.byName.find(p.DB)
		if db == nil {
			return notYours(p.DB)
		}
		x, err := db.rowsHome(p.Coll, tn, true)
		if err == nil {
			err = t.untold(r, db, p.Coll, x)
		}
		if err == nil && target != nil && target != x {
			err = wire.Errorf(wire.IllegalOperation, "the collections of this bulkWrite are in several databases; send one for the collections of each")
		}
		target = x
		return err
	})
	if target == nil && err == nil {
		err = wire.Errorf(wire.InvalidNamespace, "bulkWrite needs nsInfo")
	}
	return target, err
}

// onlyNamed refuses a bulkWrite whose namespaces say more than their names, or whose writes could be
// counted against others than a server counts.
func (r *Request) onlyNamed() *wire.Error {
	var entries docs
	entries.of(r, fNsInfo)
	for entries.next() {
		it := entries.doc.Iter()
		if !it.Next() || string(it.Key) != "ns" || it.Next() || it.Err() != nil {
			return wire.Errorf(wire.InvalidNamespace, "an entry of nsInfo must be { ns: \"database.collection\" } and nothing else")
		}
	}
	return nil
}

// rowsHome is the home of a collection's rows that are the tenant's, where the connection may use it.
func (db *Database) rowsHome(name []byte, tn *Tenant, write bool) (*Target, *wire.Error) {
	c, err := db.open(name, write)
	if err != nil {
		return nil, err
	}
	return tn.home(c), nil
}

// open finds a collection that connections with row isolation may use.
func (db *Database) open(name []byte, write bool) (*Collection, *wire.Error) {
	c := db.collection(name)
	switch {
	case c.view != nil || bytes.HasPrefix(name, []byte("system.")) || bytes.IndexByte(name, '$') >= 0:
	case c.Tenant || c.grant == OwnRows || c.grant == ReadRows && !write:
		return c, nil
	}
	return nil, wire.Errorf(wire.Unauthorized, "the collection %q is not open to this connection", name)
}

// pred is the predicate that the rows of a collection are read by; nil where all of them may be.
func (x *isolation) pred(c *Collection) wire.Doc {
	if !c.Tenant && c.grant == ReadRows {
		return nil
	}
	return c.ownedBy(x.tn)
}

// ownedBy is the predicate that a document is the tenant's. A collection may have a collation of its
// own, under which equality finds what differs by case: a regular expression does not.
func (c *Collection) ownedBy(tn *Tenant) wire.Doc {
	values := append([]wire.Value{tn.ID}, tn.aliases...)
	switch {
	case !slices.ContainsFunc(values, func(v wire.Value) bool { return v.Type == bsoncore.TypeString }):
		return c.among(values, true)
	case len(values) > 1:
		return both(c.among(values, true), c.among(values, false))
	}
	return build(func(d []byte) []byte {
		return appendDoc(d, c.field.name, func(d []byte) []byte {
			return appendExact(tn.ID.AppendTo(d, "$eq"), "$regex", tn.ID, false)
		})
	})
}

// explainRows decides for an explain: its plans and counts tell of all documents, so it is of a database
// of the tenant's own only.
func (t *Table) explainRows(r *Request, tn *Tenant, d *Decision) *wire.Error {
	in, err := r.inner()
	switch {
	case err != nil:
		return err
	case in.Cmd == nil || in.unknown != nil || in.Cmd.Tenant.Kind == InInner || in.Cmd.Tenant.Kind == NoTenant || in.Watches():
		return wire.Errorf(wire.CommandNotSupported, "%q can not be explained here", in.Name)
	}
	if err := in.allowed(); err != nil {
		return err
	}
	if err := t.routeRows(in, tn, d); err != nil {
		return err
	}
	if d.Segments != nil {
		return wire.Errorf(wire.IllegalOperation, "explain of a pipeline over several databases is not offered")
	}
	if d.Action == Forward && d.Target.Tenant == nil {
		return wire.Errorf(wire.Unauthorized, "explain is not allowed in a database that other tenants share")
	}
	return nil
}

// watchRows decides for a change stream: one of a collection in the tenant's own database. In shared a
// delete's event would not tell whose it is.
func (t *Table) watchRows(r *Request, tn *Tenant, target *Target, d *Decision) *wire.Error {
	if target.Tenant == nil || r.Value.Type != bsoncore.TypeString {
		return wire.Errorf(wire.Unauthorized, "this connection may watch single collections, in a database of its tenant's own")
	}
	x := isolation{t: t, r: r, tn: tn, target: target}
	if err := x.watched(); err != nil {
		return err
	}
	return t.watchOwn(r, target, "a collection of the connection's tenant", d)
}

// watched looks at the stages of a change stream.
func (x *isolation) watched() *wire.Error {
	a, _ := x.r.value(fPipeline).Array()
	for it := a.Iter(); it.Next(); {
		d, _ := it.Value.Doc()
		for st := d.Iter(); st.Next(); {
			row := stages[string(st.Key)]
			switch {
			case row == nil || row.Rows == RowsDeny && row.Class != Change:
				return notOpen(st.Key)
			case row.Rows == RowsFilter:
				q, _ := st.Value.Doc()
				if err := x.look.filter(q, 0); err != nil {
					return err
				}
			case row.Rows != RowsAllow && row.Class != Change:
				return wire.Errorf(wire.IllegalOperation, "%s is not possible in a change stream", row.Name)
			default:
				if err := x.look.expression(st.Value, 0); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// listRows lists the collections that the connection may use: of shared and of the tenant's own
// database. The filter may be about names and types alone, since definitions may name tenants.
func (t *Table) listRows(r *Request, db *Database, d *Decision) *wire.Error {
	filter, _ := r.value(fFilter).Doc()
	for it := filter.Iter(); it.Next(); {
		if key := string(it.Key); key != "name" && key != "type" {
			return wire.Errorf(wire.Unauthorized, "listCollections may be filtered by name and type only on this connection")
		}
	}
	d.Action, d.Targets = EachOf, []*Target{db.shared}
	if d.Tenant.set != nil {
		d.Targets = append(d.Targets, d.Tenant.targets[db.num])
	}
	return nil
}

// Shows reports whether a connection may learn that the collection is there, in the database that is the
// target's. A connection that is not isolated by rows may learn of all.
func (t *Table) Shows(r *Request, target *Target, name []byte) bool {
	if !r.Bound.Rows() {
		return true
	}
	db := t.byName.find([]byte(target.Logical))
	tn := t.byKey[r.Bound.Key]
	home, err := db.rowsHome(name, tn, false)
	return err == nil && home == target
}

// ownedOrNew is ownedBy for the filter of an upsert. Of an equality a server makes a field of the new
// document, and refuses two of one field; of these it makes none.
func (c *Collection) ownedOrNew(tn *Tenant) wire.Doc {
	if len(tn.aliases) > 0 {
		return c.among(append([]wire.Value{tn.ID}, tn.aliases...), false)
	}
	return build(func(d []byte) []byte {
		if tn.ID.Type == bsoncore.TypeString {
			return appendDoc(d, c.field.name, func(d []byte) []byte { return appendExact(d, "$regex", tn.ID, false) })
		}
		return appendDoc(d, "$expr", func(d []byte) []byte {
			return appendArray(d, "$eq", func(d []byte) []byte {
				d = bsoncore.AppendStringElement(d, "0", "$"+c.field.name)
				return appendDoc(d, "1", func(d []byte) []byte { return tn.ID.AppendTo(d, "$literal") })
			})
		})
	})
}

// Owned reports whether documents of a collection carry the tenant that a connection is bound to.
func (t *Table) Owned(b *Binding, db, coll []byte) bool {
	d := t.byName.find(db)
	if d == nil {
		return false
	}
	c := d.collection(coll)
	return c.Tenant || b.Rows() && c.grant == OwnRows
}

// Foreign reports whether a document of an owned collection carries another tenant than the connection
// is bound to, or several.
func (t *Table) Foreign(b *Binding, db, coll []byte, doc wire.Doc) bool {
	c := t.byName.find(db).collection(coll)
	v, found, err := c.field.documentTenant(doc)
	return err != nil || found && t.byValue.find(v) != t.byKey[b.Key]
}

// Rows reports whether the boundary is the tenant's rows; b may be nil.
func (b *Binding) Rows() bool { return b != nil && !b.Database }
