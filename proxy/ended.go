package proxy

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"

	"github.com/smetasc/tenantry/routing"
	"github.com/smetasc/tenantry/wire"
)

// Over several homes a drop is an event of each home that has the collection. The client is told of it
// once, by the last of them, and a stream that it ends must have given everything that was before it in
// any home. So a feed is held at such an event until the others have brought what decides: their own
// drop, or that nothing more comes from before. Which home has what is asked once, when the stream sees
// the home first; from then on its events say so.

// endings are the events after which a collection, or a database, is gone.
var endings = []string{"drop", "rename", "dropDatabase"}

const (
	// apart is by how many seconds one cluster's event may be told to be later than another's that it was before.
	apart = 1
	// lull is how long a feed has to bring nothing to be known to have nothing from before.
	lull = time.Second
	// maxAhead is how many events a feed that is held looks ahead.
	maxAhead = 10_000
)

// plot is a collection in one home; without coll the home itself.
type plot struct{ cluster, db, coll string }

// grounds are what a stream knows of the homes that it sees.
type grounds struct {
	has    map[plot]bool
	lost   map[plot]uint64   // when an event has said that it has the plot no more; 0 where a token or the home has
	listed map[plot]uint64   // the cluster's time at which a home was asked for its collections
	now    map[string]uint64 // the time of the cluster's last event
}

func newGrounds() grounds {
	return grounds{map[plot]bool{}, map[plot]uint64{}, map[plot]uint64{}, map[string]uint64{}}
}

func (g *grounds) lose(p plot, at uint64) {
	g.has[p] = false
	if p.coll != "" {
		g.lost[p] = at
	}
}

// happening is an event as far as it says what a home has.
type happening struct {
	op       string
	db, coll string // under the logical name
	home     string // the database's own name; "" where the client's stages have removed it
	at       uint64
}

func (h *happening) ends() bool { return slices.Contains(endings, h.op) }

// about reports whether the event says something of the collection; without a name, of the database.
func (h *happening) about(db, coll string) bool {
	return h.db == db && (h.coll == coll || coll == "" || h.op == "dropDatabase")
}

// ended reports whether it is the end of the collection, or of the database.
func (h *happening) ended(db, coll string) bool {
	if coll == "" {
		return h.db == db && h.op == "dropDatabase"
	}
	return h.ends() && h.about(db, coll)
}

func happeningOf(doc wire.Doc) (h happening) {
	for it := doc.Iter(); it.Next(); {
		switch string(it.Key) {
		case "operationType":
			s, _ := it.Value.Str()
			h.op = string(s)
		case "ns":
			ns, _ := it.Value.Doc()
			v, _ := ns.Lookup("db")
			s, _ := v.Str()
			h.db = string(s)
			v, _ = ns.Lookup("coll")
			s, _ = v.Str()
			h.coll = string(s)
		case "clusterTime":
			h.at = timestamp(it.Value)
		case routing.HomeField:
			s, _ := it.Value.Str()
			h.home = string(s)
		}
	}
	return h
}

// note takes over what an event, which the client has been given or spared, says of its home.
func (g *grounds) note(cluster string, h *happening) {
	if h.home == "" {
		return
	}
	home, p := plot{cluster, h.home, ""}, plot{cluster, h.home, h.coll}
	g.now[cluster] = h.at
	switch {
	case h.op == "dropDatabase":
		for p, has := range g.has {
			if has && p.cluster == cluster && p.db == h.home {
				g.lose(p, h.at)
			}
		}
	case h.coll == "":
	case h.ends():
		g.lose(p, h.at)
	default:
		g.has[p], g.has[home] = true, true
		delete(g.lost, p)
	}
}

// holds reports whether the home has the collection; without a name, any.
func (g *grounds) holds(x *routing.Target, coll string) bool {
	if coll != "" {
		return g.has[plot{x.Cluster, x.DB, coll}]
	}
	for p, has := range g.has {
		if has && p.coll != "" && p.cluster == x.Cluster && p.db == x.DB {
			return true
		}
	}
	return false
}

// verdict is what is to be done with an event that is next.
type verdict uint8

const (
	show verdict = iota
	hide
	wait // until other feeds have brought more
)

