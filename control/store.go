package control

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"

	"github.com/smetasc/tenantry/backend"
	"github.com/smetasc/tenantry/wire"
)

// cluster is what the control room needs of one: a command to a server that takes writes, and its
// reply. A reply that says no is a *[backend.CommandError].
type cluster interface {
	Run(ctx context.Context, db string, cmd wire.Doc) (wire.Doc, error)
}

// Collections of the control database.
const (
	routesColl   = "routes"
	countersColl = "counters"
	keysColl     = "keys"
)

// States of a route.
const (
	stateHome     = "home"     // everything is in shared, again or still
	stateSwitched = "switched" // some collections are in the tenant's own databases
)

// duplicateKey is the server's code for an _id that is there already.
const duplicateKey = 11000

// errConflict says that a route has changed since it was read.
var errConflict = errors.New("the route has been changed by another proxy")

// Route is the document that says where a tenant's collections are. It is the only source of that;
// nobody changes one in memory.
type Route struct {
	ID          wire.Value
	Aliases     []wire.Value
	Key         string
	Cluster     string
	Databases   map[string]string // logical to physical
	Collections []string          // that have moved, "db.coll" or a pattern; nil where Except says it
	Except      []string          // what has not moved, where all else has
	Fields      fields            // by which its documents were told apart; none where an older route says nothing
	State       string
	Epoch       uint64
	Who         string
	When        time.Time
	OpTime      bson.RawValue // operation time of the cluster when the epoch was taken
}

// own reports whether some collections are in the tenant's own databases; r may be nil.
func (r *Route) own() bool { return r != nil && r.State != stateHome && len(r.Databases) > 0 }

func (r *Route) epoch() uint64 {
	if r == nil {
		return 0
	}
	return r.Epoch
}

func (r *Route) doc() bson.D {
	d := bson.D{{Key: "_id", Value: toRaw(r.ID)}, {Key: "key", Value: r.Key}}
	if len(r.Aliases) > 0 {
		var a bson.A
		for _, v := range r.Aliases {
			a = append(a, toRaw(v))
		}
		d = append(d, bson.E{Key: "aliases", Value: a})
	}
	if len(r.Databases) > 0 {
		databases := bson.D{}
		for _, db := range sortedKeys(r.Databases) {
			databases = append(databases, bson.E{Key: db, Value: r.Databases[db]})
		}
		d = append(d, bson.E{Key: "homes", Value: bson.D{{Key: "cluster", Value: r.Cluster}, {Key: "databases", Value: databases}}})
		if r.Collections != nil {
			d = append(d, bson.E{Key: "collections", Value: r.Collections})
		} else {
			d = append(d, bson.E{Key: "except", Value: append(make([]string, 0, len(r.Except)), r.Except...)})
		}
		if r.Fields.all != "" {
			d = append(d, r.Fields.doc()...)
		}
	}
	d = append(d, bson.E{Key: "state", Value: r.State}, bson.E{Key: "epoch", Value: int64(r.Epoch)},
		bson.E{Key: "who", Value: r.Who}, bson.E{Key: "when", Value: r.When})
	if r.OpTime.Type != 0 {
		d = append(d, bson.E{Key: "operationTime", Value: r.OpTime})
	}
	return d
}

func readRoute(doc wire.Doc) (*Route, error) {
	var d struct {
		ID      bson.RawValue   `bson:"_id"`
		Aliases []bson.RawValue `bson:"aliases"`
		Key     string          `bson:"key"`
		Homes   struct {
			Cluster   string            `bson:"cluster"`
			Databases map[string]string `bson:"databases"`
		} `bson:"homes"`
		Collections []string      `bson:"collections"`
		Except      []string      `bson:"except"`
		Field       string        `bson:"field"`
		Fields      []fieldEntry  `bson:"fields"`
		State       string        `bson:"state"`
		Epoch       int64         `bson:"epoch"`
		Who         string        `bson:"who"`
		When        time.Time     `bson:"when"`
		OpTime      bson.RawValue `bson:"operationTime"`
	}
	if err := bson.Unmarshal(doc, &d); err != nil {
		return nil, permanent{fmt.Errorf("a route is not as it should be: %w", err)}
	}
	r := &Route{
		ID: cloned(fromRaw(d.ID)), Key: d.Key, Cluster: d.Homes.Cluster, Databases: d.Homes.Databases,
		Collections: d.Collections, Except: d.Except, Fields: readFields(d.Field, d.Fields), State: d.State, Epoch: uint64(d.Epoch), Who: d.Who, When: d.When,
	}
	if d.OpTime.Type != 0 {
		r.OpTime = toRaw(cloned(fromRaw(d.OpTime)))
	}
	for _, a := range d.Aliases {
		r.Aliases = append(r.Aliases, cloned(fromRaw(a)))
	}
	if idOf(r.ID) == "" || r.Key == "" {
		return nil, permanent{fmt.Errorf("the route of %s has no usable id or key", shown(r.ID))}
	}
	return r, nil
}

