package proxy

import (
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
		dropped bson.A
	}{
		{"made", nil, indexes("a", "b"), gone, wiretest.OK(), 11000, bson.A{"a", "b"}},
		{"there before", indexes("a"), indexes("a"), gone, wiretest.OK(), 11000, nil},
		{"one of them there before", indexes("a"), indexes("a", "b"), gone, wiretest.OK(), 96, nil},
		{"the answer is lost", nil, indexes("a"), wiretest.HangUp(), wiretest.OK(), 96, nil},
		{"it can not be taken back", nil, indexes("a"), gone, wiretest.Fail(13, "no"), 96, bson.A{"a"}},
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
			var dropped bson.A
			for _, c := range g.server.Commands("dropIndexes") {
				if c.DB != "app" {
					t.Errorf("dropped in %s", c.DB)
				}
				dropped, _ = c.Value("index").(bson.A)
			}
			if len(dropped) != len(tt.dropped) || len(dropped) > 0 && dropped[0] != tt.dropped[0] {
				t.Errorf("dropped %v, want %v", dropped, tt.dropped)
			}
		})
	}
}
