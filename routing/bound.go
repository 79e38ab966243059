package routing

import (
	"github.com/smetasc/tenantry/wire"
)

// routeBound decides for a connection that belongs to one tenant.
func (t *Table) routeBound(r *Request, d *Decision) *wire.Error {
	c := r.Cmd
	if c != nil && c.Access == None && c.Bound == BoundLocal {
		*d = Decision{Action: Answer}
		return nil
	}
	if c == nil {
		return wire.Errorf(wire.CommandNotFound, "no such command: %q", r.Name)
	}
	tn := t.byKey[r.Bound.Key]
	if r.Waits(tn) {
		*d = Decision{Action: Hold, Held: tn.ID, Tenant: tn, Why: "the tenant's route is not settled"}
		return nil
	}
	if err := t.boundary(r, tn); err != nil {
		return err
	}
	if err := r.allowed(); err != nil {
		return err
	}
	if r.unknown != nil {
		return wire.Errorf(wire.UnknownField, "field %q of %s is unknown", r.unknown, c.Name)
	}
	if name := r.unknownSection(); name != nil {
		return wire.Errorf(wire.UnknownField, "the document sequence %q of %s is unknown", name, c.Name)
	}
	switch {
	case c.Bound == BoundLocal:
		*d = Decision{Action: Answer, Tenant: tn}
		return nil
	case c.Route == ByCursor:
		*d = Decision{Action: AtCursor, Tenant: tn}
		return nil
	case c.Route == ByTxn:
		*d = Decision{Action: AtTxn, Tenant: tn}
		return nil
	case c.Route == EachCluster:
		*d = Decision{Action: Clusters, Tenant: tn}
		return nil
	case r.Bound.Rows():
		return t.routeRows(r, tn, d)
	}
	return t.routeOwn(r, tn, d)
}

// Reach is the clusters that the commands of a connection which is bound to the tenant go to: its own, and
// the home of what is shared.
func (t *Table) Reach(tn *Tenant) []string {
	names := []string{t.HomeAny.Cluster}
	if r := tn.Route(); r != nil && r.Cluster != names[0] {
		names = append(names, r.Cluster)
	}
	return names
}

// unknownSection is a document sequence that is not of the command's writes. A server that takes it for a
// field of the body would read what nothing here has looked at.
func (r *Request) unknownSection() []byte {
	for i := range r.Msg.Sections {
		name := r.Msg.Sections[i].Identifier
		switch r.Cmd.Tenant.Kind {
		case InDocuments, InUpdates, InDeletes, InBulkOps:
			if string(name) == r.Cmd.Batch() || r.Cmd.Tenant.Kind == InBulkOps && string(name) == fieldNames[fNsInfo] {
				continue
			}
		}
		return name
	}
	return nil
}

// routeOwn decides for a connection whose boundary is the tenant's own database: names are mapped,
// nothing is injected, and what looks beyond is refused.
func (t *Table) routeOwn(r *Request, tn *Tenant, d *Decision) *wire.Error {
	if r.Cmd.Drops && !t.allowDrop {
		return wire.Errorf(wire.IllegalOperation, "%s would drop the tenant's database; set allow_drop_database = true in [routing] where that is meant", r.Cmd.Name)
	}
	if r.Cmd.Route == Home {
		*d = Decision{Action: Forward, Target: &Target{Cluster: tn.route.Cluster}, Tenant: tn}
		return nil
	}
	return t.boundTarget(r, tn, d)
}

// boundary checks that the tenant is known, and that its own database holds all that is the tenant's where that is the
// boundary.
func (t *Table) boundary(r *Request, tn *Tenant) *wire.Error {
	switch {
	case tn == nil:
		return wire.Errorf(wire.Unauthorized, "this connection's tenant is not known")
	case r.Bound.Database && (tn.set == nil || !tn.set.all):
		return wire.Errorf(wire.Unauthorized, "collections of this connection's tenant are in the shared database")
	}
	return nil
}

