package control

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/smetasc/tenantry/routing"
	"github.com/smetasc/tenantry/wire"
)

// catalog is what the shared databases hold. It is replaced and never changed.
type catalog struct {
	seq      uint64             // of the reading
	names    []string           // "db.coll"; nil where a server does not say
	views    []routing.ViewSpec // sorted by name
	collated []routing.Collated // collections that compare strings by a collation of their own, sorted by name
}

// unread is the catalog of a server that could not be asked: whatever a command names is looked for.
func unread(seq uint64) *catalog { return &catalog{seq: seq, names: []string{}} }

func (k *catalog) same(o *catalog) bool {
	return (k.names == nil) == (o.names == nil) && slices.Equal(k.names, o.names) && slices.EqualFunc(k.collated, o.collated, routing.Collated.Equal) &&
		slices.EqualFunc(k.views, o.views, routing.ViewSpec.Equal)
}

// readCatalog lists what the shared databases hold. A server that refuses to say is taken to have no
// views.
func readCatalog(ctx context.Context, c cluster, databases []string, seq uint64) (*catalog, error) {
	k := &catalog{seq: seq, names: []string{}}
	for _, db := range databases {
		err := k.list(ctx, c, db)
		if err == nil {
			err = k.define(ctx, c, db)
		}
		if answered(err) {
			return &catalog{seq: seq}, nil
		}
		if err != nil {
			return nil, err
		}
	}
	if err := k.obeyed(ctx, c); err != nil {
		return nil, err
	}
	slices.Sort(k.names)
	slices.SortFunc(k.collated, func(a, b routing.Collated) int { return strings.Compare(a.Name, b.Name) })
	slices.SortFunc(k.views, func(a, b routing.ViewSpec) int { return strings.Compare(a.Name, b.Name) })
	return k, nil
}

// list reads the names that a database holds.
func (k *catalog) list(ctx context.Context, c cluster, db string) error {
	cmd := bson.D{{Key: "listCollections", Value: int32(1)}, {Key: "filter", Value: bson.D{}}, {Key: "nameOnly", Value: true}}
	return each(ctx, c, db, cmd, func(row wire.Doc) error {
		if name, ok := lookText(row, "name"); ok && !strings.HasPrefix(name, "tmp.") { // of an $out under way
			k.names = append(k.names, db+"."+name)
		}
		return nil
	})
}

// define reads what the views of a database are, and the collations of its collections.
func (k *catalog) define(ctx context.Context, c cluster, db string) error {
	cmd := bson.D{{Key: "listCollections", Value: int32(1)}, {Key: "filter", Value: bson.D{{Key: "$or", Value: bson.A{
		bson.D{{Key: "type", Value: "view"}}, bson.D{{Key: "options.collation", Value: bson.D{{Key: "$exists", Value: true}}}},
	}}}}}
	return each(ctx, c, db, cmd, func(row wire.Doc) error {
		name, _ := lookText(row, "name")
		options, _ := row.Lookup("options")
		d, _ := options.Doc()
		if kind, _ := lookText(row, "type"); kind != "view" {
			v, _ := d.Lookup("collation")
			if how, ok := v.Doc(); ok {
				k.collated = append(k.collated, routing.Collated{Name: db + "." + name, Collation: slices.Clone(how)})
			}
			return nil
		}
		v := routing.ViewSpec{Name: db + "." + name}
		v.On, _ = lookText(d, "viewOn")
		pipeline, _ := d.Lookup("pipeline")
		if stages, ok := pipeline.Array(); ok {
			v.Pipeline = slices.Clone(stages)
		} else {
			v.Pipeline = wire.Doc{5, 0, 0, 0, 0}
		}
		collation, _ := d.Lookup("collation")
		if c, ok := collation.Doc(); ok {
			v.Collation = slices.Clone(c)
		}
		k.views = append(k.views, v)
		return nil
	})
}

