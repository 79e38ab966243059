package control

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/smetasc/tenantry/routing"
)

const (
	driftLimit = 20 * time.Second // for all tenants together
	driftWidth = 8                // tenants that are compared at once
	driftShown = 300              // bytes of a definition
)

// Drift is one way in which a tenant's own database differs from shared: what has been changed
// behind the proxy, or by a definition that did not reach every database.
type Drift struct {
	Collection string `json:"collection"` // "database.collection" by the logical name
	What       string `json:"what"`
}

// Drift is [Control.Status] with what differs between each isolated tenant's databases and shared.
// It is bounded in time: of who could not be compared the status says why.
func (c *Control) Drift(ctx context.Context) []TenantStatus {
	ctx, cancel := context.WithTimeout(ctx, driftLimit)
	defer cancel()
	all, compares := c.comparisons()
	room := make(chan struct{}, driftWidth)
	var wg sync.WaitGroup
	for i, x := range compares {
		if x == nil {
			continue
		}
		room <- struct{}{}
		wg.Go(func() {
			drift, err := x.run(ctx)
			if all[i].Drift = drift; err != nil {
				all[i].NotCompared = err.Error()
			}
			<-room
		})
	}
	wg.Wait()
	return all
}

// comparisons is the status of all tenants, and for those with databases of their own what to
// compare.
func (c *Control) comparisons() ([]TenantStatus, []*comparison) {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := c.statuses()
	compares := make([]*comparison, len(all))
	if c.rules == nil {
		return all, compares
	}
	var telling []routing.UniqueIndex
	if t := c.router.Current(); t != nil {
		telling = t.Telling()
	}
	home := &inventory{cluster: c.cluster(c.rules.cfg.Routing.Home), listed: map[string]map[string]*definition{}, indexed: map[namespace][]bson.D{}}
	for i, t := range c.order {
		for _, x := range telling {
			if !c.rules.moved(t).has(x.DB, x.Coll) {
				all[i].Tells = append(all[i].Tells, x.DB+"."+x.Coll+" "+x.Name)
			}
		}
		if t.spec != nil {
			compares[i] = &comparison{
				shared: home, scope: c.rules.moved(t), databases: all[i].Databases,
				own: &inventory{cluster: c.cluster(t.spec.Cluster), listed: map[string]map[string]*definition{}, indexed: map[namespace][]bson.D{}},
			}
		}
	}
	return all, compares
}

// inventory is what a cluster holds, asked when it is needed and once.
type inventory struct {
	cluster cluster

	mu      sync.Mutex // guards the following; held while a server is asked
	listed  map[string]map[string]*definition
	indexed map[namespace][]bson.D
}

func (v *inventory) collections(ctx context.Context, db string) (map[string]*definition, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.cluster == nil {
		return nil, fmt.Errorf("its cluster is not configured any more")
	}
	all, known := v.listed[db]
	if known {
		return all, nil
	}
	all, err := definitions(ctx, v.cluster, db)
	if err == nil {
		v.listed[db] = all
	}
	return all, err
}

func (v *inventory) indexes(ctx context.Context, n namespace) ([]bson.D, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	all, known := v.indexed[n]
	if known {
		return all, nil
	}
	list, err := indexes(ctx, v.cluster, n)
	if err != nil {
		return nil, err
	}
	for _, e := range list {
		all = append(all, e.(bson.D))
	}
	v.indexed[n] = all
	return all, nil
}

// comparison is one tenant's.
type comparison struct {
	shared, own *inventory
	scope       *scope            // what the tenant has in its own databases
	databases   map[string]string // logical to its own
}

func (x *comparison) run(ctx context.Context) ([]Drift, error) {
	all := []Drift{}
	for _, db := range sortedKeys(x.databases) {
		more, err := x.database(ctx, db)
		if all = append(all, more...); err != nil {
			return all, err
		}
	}
	return all, nil
}

// database compares the collections of one logical database by their names.
func (x *comparison) database(ctx context.Context, db string) (all []Drift, err error) {
	shared, err := x.shared.collections(ctx, db)
	if err != nil {
		return nil, fmt.Errorf("shared could not be read: %w", err)
	}
	own, err := x.own.collections(ctx, x.databases[db])
	if err != nil {
		return nil, fmt.Errorf("%s could not be read: %w", x.databases[db], err)
	}
	names := slices.Compact(slices.Sorted(slices.Values(append(sortedKeys(shared), sortedKeys(own)...))))
	for _, name := range names {
		var found []string
		if x.scope.has(db, name) {
			found, err = x.collection(ctx, namespace{db, name}, shared[name], own[name])
		} else if own[name] != nil {
			found = []string{"is in the tenant's own database, and commands go to shared: it is in none of the modules that were moved"}
		}
		if err != nil {
			return all, fmt.Errorf("%s could not be read: %w", name, err)
		}
		for _, what := range found {
			all = append(all, Drift{Collection: db + "." + name, What: what})
		}
	}
	return all, nil
}

