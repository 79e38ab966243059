package routing

import (
	"bytes"

	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"

	"github.com/smetasc/tenantry/wire"
)

// serverColls are collections, by database and name, in which every cluster has affairs of its own, under
// names that clients do not know: no one cluster's tell of all while tenants have databases of their own.
var serverColls = map[string]map[string]Refusal{
	"local": {"oplog.rs": noOplog, "oplog.$main": noOplog},
}

var noOplog = refusal(wire.IllegalOperation, "each cluster has an oplog of its own, of databases that clients can not name; open a change stream, or dump without --oplog")

// ofServers refuses one of [serverColls].
func (t *Table) ofServers(db, coll []byte) *wire.Error {
	if no, ok := serverColls[string(db)][string(coll)]; ok && !t.Plain {
		return wire.Errorf(no.Code, "%s.%s: %s", db, coll, no.Text)
	}
	return nil
}

// touches reports whether any namespace that the request names has documents outside shared, or
// may have before the next table. It refuses names of databases that no client may use.
func (t *Table) touches(r *Request, db *Database) (bool, *wire.Error) {
	if r.Cmd == nil {
		return t.touchesAnywhere(r, db)
	}
	if len(r.Cmd.Names) == 0 {
		return t.touchesDB(r, db), nil
	}
	touched := false
	for _, n := range r.Cmd.Names {
		hit, err := t.touchesAt(r, db, n)
		if err != nil {
			return false, err
		}
		touched = touched || hit
	}
	return touched, nil
}

func (t *Table) touchesAt(r *Request, db *Database, n NameLoc) (bool, *wire.Error) {
	switch n.Kind {
	case CollOfDB, SideColl:
		v := r.Value
		if n.Path != "" {
			f, ok := r.field(idOf(n.Path))
			if !ok {
				return false, nil
			}
			v = f.Value
		}
		return t.touchesColl(r, db, v)
	case InPipeline:
		return t.touchesPipeline(r, db)
	case Inner:
		return t.touchesInner(r, db)
	case OutputColl:
		out, _, err := t.output(r, db, n)
		return out != nil && out.touched(), err
	case Anywhere:
		return t.touchesAnywhere(r, db)
	}
	touched := false
	err := r.places(n, func(p *Place) *wire.Error {
		if t.hidden(p.DB) && t.byName.find(p.DB) == nil {
			return wire.Errorf(wire.InvalidNamespace, "the database %q can not be used", p.DB)
		}
		if o := t.byName.find(p.DB); o != nil {
			c := o.named(r, p.Coll)
			touched = touched || c.touched()
		}
		return nil
	})
	return touched, err
}

// touchesDB is touches for a command of a whole database, or of the server.
func (t *Table) touchesDB(r *Request, db *Database) bool {
	return !t.Plain && (db != nil && db.touched() || string(r.DB) == "admin")
}

// touchesAnywhere is touches for a command of which no more is known than how others name namespaces: it may
// be applyOps, which writes anywhere.
func (t *Table) touchesAnywhere(r *Request, db *Database) (bool, *wire.Error) {
	a := anyNames{t: t, touched: t.touchesDB(r, db)}
	if s, ok := r.Value.Str(); ok && (r.Cmd == nil || !r.Cmd.Users) {
		name, _, _ := bytes.Cut(s, []byte("."))
		a.database(name, t.secret(string(bytes.ToLower(name))))
	}
	a.values(wire.Value{Type: bsoncore.TypeEmbeddedDocument, Data: r.Msg.Body}, 0)
	for i := range r.Msg.Sections {
		for rest, ok := r.Msg.Sections[i].Docs, true; ok && len(rest) > 0; {
			var d wire.Doc
			d, rest, ok = wire.NextDoc(rest)
			a.values(wire.Value{Type: bsoncore.TypeEmbeddedDocument, Data: d}, 0)
		}
	}
	return a.touched, a.err
}

