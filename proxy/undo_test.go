package proxy

import (
	"reflect"
	"testing"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/smetasc/tenantry/wire/wiretest"
)

func indexes(names ...string) bson.D {
	var specs bson.A
	for _, name := range names {
		specs = append(specs, d("key", d(name, 1), "name", name, "unique", true))
	}
	return d("createIndexes", "orders", "indexes", specs)
}

// An index that a tenant's documents refuse is not left where they allow it; but what was there before
// stays, and so does what may have been.
func TestCreateIndexesTakenBack(t *testing.T) {
	gone := wiretest.Fail(11000, "E11000 duplicate key error collection: app_t_acme.orders index: a")
	for _, tt := range []struct {
		name    string
		before  bson.D // what shared has
		cmd     bson.D
		acme    wiretest.Reply
		drop    wiretest.Reply
		code    int32
		dropped any
	}{
		{"of a collection that is made for it", nil, indexes("a", "b"), gone, wiretest.OK(), 11000, bson.A{"a", "b"}},
		{"made", indexes("c"), indexes("a", "b"), gone, wiretest.OK(), 11000, bson.A{"a", "b"}},
		{"there before", indexes("a"), indexes("a"), gone, wiretest.OK(), 11000, nil},
		{"one of them there before", indexes("a"), indexes("a", "b"), gone, wiretest.OK(), 96, nil},
		{"the answer is lost", nil, indexes("a"), wiretest.HangUp(), wiretest.OK(), 96, nil},
		{"it can not be taken back", nil, indexes("a"), gone, wiretest.Fail(13, "no"), 96, "a"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g := newGround(t, nil)
			if tt.before != nil {
				g.server.Dial().Run("app", tt.before)
			}
			g.server.Handle(func(c wiretest.Command) wiretest.Reply {
				switch {
				case c.Name == "createIndexes" && c.DB == "app_t_acme":
					return tt.acme
				case c.Name == "dropIndexes":
					return tt.drop
				}
				return wiretest.Pass()
			})
			if r := g.client.Run("app", tt.cmd); wiretest.Get(r, "code") != tt.code {
				t.Errorf("%v, want code %d", r, tt.code)
			}
			var dropped any
			for _, c := range g.server.Commands("dropIndexes") {
				if c.DB != "app" {
					t.Errorf("dropped in %s", c.DB)
				}
				dropped = c.Value("index")
			}
			if !reflect.DeepEqual(dropped, tt.dropped) {
				t.Errorf("dropped %v, want %v", dropped, tt.dropped)
			}
		})
	}
}