// store is the control database.
type store struct {
	home cluster
	db   string
}

var majority = bson.E{Key: "writeConcern", Value: bson.D{{Key: "w", Value: "majority"}}}

// run sends a command and reads the whole reply into into, which may be nil.
func run(ctx context.Context, c cluster, db string, cmd bson.D, into any) (wire.Doc, error) {
	b, err := bson.Marshal(cmd)
	if err != nil {
		return nil, err
	}
	reply, err := c.Run(ctx, db, b)
	if err == nil && into != nil {
		err = bson.Unmarshal(reply, into)
	}
	if err != nil {
		return nil, fmt.Errorf("%s on %s: %w", cmd[0].Key, db, err)
	}
	return reply, nil
}

// write sends a command that writes, and takes for an error whatever keeps it from being durable.
func write(ctx context.Context, c cluster, db string, cmd bson.D) (n int, err error) {
	var reply struct {
		N      int `bson:"n"`
		Errors []struct {
			Code    int32  `bson:"code"`
			Message string `bson:"errmsg"`
		} `bson:"writeErrors"`
		Concern *writeConcernError `bson:"writeConcernError"`
	}
	if _, err := run(ctx, c, db, cmd, &reply); err != nil {
		return 0, err
	}
	if len(reply.Errors) > 0 {
		e := reply.Errors[0]
		return reply.N, fmt.Errorf("%s on %s: %w", cmd[0].Key, db, &backend.CommandError{Code: e.Code, Message: e.Message})
	}
	return reply.N, reply.Concern.err(cmd[0].Key)
}

type writeConcernError struct {
	Message string `bson:"errmsg"`
}

func (e *writeConcernError) err(command string) error {
	if e == nil {
		return nil
	}
	return fmt.Errorf("%s: the majority has not confirmed it: %s", command, e.Message)
}

func hasCode(err error, codes ...int32) bool {
	var ce *backend.CommandError
	return errors.As(err, &ce) && slices.Contains(codes, ce.Code)
}

// each runs a command that answers with a cursor and yields its documents to the end. The
// documents are slices of replies.
func each(ctx context.Context, c cluster, db string, cmd bson.D, yield func(wire.Doc) error) error {
	reply, err := run(ctx, c, db, cmd, nil)
	for batch := "firstBatch"; ; batch = "nextBatch" {
		if err != nil {
			return err
		}
		cursor, _ := reply.Lookup("cursor")
		doc, _ := cursor.Doc()
		if err := eachOf(doc, batch, yield); err != nil {
			return err
		}
		v, _ := doc.Lookup("id")
		id, _ := v.Int()
		if id == 0 {
			return nil
		}
		v, _ = doc.Lookup("ns")
		ns, _ := v.Str()
		reply, err = run(ctx, c, db, bson.D{
			{Key: "getMore", Value: id},
			{Key: "collection", Value: string(ns[min(len(ns), len(db)+1):])},
		}, nil)
	}
}

func eachOf(cursor wire.Doc, batch string, yield func(wire.Doc) error) error {
	v, ok := cursor.Lookup(batch)
	array, isArray := v.Array()
	if !ok || !isArray {
		return errors.New("a reply has no " + batch)
	}
	it := array.Iter()
	for it.Next() {
		if doc, ok := it.Value.Doc(); ok {
			if err := yield(doc); err != nil {
				return err
			}
		}
	}
	return it.Err()
}

// routes reads all routes. One that can not be understood is an error: leaving it out would take
// the tenant for one in shared.
func (s *store) routes(ctx context.Context) (map[tenantID]*Route, error) {
	all := map[tenantID]*Route{}
	err := each(ctx, s.home, s.db, bson.D{{Key: "find", Value: routesColl}, {Key: "filter", Value: bson.D{}}}, func(doc wire.Doc) error {
		r, err := readRoute(doc)
		if err == nil {
			all[idOf(r.ID)] = r
		}
		return err
	})
	return all, err
}