// anyNames goes through all of a command.
type anyNames struct {
	t       *Table
	touched bool
	err     *wire.Error
}

// maxDepth is deeper than any server reads.
const maxDepth = 256

func (a *anyNames) values(v wire.Value, depth int) {
	d, ok := v.AnyDoc()
	op, _ := d.Lookup("op")
	kind, _ := op.Str()
	stores := len(kind) == 1 && kind[0] != 'c' // an entry of applyOps with a document in it, and no command
	for it := d.Iter(); ok && depth < maxDepth && it.Next(); {
		switch string(it.Key) {
		case "ns", "to", "from", "db", "$db", "namespace", "renameCollection", "fromdb", "todb", "tempUsersCollection", "tempRolesCollection":
			if s, isString := it.Value.Str(); isString {
				name, _, _ := bytes.Cut(s, []byte("."))
				a.database(name, a.t.secret(string(bytes.ToLower(name))))
			}
		case "ui": // a collection by its UUID, whichever that is
			a.touched = a.touched || !a.t.Plain
		case "o", "o2":
			if stores {
				continue
			}
		}
		a.values(it.Value, depth+1)
	}
}

func (a *anyNames) database(name []byte, hidden bool) {
	db := a.t.byName.find(name)
	a.touched = a.touched || db != nil && db.touched()
	if db == nil && hidden && a.err == nil {
		a.err = wire.Errorf(wire.InvalidNamespace, "the database %q can not be used", name)
	}
}

// named is the collection that the request names. Whether the table knows of it is noted: another proxy
// may have made a view of the name since, or, what matters to a definition, a collection of a view's name.
func (db *Database) named(r *Request, name []byte) *Collection {
	c := db.collection(name)
	if !c.known && db.known != nil && db.touched() && (c.view == nil && !db.known[string(name)] || c.view != nil && r.Cmd.Views) {
		r.strangers = true
	}
	return c
}

func (t *Table) touchesColl(r *Request, db *Database, v wire.Value) (bool, *wire.Error) {
	name, ok := v.Str()
	switch {
	case ok && db != nil:
		c := db.named(r, name)
		return c.touched() || db.touched() && bytes.HasPrefix(name, []byte("system.")), nil
	case ok:
		return false, t.ofServers(r.DB, name)
	case v.Type == bsoncore.TypeBinary && (db != nil && db.touched() || !t.Plain && serverColls[string(r.DB)] != nil):
		return false, wire.Errorf(wire.InvalidNamespace, "a collection must be named by a string, not by its UUID")
	}
	return db != nil && db.touched() || db == nil && !t.Plain && string(r.DB) == "admin", nil
}

func (t *Table) touchesPipeline(r *Request, db *Database) (touched bool, err *wire.Error) {
	uses, err := r.stages()
	for i := range uses {
		u := &uses[i]
		switch {
		case u.row != nil && u.row.Class == Internal && !t.Plain:
			return false, notOfClients(u.name)
		case u.row == nil || u.coll == nil:
			continue
		}
		o, name := db, r.DB
		if u.db.DB != nil {
			name = u.db.DB
			if o = t.byName.find(u.db.DB); o == nil && t.hidden(u.db.DB) {
				return false, wire.Errorf(wire.InvalidNamespace, "the database %q can not be used", u.db.DB)
			}
		}
		if o != nil {
			c := o.named(r, u.coll)
			touched = touched || c.touched()
		} else if err := t.ofServers(name, u.coll); err != nil {
			return false, err
		}
	}
	return touched, err
}