// judge looks at the next event of a feed. last says that it ends the stream; with says which other
// feeds' next events are the same end, and told with it.
func (c *clientConn) judge(w *watch, f *feed, h *happening) (v verdict, last bool, with []*feed) {
	if w.plan.Own || !h.ends() {
		return show, false, nil
	}
	switch {
	case w.plan.Coll != "":
		last = h.op != "dropDatabase"
	case w.plan.DB != "":
		last = h.op == "dropDatabase"
	}
	coll := h.coll
	if h.op == "dropDatabase" {
		coll = ""
	}
	holders := w.table.Holders(h.db, coll)
	if len(holders) < 2 && !last {
		return show, false, nil
	}
	is := func(x *routing.Target) bool { return x.Cluster == f.target.Cluster && x.DB == h.home }
	if len(holders) > 1 && !slices.ContainsFunc(holders, is) {
		return hide, false, nil // it was a home, and is none any more
	}
	f.held, v = true, show
	at, since := uint32(h.at>>32), f.came[0]
	for _, x := range holders {
		g := w.feedOf(x.Cluster)
		if g == nil || is(x) {
			continue
		}
		has, ahead, next := w.grounds.expects(g, x, h.db, coll, g == f, at)
		switch {
		case ahead && g == f, has && g == f:
			return hide, false, nil
		case ahead && next:
			if !slices.Contains(with, g) {
				with = append(with, g)
			}
		case ahead && g.held, has && g.behind(at, since):
			return hide, false, nil
		case ahead, has:
			v = wait
		case g == f && w.grounds.sure(x, h, coll):
		case !g.behind(at, since):
			v = wait
		}
	}
	if v == wait {
		return wait, false, nil
	}
	for _, g := range with {
		if !w.alone(g, h.db, coll) {
			return wait, false, nil // its cluster's last comes first
		}
	}
	for _, g := range w.feeds {
		if last && g != f && !slices.Contains(with, g) && !g.drained(at, since) {
			return wait, false, nil
		}
	}
	return show, last, with
}

// expects is what a feed tells of one of its homes: that it has the collection, that its end is ahead,
// and that this is what comes next. Where the feed is the one that is asked for, what comes behind its
// next event is later than that.
func (g *grounds) expects(f *feed, x *routing.Target, db, coll string, own bool, at uint32) (has, ahead, next bool) {
	has = g.holds(x, coll)
	for i, doc := range f.docs {
		h := happeningOf(doc)
		if h.home != "" && h.home != x.DB || !h.about(db, coll) {
			continue
		}
		switch {
		case own && i == 0:
		case h.ended(db, coll):
			if has || h.coll == coll {
				return has, true, i == 0
			}
			return has, false, false
		case h.ends():
		case !own && uint32(h.at>>32) <= at:
			has = true
		}
	}
	return has, false, false
}

// sure reports whether nothing that is still to come can say that the home had the collection: it was
// asked before the event. A database may be without collections, and its end still be to come.
func (g *grounds) sure(x *routing.Target, h *happening, coll string) bool {
	home := plot{x.Cluster, x.DB, ""}
	return h.at > g.listed[home] && (coll != "" || !g.has[home])
}

// alone reports whether no home of the feed's cluster but that of its next event has the collection.
func (w *watch) alone(f *feed, db, coll string) bool {
	h := w.next(f)
	for _, x := range w.table.Holders(db, coll) {
		if x.Cluster != f.target.Cluster || x.DB == h.home {
			continue
		}
		if has, ahead, _ := w.grounds.expects(f, x, db, coll, true, 0); has || ahead {
			return false
		}
	}
	return true
}

// next is the next event of a feed. One whose stages do not tell the home is of some home on the cluster.
func (w *watch) next(f *feed) happening {
	h := happeningOf(f.docs[0])
	if h.home != "" || !h.ends() || w.plan.Own {
		return h
	}
	for _, x := range w.table.Holders(h.db, h.coll) {
		if x.Cluster == f.target.Cluster && (h.home == "" || w.grounds.holds(x, h.coll)) {
			h.home = x.DB
		}
	}
	return h
}