// confirmed reads all routes, and returns when the majority knows them.
func (s *store) confirmed(ctx context.Context) (map[tenantID]*Route, error) {
	all, err := s.routes(ctx)
	if err != nil {
		return nil, err
	}
	return all, s.confirm(ctx)
}

// route reads one route; nil where there is none.
func (s *store) route(ctx context.Context, id wire.Value) (*Route, error) {
	var found *Route
	err := each(ctx, s.home, s.db, bson.D{
		{Key: "find", Value: routesColl},
		{Key: "filter", Value: bson.D{{Key: "_id", Value: toRaw(id)}}},
		{Key: "limit", Value: 1},
		{Key: "singleBatch", Value: true},
	}, func(doc wire.Doc) (err error) {
		found, err = readRoute(doc)
		return err
	})
	return found, err
}

// writeRoute puts a route in the place of old, which is nil where there was none. It is an
// errConflict where another proxy was first; after any other error the outcome is unknown.
func (s *store) writeRoute(ctx context.Context, r, old *Route) error {
	if old == nil {
		_, err := write(ctx, s.home, s.db, bson.D{{Key: "insert", Value: routesColl}, {Key: "documents", Value: bson.A{r.doc()}}, majority})
		if hasCode(err, duplicateKey) {
			return errConflict
		}
		return err
	}
	n, err := write(ctx, s.home, s.db, bson.D{{Key: "update", Value: routesColl}, {Key: "updates", Value: bson.A{bson.D{
		{Key: "q", Value: bson.D{{Key: "_id", Value: toRaw(r.ID)}, {Key: "epoch", Value: int64(old.Epoch)}}},
		{Key: "u", Value: r.doc()},
	}}}, majority})
	if err == nil && n == 0 {
		return errConflict
	}
	return err
}

// settleRoute finds out whether a write of a route in the place of old has been made whose outcome
// is unknown. Where it has not, it could still come: so a route with a later epoch that changes
// nothing is written, after which the first no longer fits. It returns the route that holds.
func (s *store) settleRoute(ctx context.Context, tried, old *Route) (*Route, error) {
	for range 3 {
		now, err := s.route(ctx, tried.ID)
		if err != nil {
			return nil, err
		}
		if now != nil && now.epoch() != old.epoch() {
			return now, s.confirm(ctx)
		}
		fence, err := s.fence(ctx, tried, old)
		if err != nil {
			return nil, err
		}
		if err := s.writeRoute(ctx, fence, now); !errors.Is(err, errConflict) {
			return fence, err
		}
	}
	return nil, errConflict
}

// fence is old again, or a route that says that the tenant is in shared, with a new epoch.
func (s *store) fence(ctx context.Context, tried, old *Route) (*Route, error) {
	epoch, opTime, err := s.nextEpoch(ctx, tried.Epoch)
	if err != nil {
		return nil, err
	}
	f := Route{ID: tried.ID, Aliases: tried.Aliases, Key: tried.Key, State: stateHome}
	if old != nil {
		f = *old
	}
	f.Epoch, f.OpTime, f.Who, f.When = epoch, opTime, tried.Who, tried.When
	return &f, nil
}

// nextEpoch takes the next number of the fleet's counter, which is above known. A counter that has
// fallen behind, since the control database was lost or restored, is lifted.
func (s *store) nextEpoch(ctx context.Context, known uint64) (epoch uint64, opTime bson.RawValue, err error) {
	for range 3 {
		epoch, opTime, err = s.raise(ctx, bson.D{{Key: "$inc", Value: bson.D{{Key: "value", Value: int64(1)}}}})
		if err != nil || epoch > known {
			return epoch, opTime, err
		}
		if _, _, err = s.raise(ctx, bson.D{{Key: "$max", Value: bson.D{{Key: "value", Value: int64(known)}}}}); err != nil {
			return 0, opTime, err
		}
	}
	return 0, opTime, errors.New("the epoch counter does not count")
}