// output is the collection that a command's result goes to, nil for one of no logical database; false
// where it goes to none.
func (t *Table) output(r *Request, db *Database, n NameLoc) (*Collection, bool, *wire.Error) {
	v := r.value(idOf(n.Path))
	if d, ok := v.Doc(); ok {
		v = wire.Value{}
		for it := d.Iter(); it.Next(); {
			switch string(it.Key) {
			case "replace", "merge", "reduce":
				v = it.Value
			case "db":
				name, _ := it.Value.Str()
				if db = t.byName.find(name); db == nil && t.hidden(name) {
					return nil, false, wire.Errorf(wire.InvalidNamespace, "the database %q can not be used", name)
				}
			}
		}
	}
	name, ok := v.Str()
	if !ok || db == nil {
		return nil, ok, nil
	}
	return db.collection(name), true, nil
}

// places calls yield for every place of the kind that names a whole namespace.
func (r *Request) places(n NameLoc, yield func(*Place) *wire.Error) *wire.Error {
	switch n.Kind {
	case FullNS:
		v, at := r.Value, r.ValueAt
		if n.Path != "" {
			f, ok := r.field(idOf(n.Path))
			if !ok {
				return nil
			}
			v, at = f.Value, f.At
		}
		p := Place{At: at, Len: len(v.Data), Full: true}
		p.pushBody(r)
		return p.ofString(v, yield)
	case NSInfo:
		return r.nsInfo(yield)
	}
	return nil
}

// nsInfo calls yield for the namespaces of a bulkWrite.
func (r *Request) nsInfo(yield func(*Place) *wire.Error) *wire.Error {
	var entries docs
	entries.of(r, fNsInfo)
	for entries.next() {
		it := entries.doc.Iter()
		for it.Next() {
			if string(it.Key) != "ns" {
				continue
			}
			p := Place{At: entries.at + it.At, Len: len(it.Value.Data), Full: true}
			if f, ok := r.field(fNsInfo); ok {
				p.pushBody(r)
				p.push(f.At)
			} else {
				p.push(r.section(fNsInfo).Start + 1)
			}
			p.push(entries.at)
			if err := p.ofString(it.Value, yield); err != nil {
				return err
			}
		}
	}
	return nil
}

func (p *Place) ofString(v wire.Value, yield func(*Place) *wire.Error) *wire.Error {
	s, ok := v.Str()
	if !ok {
		return wire.Errorf(wire.InvalidNamespace, "a namespace must be a string")
	}
	db, coll, ok := bytes.Cut(s, []byte("."))
	if !ok || !validDB(db) {
		return wire.Errorf(wire.InvalidNamespace, "%q is no namespace", s)
	}
	p.DB, p.Coll = db, coll
	return yield(p)
}

// inner is the command inside of an explain, as a request of its own.
func (r *Request) inner() (*Request, *wire.Error) {
	d, ok := r.Value.Doc()
	if !ok {
		return nil, wire.Errorf(wire.FailedToParse, "explain needs a command as a document")
	}
	in := &Request{Bound: r.Bound, Unlisted: r.Unlisted}
	in.outerAt = r.Msg.BodyAt
	msg := &wire.Message{Header: r.Msg.Header, Frame: r.Msg.Frame, Body: d, BodyAt: r.ValueAt}
	if err := in.parse(msg, r.DB); err != nil {
		return nil, err
	}
	if !bytes.Equal(in.DB, r.DB) {
		return nil, wire.Errorf(wire.InvalidNamespace, "the explained command's $db differs from the explain's own")
	}
	return in, nil
}

func (t *Table) touchesInner(r *Request, db *Database) (bool, *wire.Error) {
	in, err := r.inner()
	switch {
	case err != nil && t.Plain:
		return false, nil // a server says what is wrong with it
	case err != nil:
		return false, err
	case in.Cmd != nil && in.Cmd.Tenant.Kind == InInner:
		return !t.Plain, nil // nobody explains it
	}
	touched, err := t.touches(in, db)
	r.strangers = r.strangers || in.strangers
	return touched, err
}

