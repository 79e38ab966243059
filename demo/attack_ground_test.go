package demo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"

	"github.com/smetasc/tenantry/demo/internal/child"
	"github.com/smetasc/tenantry/demo/internal/proxy"
	"github.com/smetasc/tenantry/demo/internal/secantus"
)

// mark stands in every field of every document that an attacker may not see.
const mark = "VICTIM-0f1e2d"

// attackers are bound to their own rows: globex has them among others', acme in a database of its own.
var attackers = []string{"globex", "acme"}

// The victims: in shared, in a database of its own, and one in shared whose id is an attacker's to a
// collation that does not tell capitals.
var victims = []string{"umbrella", "wayne", "GLOBEX"}

// attackGround is a server with attackers' and victims' documents and a proxy before it. A bare one has
// no victims, and is else the same.
type attackGround struct {
	server *mongo.Database // shared, without a proxy
	open   *mongo.Database // as the application sees it
	as     map[string]*mongo.Database

	openAddress string
	addresses   map[string]string // of the attackers' listeners
}

func newAttackGround(t *testing.T, bare bool) *attackGround {
	t.Helper()
	home := secantus.Start(t, secantus.Options{})
	text := config("mixed", home) + `
[platform.bound]
users = "own"
packages = "read"
[[tenants]]
id = "umbrella"
key = "umbrella"
mode = "shared"
[[tenants]]
id = "wayne"
key = "wayne"
mode = "per-tenant"
[[tenants]]
id = "GLOBEX"
key = "globex2"
mode = "shared"
[guard]
leaks = "off"
`
	addresses := map[string]string{}
	for _, tenant := range attackers {
		address, err := child.FreeAddress()
		if err != nil {
			t.Fatal(err)
		}
		addresses[tenant] = address
		text += fmt.Sprintf("\n[[listeners]]\naddress = %q\ntenant = %q\nisolation = \"rows\"\n", address, tenant)
	}
	front := proxy.Start(t, text)
	g := &attackGround{server: open(t, home).Database(shared), open: open(t, front.URI).Database(shared), as: map[string]*mongo.Database{}, openAddress: front.Address, addresses: addresses}
	for tenant, address := range addresses {
		g.as[tenant] = open(t, "mongodb://"+address+"/").Database(shared)
	}
	for _, coll := range attackCollections {
		if err := g.open.CreateCollection(t.Context(), coll); err != nil {
			t.Fatal(err)
		}
		g.fill(t, coll, attackers, "own")
		if !bare {
			g.fill(t, coll, victims, mark)
		}
	}
	_, err := g.open.Collection("orders").Indexes().CreateOne(t.Context(), mongo.IndexModel{
		Keys:    bson.D{{Key: "state", Value: 1}},
		Options: options.Index().SetPartialFilterExpression(bson.D{{Key: "state", Value: "secret of " + mark}}),
	})
	if err != nil {
		t.Logf("a partial index: %v", err)
	}
	return g
}

var attackCollections = []string{"orders", "order_items", "tasks", "users", "packages", "roles"}

// fill inserts four documents of each tenant, whose every text is the word.
func (g *attackGround) fill(t *testing.T, coll string, tenants []string, word string) {
	t.Helper()
	for _, tenant := range tenants {
		if coll == "packages" && word == mark {
			continue // everybody may read them
		}
		if err := g.insert(t.Context(), coll, tenant, word); err != nil {
			t.Fatalf("fill %s: %v", coll, err)
		}
	}
}

func (g *attackGround) insert(ctx context.Context, coll, tenant, word string) error {
	var docs []any
	for n := range 4 {
		docs = append(docs, of("_id", fmt.Sprint(tenant, "-", n), "tenantId", tenant, "n", n, "secret", word, "state", word, "tags", arr{word, "tag"},
			"deep", of("secret", word), "in", coll, "ref", fmt.Sprint("globex-", n)))
	}
	_, err := g.open.Collection(coll).InsertMany(ctx, docs)
	return err
}

// victimsDocs are all documents of victims, as bytes.
func (g *attackGround) victimsDocs(t *testing.T) string {
	t.Helper()
	var all []string
	for _, db := range []*mongo.Database{g.server, g.server.Client().Database("smetasc_tenant_wayne"), g.server.Client().Database(own)} {
		for _, coll := range append(slices.Clone(attackCollections), "stolen") {
			cur, err := db.Collection(coll).Find(t.Context(), bson.D{{Key: "tenantId", Value: bson.D{{Key: "$nin", Value: attackers}}}},
				options.Find().SetSort(bson.D{{Key: "_id", Value: 1}}))
			if err != nil {
				t.Fatal(err)
			}
			for cur.Next(t.Context()) {
				all = append(all, db.Name()+"."+coll+" "+cur.Current.String())
			}
		}
	}
	slices.Sort(all)
	return fmt.Sprint(all)
}

// refill puts the documents back as they were.
func (g *attackGround) refill(t *testing.T) {
	t.Helper()
	for _, db := range []*mongo.Database{g.server, g.server.Client().Database("smetasc_tenant_wayne"), g.server.Client().Database(own)} {
		for _, coll := range append(slices.Clone(attackCollections), "stolen") {
			if _, err := db.Collection(coll).DeleteMany(t.Context(), bson.D{}); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, coll := range attackCollections {
		g.fill(t, coll, attackers, "own")
		g.fill(t, coll, victims, mark)
	}
}

// run sends a command and returns all that comes back: the reply, or the error with its reply.
func run(ctx context.Context, db *mongo.Database, cmd bson.D) (reply bson.Raw, code int) {
	if len(cmd) > 0 && cmd[len(cmd)-1].Key == "$db" { // the last word of a command may be its database
		db = db.Client().Database(cmd[len(cmd)-1].Value.(string))
		cmd = cmd[:len(cmd)-1]
	}
	reply, err := db.RunCommand(ctx, cmd).Raw()
	var refused mongo.CommandError
	if errors.As(err, &refused) {
		return append(slices.Clone(refused.Raw), refused.Message...), int(refused.Code)
	}
	var failed mongo.WriteException
	if errors.As(err, &failed) && len(failed.WriteErrors) > 0 {
		return failed.Raw, failed.WriteErrors[0].Code
	}
	if err != nil {
		return bson.Raw(err.Error()), -1
	}
	return reply, 0
}

func tells(reply []byte) bool { return bytes.Contains(reply, []byte(mark)) }