// allowed checks what the connection's access and the row's policy say.
func (r *Request) allowed() *wire.Error {
	need := r.Cmd.Access
	if need == Read && r.Writes() {
		need = Write
	}
	switch {
	case r.Cmd.Bound == BoundDeny:
	case r.Cmd.Bound == BoundOwner && r.Bound.Access != DDL:
	case need == Write && r.Bound.Access < Write:
	case need == DDL && r.Bound.Access < DDL:
	default:
		return nil
	}
	return wire.Errorf(wire.Unauthorized, "%s is not allowed on this connection", r.Cmd.Name)
}

func (t *Table) boundTarget(r *Request, tn *Tenant, d *Decision) *wire.Error {
	db := t.byName.find(r.DB)
	if db == nil && string(r.DB) != "admin" {
		return t.boundNowhere(r, d)
	}
	for _, n := range r.Cmd.Names {
		if err := t.boundNames(r, n); err != nil {
			return err
		}
	}
	if db != nil && r.Watches() {
		return t.watchOwn(r, tn.targets[db.num], "the connection's tenant", d)
	}
	if db != nil {
		*d = Decision{Action: Forward, Target: tn.targets[db.num], Tenant: tn, Why: "the connection's tenant"}
		return nil
	}
	if len(r.Cmd.Names) == 0 || r.Cmd.Names[0].Kind != NSInfo && r.Cmd.Names[0].Kind != FullNS {
		return wire.Errorf(wire.Unauthorized, "%s on %q is not allowed on this connection", r.Cmd.Name, r.DB)
	}
	*d = Decision{Action: Forward, Target: tn.targets[0], Tenant: tn, Why: "the connection's tenant"}
	return nil
}

func (t *Table) boundNowhere(r *Request, d *Decision) *wire.Error {
	switch string(r.DB) {
	case "config", "local", "$external":
		return wire.Errorf(wire.Unauthorized, "%s on %q is not allowed on this connection", r.Cmd.Name, r.DB)
	}
	return t.nowhere(r, d)
}

// boundNames refuses what names or looks at anything but the tenant's logical databases.
func (t *Table) boundNames(r *Request, n NameLoc) *wire.Error {
	switch n.Kind {
	case CollOfDB, SideColl:
		if v := r.Value; n.Path == "" && v.Type != 0 {
			if _, ok := v.UUID(); ok {
				return wire.Errorf(wire.InvalidNamespace, "a collection must be named by a string, not by its UUID")
			}
		}
	case FullNS, NSInfo:
		return r.places(n, func(p *Place) *wire.Error {
			if t.byName.find(p.DB) == nil {
				return notYours(p.DB)
			}
			return nil
		})
	case Inner:
		in, err := r.inner()
		if err != nil {
			return err
		}
		if in.Cmd == nil || in.unknown != nil || in.Cmd.Tenant.Kind == InInner {
			return wire.Errorf(wire.CommandNotSupported, "%q can not be explained here", in.Name)
		}
		if err := in.allowed(); err != nil {
			return err
		}
		for _, n := range in.Cmd.Names {
			if err := t.boundNames(in, n); err != nil {
				return err
			}
		}
	case InPipeline:
		uses, err := r.stages()
		for i := range uses {
			u := &uses[i]
			if u.db.DB != nil && t.byName.find(u.db.DB) == nil {
				return notYours(u.db.DB)
			}
			if err := boundStage(u); err != nil {
				return err
			}
		}
		return err
	}
	return nil
}

func notYours(db []byte) *wire.Error {
	return wire.Errorf(wire.Unauthorized, "the database %q is not this connection's", db)
}

// boundStage refuses stages that look beyond the database.
func boundStage(u *stageUse) *wire.Error {
	if u.row == nil {
		return wire.Errorf(wire.UnknownStage, "unknown stage %q", u.name)
	}
	switch u.row.Name {
	case "$indexStats", "$listSearchIndexes", "$collStats", "$planCacheStats":
		return nil
	case "$changeStream":
		if d, ok := u.spec.Doc(); ok {
			if v, ok := d.Lookup("allChangesForCluster"); ok && v.True() {
				return wire.Errorf(wire.Unauthorized, "a change stream of the cluster is not allowed on this connection")
			}
		}
		return nil
	}
	switch u.row.Class {
	case Internal:
		return notOfClients(u.name)
	case Info:
		return wire.Errorf(wire.Unauthorized, "%s is not allowed on this connection", u.row.Name)
	}
	return nil
}