// raise changes the counter and returns what it became. Two proxies that make the counter at once
// may get in each other's way, once.
func (s *store) raise(ctx context.Context, update bson.D) (value uint64, opTime bson.RawValue, err error) {
	var reply struct {
		Value struct {
			Value int64 `bson:"value"`
		} `bson:"value"`
		Concern *writeConcernError `bson:"writeConcernError"`
		OpTime  bson.RawValue      `bson:"operationTime"`
	}
	cmd := bson.D{
		{Key: "findAndModify", Value: countersColl},
		{Key: "query", Value: bson.D{{Key: "_id", Value: "epoch"}}},
		{Key: "update", Value: update},
		{Key: "upsert", Value: true},
		{Key: "new", Value: true},
		majority,
	}
	_, err = run(ctx, s.home, s.db, cmd, &reply)
	if hasCode(err, duplicateKey) {
		_, err = run(ctx, s.home, s.db, cmd, &reply)
	}
	if err != nil {
		return 0, opTime, err
	}
	return uint64(reply.Value.Value), reply.OpTime, reply.Concern.err("findAndModify")
}

// counter is the last epoch that anybody took; 0 where nobody did.
func (s *store) counter(ctx context.Context) (value uint64, err error) {
	err = each(ctx, s.home, s.db, bson.D{
		{Key: "find", Value: countersColl},
		{Key: "filter", Value: bson.D{{Key: "_id", Value: "epoch"}}},
		{Key: "limit", Value: 1},
		{Key: "singleBatch", Value: true},
	}, func(doc wire.Doc) error {
		v, _ := doc.Lookup("value")
		n, _ := v.Int()
		value = uint64(n)
		return nil
	})
	return value, err
}

// confirm returns when everything that was read before it is known to the majority: a write that
// the majority confirms comes after all of it. A route that a failover could take back must not
// be obeyed.
func (s *store) confirm(ctx context.Context) error {
	_, err := write(ctx, s.home, s.db, bson.D{{Key: "update", Value: countersColl}, {Key: "updates", Value: bson.A{bson.D{
		{Key: "q", Value: bson.D{{Key: "_id", Value: "confirmed"}}},
		{Key: "u", Value: bson.D{{Key: "$inc", Value: bson.D{{Key: "value", Value: int64(1)}}}}},
		{Key: "upsert", Value: true},
	}}}, majority})
	if hasCode(err, duplicateKey) { // another proxy made it in this moment
		return nil
	}
	return err
}

// fleetKeySize is in bytes.
const fleetKeySize = 32

// fleetKey reads the fleet's key and makes it where there is none. Whoever comes second reads what
// the first has made.
func (s *store) fleetKey(ctx context.Context) ([]byte, error) {
	key, err := s.readFleetKey(ctx)
	if err != nil || key != nil {
		return key, err
	}
	made := newFleetKey()
	_, err = write(ctx, s.home, s.db, bson.D{{Key: "insert", Value: keysColl}, {Key: "documents", Value: bson.A{
		bson.D{{Key: "_id", Value: "fleet"}, {Key: "key", Value: bson.Binary{Data: made}}},
	}}, majority})
	if err != nil && !hasCode(err, duplicateKey) {
		return nil, err
	}
	if key, err = s.readFleetKey(ctx); err == nil && key == nil {
		err = errors.New("the fleet key was made and is not there")
	}
	return key, err
}

func newFleetKey() []byte {
	key := make([]byte, fleetKeySize)
	_, _ = rand.Read(key) // never fails
	return key
}

func (s *store) readFleetKey(ctx context.Context) (key []byte, err error) {
	err = each(ctx, s.home, s.db, bson.D{
		{Key: "find", Value: keysColl},
		{Key: "filter", Value: bson.D{{Key: "_id", Value: "fleet"}}},
		{Key: "limit", Value: 1},
		{Key: "singleBatch", Value: true},
	}, func(doc wire.Doc) error {
		v, _ := doc.Lookup("key")
		if v.Type != bsoncore.TypeBinary || len(v.Data) != 5+fleetKeySize {
			return permanent{fmt.Errorf("the fleet key in %s.%s is not %d bytes", s.db, keysColl, fleetKeySize)}
		}
		key = slices.Clone(v.Data[5:])
		return nil
	})
	return key, err
}

func sortedRoutes(routes map[tenantID]*Route) []*Route {
	all := make([]*Route, 0, len(routes))
	for _, r := range routes {
		all = append(all, r)
	}
	slices.SortFunc(all, func(a, b *Route) int { return cmp.Compare(a.Key, b.Key) })
	return all
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