// behind reports whether the feed has brought all that was before an event of another cluster, which came
// here at that time.
func (f *feed) behind(at uint32, came time.Time) bool {
	n := len(f.docs)
	if f.id == 0 || n >= maxAhead || n > 0 && uint32(happeningOf(f.docs[n-1]).at>>32) > at+apart {
		return true
	}
	place := f.after
	if place == nil {
		place = f.token
	}
	return madeAt(place) > at+apart || !f.quietFrom.Before(came) && f.quietTo.Sub(came) >= lull
}

// drained reports whether the feed has given all that was before the event.
func (f *feed) drained(at uint32, came time.Time) bool {
	if len(f.docs) > 0 {
		return uint32(happeningOf(f.docs[0]).at>>32) > at+apart
	}
	return f.behind(at, came)
}

// latest is the feed whose next event is the latest.
func latest(feeds []*feed) *feed {
	return slices.MaxFunc(feeds, func(a, b *feed) int {
		return cmp.Compare(happeningOf(a.docs[0]).at, happeningOf(b.docs[0]).at)
	})
}

// survey asks the homes that the stream has not seen before for what they have.
func (c *clientConn) survey(w *watch, plan *routing.Watch) *wire.Error {
	if plan.Own {
		return nil
	}
	g := &w.grounds
	var trips []*trip
	for x := range plan.Homes {
		home := plot{x.Cluster, x.DB, ""}
		if _, ok := g.listed[home]; ok {
			continue
		}
		g.listed[home] = 0
		trips = append(trips, c.listing(x, plan.Coll))
	}
	if len(trips) == 0 {
		return nil
	}
	parts := c.scatter(trips, nil)
	defer free(parts)
	if err := c.failed(parts); err != nil {
		return err
	}
	for i := range parts {
		tr := parts[i].tr
		x := tr.target
		g.listed[plot{x.Cluster, x.DB, ""}] = tr.facts.operation
		docs, _, _ := firstBatch(tr.facts.cursor)
		if p := (plot{x.Cluster, x.DB, plan.Coll}); p.coll != "" && len(docs) == 0 && !g.has[p] {
			g.lose(p, 0)
		}
		for _, d := range docs {
			v, _ := d.Lookup("name")
			s, _ := v.Str()
			name := string(s)
			mine := func(h *routing.Target) bool { return h.Cluster == x.Cluster && h.DB == x.DB }
			if strings.HasPrefix(name, "system.") || !slices.ContainsFunc(w.table.Holders(x.Logical, name), mine) {
				continue
			}
			for _, p := range []plot{{x.Cluster, x.DB, ""}, {x.Cluster, x.DB, name}} {
				if _, known := g.has[p]; !known {
					g.has[p] = true
				}
			}
		}
	}
	return nil
}

// listing asks a home for its collections, or whether it has this one.
func (c *clientConn) listing(x *routing.Target, coll string) *trip {
	return ownTrip(x, func() wire.Doc {
		return build(func(d []byte) []byte {
			d = bsoncore.AppendInt32Element(d, "listCollections", 1)
			if coll != "" {
				j, e := bsoncore.AppendDocumentElementStart(d, "filter")
				e = bsoncore.AppendStringElement(e, "name", coll)
				d, _ = bsoncore.AppendDocumentEnd(e, j)
			}
			d = bsoncore.AppendBooleanElement(d, "nameOnly", true)
			d = c.appendSession(d, x.Cluster, nil)
			return bsoncore.AppendStringElement(d, "$db", x.DB)
		})
	})
}

// maxLost is how many plots a resume token tells of.
const maxLost = 32

// recent is for how many seconds a token tells of what an event has ended.
const recent = 60

// told are the plots that are known to have nothing: what a stream that goes on from here can not learn by
// asking, since they may have been made anew by then. Of one cluster alone those of recent events, so that
// watchers see one token of one event.
func (g *grounds) told(several bool) (all []plot) {
	for p, at := range g.lost {
		if several || at != 0 && g.now[p.cluster]>>32 <= at>>32+recent {
			all = append(all, p)
		}
	}
	slices.SortFunc(all, func(a, b plot) int {
		return cmp.Or(cmp.Compare(g.lost[b], g.lost[a]), cmp.Compare(a.cluster, b.cluster), cmp.Compare(a.db, b.db), cmp.Compare(a.coll, b.coll))
	})
	return all[:min(len(all), maxLost)]
}