// explain routes as the command that is explained.
func (t *Table) explain(r *Request, db *Database, d *Decision) *wire.Error {
	in, err := r.inner()
	if err != nil {
		return err
	}
	if in.Cmd == nil || in.Cmd.Route != ByTenant || in.Cmd.Tenant.Kind == InInner {
		return wire.Errorf(wire.CommandNotSupported, "%q can not be explained here", in.Name)
	}
	if in.unknown != nil {
		return wire.Errorf(wire.UnknownField, "field %q of %s is unknown", in.unknown, in.Cmd.Name)
	}
	if err := t.byRow(in, db, d); err != nil {
		return err
	}
	switch {
	case d.Action == Expand:
		d.Expanded = &Expanded{Command: r.explaining(d.Expanded.Command)}
		return nil
	case d.Action == Split:
		t.explainWrite(in, d)
		return nil
	case d.Action == Follow:
		return wire.Errorf(wire.IllegalOperation, "explain of a change stream over several databases is not offered; %s", addTenant)
	}
	d.Fit = d.Fit || d.Action == Scatter
	return nil
}

// explainWrite decides for the plan of what would be split: that of each home which the write may be at.
// Servers plan one write at a time, and refuse several.
func (t *Table) explainWrite(in *Request, d *Decision) {
	d.Targets = d.Targets[:1]
	if ops, whole := t.Ops(in, d.Coll); whole && len(ops) == 1 {
		op := &ops[0]
		d.Targets, d.Coll = t.Plan(in, op).Targets, op.Coll
		d.Scope, d.Fit = op.Scope, true
	}
	if d.Action = Scatter; len(d.Targets) == 1 {
		d.Action, d.Target, d.Targets = Forward, d.Targets[0], nil
	}
}

// Rename adds to the patch what makes the request name the target's database instead of the
// logical one that the client named.
func (t *Table) Rename(r *Request, target *Target, p *wire.Patch) *wire.Error {
	if target.Logical == "" || target.DB == target.Logical {
		return nil
	}
	return t.rename(r, target, p)
}

func (t *Table) rename(r *Request, target *Target, p *wire.Patch) *wire.Error {
	if r.DBAt >= 0 && string(r.DB) == target.Logical {
		var db Place
		db.pushBody(r)
		p.Replace(r.DBAt, 4+len(r.DB)+1, target.dbValue, db.inside[:db.depth]...)
	}
	if r.Cmd == nil {
		return nil
	}
	for _, n := range r.Cmd.Names {
		if err := t.renameAt(r, n, target, p); err != nil {
			return err
		}
	}
	return nil
}

func (t *Table) renameAt(r *Request, n NameLoc, target *Target, p *wire.Patch) *wire.Error {
	switch n.Kind {
	case FullNS, NSInfo:
		return r.places(n, func(pl *Place) *wire.Error { return t.renamePlace(pl, target, p) })
	case Inner:
		in, err := r.inner()
		if err != nil {
			return err
		}
		return t.rename(in, target, p)
	case InPipeline:
		if r.Bound.Rows() {
			return nil // it is made anew, and names no database
		}
		uses, err := r.stages()
		for i := range uses {
			if u := &uses[i]; u.db.DB != nil && err == nil {
				err = t.renamePlace(&u.db, target, p)
			}
		}
		return err
	}
	return nil
}

// renamePlace replaces the database at one place by the target's tenant's own for it.
func (t *Table) renamePlace(pl *Place, target *Target, p *wire.Patch) *wire.Error {
	db := t.byName.find(pl.DB)
	if db == nil || target.Tenant == nil {
		return wire.Errorf(wire.InvalidNamespace, "the database %q can not be used here", pl.DB)
	}
	if pl.depth > len(pl.inside) {
		return wire.Errorf(wire.BadValue, "a database is named in too deep a pipeline")
	}
	own := target.Tenant.targets[db.num]
	with := own.dbValue
	if pl.Full {
		with = wire.StringValue(own.DB + "." + string(pl.Coll)).Data
	}
	p.Replace(pl.At, pl.Len, with, pl.inside[:pl.depth]...)
	return nil
}
