package control

import (
	"maps"
	"slices"

	"github.com/smetasc/tenantry/routing"
	"github.com/smetasc/tenantry/wire"
)

// tenant is one tenant with what was decided for it. It is replaced and never changed.
type tenant struct {
	listing
	num   uint32
	route *Route // nil where there is none
	plan  plan
	spec  *routing.RouteSpec // what the table gets; nil for plain shared
}

// aliases are the further values that the tenant's documents carry.
func (t *tenant) aliases() []wire.Value {
	if t.route == nil {
		return nil
	}
	return t.route.Aliases
}

// newTenant decides for one tenant.
func (r *rules) newTenant(l listing, num uint32, route *Route) *tenant {
	t := &tenant{listing: l, num: num, route: route, plan: r.plan(&l, route)}
	t.spec = r.routeSpec(t)
	return t
}

// routeSpec is the tenant's route for the table. Without a control database the plan is the route.
func (r *rules) routeSpec(t *tenant) *routing.RouteSpec {
	s, cluster := r.moved(t), ""
	if t.route.own() {
		cluster = t.route.Cluster
	}
	if !r.guarded() {
		cluster = t.plan.cluster
	}
	if s.empty() {
		return nil
	}
	spec := &routing.RouteSpec{Cluster: cluster, Databases: r.homes(t.key), Epoch: t.route.epoch()}
	if t.route.own() && r.guarded() {
		maps.Copy(spec.Databases, t.route.Databases)
	}
	if s.all {
		spec.Except = texts(s.entries)
	} else {
		spec.Collections = texts(s.entries)
	}
	return spec
}

// moved is what the tenant has in its own databases.
func (r *rules) moved(t *tenant) *scope {
	if !r.guarded() {
		return t.plan.want
	}
	return r.routeScope(t.route)
}

// homes is the tenant's own database for each logical one.
func (r *rules) homes(key string) map[string]string {
	homes := make(map[string]string, len(r.databases))
	for _, d := range r.cfg.Routing.Databases {
		homes[d.Shared] = d.Name(key)
	}
	return homes
}

// marks is what a tenant of the table has beyond its route at this moment.
type marks struct {
	paused uint64 // the first epoch with the pause; 0 for none
	look   bool
}

// buildSpec is the table's content: the rules and the tenants, in their order.
func (r *rules) buildSpec(tenants []*tenant, k *catalog, epoch uint64, mark func(*tenant) marks) *routing.Spec {
	cfg := r.cfg
	s := &routing.Spec{
		Epoch: epoch, Mode: modes[cfg.Routing.Mode], Home: cfg.Routing.Home,
		HideOthers: cfg.Routing.OtherDatabases == "hide", WithoutTenant: withoutTenant[cfg.Routing.WithoutTenant],
		Field: cfg.Routing.TenantField, Fields: cfg.Routing.TenantFields, Platform: cfg.Platform.Collections,
		Views: k.views, Names: k.names, Collated: k.collated, LookUp: r.lookUp(), RequireTenant: cfg.Routing.RequireTenant, MaxScatter: cfg.Routing.MaxScatter,
		AllowDrop: cfg.Routing.AllowDrop, Grants: map[string]routing.Grant{},
	}
	for name, word := range cfg.Platform.Bound {
		s.Grants[name] = grants[word]
	}
	if cfg.Control.Enabled {
		s.ControlDB = cfg.Control.Database
	}
	for _, d := range cfg.Routing.Databases {
		prefix, suffix := d.Around()
		s.Databases = append(s.Databases, routing.DatabaseSpec{Name: d.Shared, Prefix: prefix, Suffix: suffix})
	}
	for _, m := range cfg.Modules {
		s.Collections = append(s.Collections, m.Collections...)
	}
	s.Tenants = make([]routing.TenantSpec, len(tenants))
	for i, t := range tenants {
		m := mark(t)
		s.Tenants[i] = routing.TenantSpec{
			ID: t.value, Aliases: t.aliases(), Key: t.key, Num: t.num, Route: t.spec, Paused: m.paused > 0, Since: m.paused, Look: m.look,
		}
	}
	return s
}

var modes = map[string]routing.Mode{"disabled": routing.Disabled, "mixed": routing.Mixed, "forced": routing.Forced}

var withoutTenant = map[string]routing.NoTenantRule{"scatter": routing.ToHolders, "shared": routing.ToShared, "reject": routing.Reject}

var grants = map[string]routing.Grant{"none": routing.NoGrant, "own": routing.OwnRows, "read": routing.ReadRows}

// sameSpec reports whether two tables would be the same but for their version.
func sameSpec(a, b *routing.Spec) bool {
	return a.Epoch == b.Epoch && a.Mode == b.Mode && a.Home == b.Home && a.ControlDB == b.ControlDB &&
		a.HideOthers == b.HideOthers && a.WithoutTenant == b.WithoutTenant && a.Field == b.Field &&
		a.LookUp == b.LookUp && a.RequireTenant == b.RequireTenant && a.MaxScatter == b.MaxScatter && a.AllowDrop == b.AllowDrop &&
		a.StrictUnique == b.StrictUnique && slices.EqualFunc(a.Unique, b.Unique, routing.UniqueIndex.Equal) &&
		slices.Equal(a.Databases, b.Databases) && maps.Equal(a.Fields, b.Fields) && maps.Equal(a.Grants, b.Grants) &&
		slices.Equal(a.Collections, b.Collections) && slices.Equal(a.Platform, b.Platform) &&
		slices.EqualFunc(a.Views, b.Views, routing.ViewSpec.Equal) && (a.Names == nil) == (b.Names == nil) && slices.Equal(a.Names, b.Names) && slices.EqualFunc(a.Collated, b.Collated, routing.Collated.Equal) &&
		slices.EqualFunc(a.Tenants, b.Tenants, sameTenant)
}

func sameTenant(a, b routing.TenantSpec) bool {
	return a.ID.Equal(b.ID) && a.Key == b.Key && a.Num == b.Num && a.Paused == b.Paused && a.Since == b.Since && a.Look == b.Look &&
		slices.EqualFunc(a.Aliases, b.Aliases, wire.Value.Equal) && sameRoute(a.Route, b.Route)
}

func sameRoute(a, b *routing.RouteSpec) bool {
	if a == nil || b == nil || a == b {
		return a == b
	}
	return a.Cluster == b.Cluster && a.Epoch == b.Epoch && maps.Equal(a.Databases, b.Databases) && (a.Collections == nil) == (b.Collections == nil) &&
		slices.Equal(a.Collections, b.Collections) && slices.Equal(a.Except, b.Except)
}