// collection compares one that is in both, or in one of both. One without options and indexes is
// made by its first insert, so that it is no difference where it is not there yet.
func (x *comparison) collection(ctx context.Context, n namespace, shared, own *definition) (found []string, err error) {
	var sharedHas, ownHas []bson.D
	if shared != nil && shared.kind != "view" {
		if sharedHas, err = x.shared.indexes(ctx, n); err != nil {
			return nil, err
		}
	}
	if own != nil && own.kind != "view" {
		if ownHas, err = x.own.indexes(ctx, namespace{x.databases[n.db], n.coll}); err != nil {
			return nil, err
		}
	}
	switch {
	case shared != nil && shared.kind == "view" && own == nil:
		return nil, nil // a view is shared's, whosever documents it shows
	case shared != nil && shared.kind == "view" && own.kind != "view":
		return []string{fmt.Sprintf("is a %s, in shared it is a view: what the view shows is read, and nothing of this", own.kind)}, nil
	case own != nil && own.kind == "view":
		return []string{"is a view in the tenant's own database, where only connections bound to it read it"}, nil
	case shared != nil && own != nil && shared.kind != own.kind:
		return []string{fmt.Sprintf("is a %s, in shared it is a %s", own.kind, shared.kind)}, nil
	}
	return append(compareOptions(shared.elements(), own.elements()), compareIndexes(sharedHas, ownHas)...), nil
}

// elements are a collection's options; none of one that is not there.
func (d *definition) elements() bson.D {
	var all bson.D
	if d != nil && d.options != nil {
		_ = bson.Unmarshal(d.options, &all)
	}
	return all
}

func compareOptions(shared, own bson.D) (found []string) {
	return compare("option", shared, own, equal)
}

// compare says how the tenant's own things of a kind differ from shared's, by their names.
func compare(kind string, shared, own bson.D, same func(a, b any) bool) (found []string) {
	for _, name := range keysOf(shared, own) {
		want, has := lookup(shared, name)
		got, is := lookup(own, name)
		switch {
		case !is:
			found = append(found, fmt.Sprintf("lacks the %s %s: %s", kind, name, text(want)))
		case !has:
			found = append(found, fmt.Sprintf("has the %s %s, which shared has not: %s", kind, name, text(got)))
		case !same(want, got):
			found = append(found, fmt.Sprintf("has another %s %s: %s, in shared %s", kind, name, text(got), text(want)))
		}
	}
	return found
}

func compareIndexes(shared, own []bson.D) (found []string) {
	byName := func(all []bson.D) (named bson.D) {
		for _, d := range all {
			name, _ := lookup(d, "name")
			named = append(named, bson.E{Key: fmt.Sprint(name), Value: d})
		}
		return named
	}
	return compare("index", byName(shared), byName(own), func(a, b any) bool { return sameFields(a.(bson.D), b.(bson.D)) })
}

func keysOf(a, b bson.D) (keys []string) {
	for _, e := range slices.Concat(a, b) {
		keys = append(keys, e.Key)
	}
	slices.Sort(keys)
	return slices.Compact(keys)
}

func lookup(d bson.D, key string) (any, bool) {
	for _, e := range d {
		if e.Key == key {
			return e.Value, true
		}
	}
	return nil, false
}

// sameFields compares the fields of an index, whose order servers choose.
func sameFields(a, b bson.D) bool {
	return !slices.ContainsFunc(keysOf(a, b), func(key string) bool {
		x, inA := lookup(a, key)
		y, inB := lookup(b, key)
		return inA != inB || !equal(x, y)
	})
}

// equal compares two values in their order; 1, 1.0 and NumberLong(1) are written by different
// drivers for the same.
func equal(a, b any) bool {
	da, isA := a.(bson.D)
	db, isB := b.(bson.D)
	if isA && isB {
		return slices.EqualFunc(da, db, func(x, y bson.E) bool { return x.Key == y.Key && equal(x.Value, y.Value) })
	}
	la, isA := a.(bson.A)
	lb, isB := b.(bson.A)
	if isA && isB {
		return slices.EqualFunc(la, lb, equal)
	}
	x, y := valueOf(a), valueOf(b)
	if n, ok := number(x); ok {
		m, ok := number(y)
		return ok && n == m
	}
	return x.Type == y.Type && bytes.Equal(x.Value, y.Value)
}

func valueOf(v any) bson.RawValue {
	kind, b, err := bson.MarshalValue(v)
	if err != nil {
		return bson.RawValue{}
	}
	return bson.RawValue{Type: kind, Value: b}
}

func number(v bson.RawValue) (float64, bool) {
	switch v.Type {
	case bson.TypeInt32, bson.TypeInt64:
		return float64(v.AsInt64()), true
	case bson.TypeDouble:
		return v.Double(), true
	}
	return 0, false
}

// text is a value for people.
func text(v any) string {
	s := fromRaw(valueOf(v)).String()
	if len(s) > driftShown {
		s = strings.ToValidUTF8(s[:driftShown], "") + "…"
	}
	return s
}