// obeyed forgets the collations where servers keep them and compare by bytes all the same, as some do that speak
// the protocol. Any document tells.
func (k *catalog) obeyed(ctx context.Context, c cluster) error {
	for i := range k.collated {
		db, coll, _ := strings.Cut(k.collated[i].Name, ".")
		apart := bson.D{{Key: "$lt", Value: bson.A{"a", "B"}}} // as letters, and not as bytes
		cmd := bson.D{{Key: "aggregate", Value: coll}, {Key: "pipeline", Value: bson.A{
			bson.D{{Key: "$limit", Value: int32(1)}}, bson.D{{Key: "$project", Value: bson.D{{Key: "_id", Value: int32(0)}, {Key: "apart", Value: apart}}}},
		}}, {Key: "cursor", Value: bson.D{}}}
		told, obeyed := false, false
		err := each(ctx, c, db, cmd, func(d wire.Doc) error {
			v, _ := d.Lookup("apart")
			told, obeyed = true, v.True()
			return nil
		})
		switch {
		case answered(err):
			return nil // it is taken at its word
		case err != nil:
			return err
		case told:
			if !obeyed {
				k.collated = nil
			}
			return nil
		}
	}
	return nil
}

func lookText(d wire.Doc, key string) (string, bool) {
	v, _ := d.Lookup(key)
	s, ok := v.Str()
	return string(s), ok
}

// reviewing is a reading of the catalog under way.
type reviewing struct {
	began time.Time
	done  chan struct{}
	err   error // set before done is closed
}

const (
	// reviewLimit bounds one reading of the catalog that commands wait for.
	reviewLimit = 5 * time.Second
	// missedAge is how long after one that has failed none is tried: commands that need nothing of the
	// home cluster go on without.
	missedAge = 2 * time.Second
)

// Review returns when a table is published that shows what the shared databases held at the time, or
// later, and when that was read. Commands that come at once share a reading.
func (c *Control) Review(ctx context.Context, at time.Time) (read time.Time, err error) {
	for {
		c.mu.Lock()
		if c.rules == nil || c.closed {
			c.mu.Unlock()
			return read, errStopping
		}
		if read = c.reviewed; !read.Before(at) {
			c.mu.Unlock()
			return read, nil
		}
		if c.missed != nil && time.Since(c.missed.began) < missedAge {
			defer c.mu.Unlock()
			return read, c.missed.err
		}
		x := c.review
		if x == nil {
			x = &reviewing{began: time.Now(), done: make(chan struct{})}
			c.review = x
			c.work.Add(1)
			go c.runReview(x, c.rules)
		}
		c.mu.Unlock()
		select {
		case <-x.done:
		case <-ctx.Done():
			return read, ctx.Err()
		}
		if x.err != nil && x.err != errSuperseded {
			return read, x.err
		}
	}
}

// errSuperseded is of what was begun under another configuration than the one now.
var errSuperseded = errors.New("the configuration changed meanwhile")

// runReview reads the catalog and publishes it.
func (c *Control) runReview(x *reviewing, r *rules) {
	defer c.work.Done()
	ctx, cancel := context.WithTimeout(c.life, reviewLimit)
	defer cancel()
	x.err = c.readAgain(ctx, r)
	c.mu.Lock()
	c.review, c.missed = nil, nil
	switch {
	case c.rules != r:
		x.err = errSuperseded // whatever it was: the servers asked may be others by now
	case x.err == nil:
		c.reviewed = x.began
	default:
		x.began, c.missed = time.Now(), x
	}
	c.mu.Unlock()
	close(x.done)
}

func (c *Control) readAgain(ctx context.Context, r *rules) error {
	home := c.cluster(r.cfg.Routing.Home)
	if home == nil {
		return errNotLoaded
	}
	k, err := readCatalog(ctx, home, r.databases, c.nextSeq())
	if err != nil {
		return err
	}
	c.mu.Lock()
	superseded := c.rules != r
	if !superseded {
		c.takeCatalog(k)
	}
	c.mu.Unlock()
	if superseded {
		return errSuperseded
	}
	return c.publish()
}

// takeCatalog takes over a catalog unless one is known that was read later; mu is held.
func (c *Control) takeCatalog(k *catalog) {
	if k == nil || c.catalog != nil && c.catalog.seq >= k.seq {
		return
	}
	if c.catalog == nil || !c.catalog.same(k) {
		c.changed()
	}
	c.catalog = k
}
