package secantus

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"
)

// race is a database of a server of its own, for half a minute.
func race(t *testing.T) (context.Context, *mongo.Database) {
	t.Helper()
	if testing.Short() {
		t.Skip("a real server: not with -short")
	}
	client, err := mongo.Connect(options.Client().ApplyURI(Start(t, Options{})))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Disconnect(context.Background()) })
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx, client.Database("race")
}

// The unpatched server hangs here: the collection is created while documents
// go into it, as Mongoose's autoCreate and autoIndex do.
func TestCreateBesideInsertsDoesNotHang(t *testing.T) {
	ctx, db := race(t)

	const rounds = 10
	for round := range rounds {
		coll := db.Collection(fmt.Sprint("c", round))
		var all sync.WaitGroup
		all.Go(func() {
			db.CreateCollection(ctx, coll.Name()) // 48 when an insert was first
		})
		all.Go(func() {
			index := mongo.IndexModel{Keys: bson.D{{Key: "tenantId", Value: 1}}}
			if _, err := coll.Indexes().CreateOne(ctx, index); err != nil {
				t.Errorf("create an index: %v", err)
			}
		})
		for n := range 4 {
			all.Go(func() {
				if _, err := coll.InsertOne(ctx, bson.D{{Key: "_id", Value: n}, {Key: "tenantId", Value: "acme"}}); err != nil {
					t.Errorf("insert: %v", err)
				}
			})
		}
		all.Wait()
		if n, err := coll.CountDocuments(ctx, bson.D{}); err != nil || n != 4 {
			t.Fatalf("round %d: %d documents, want 4 (%v)", round, n, err)
		}
	}
}

// The unpatched server makes a collection anew that was dropped while its name was being listed, as tenantry
// lists them while a restore drops and creates.
func TestDropBesideListingStaysDropped(t *testing.T) {
	ctx, db := race(t)

	const rounds, colls = 10, 12
	name := func(n int) string { return fmt.Sprint("c", n) }
	for round := range rounds {
		for n := range colls {
			if err := db.CreateCollection(ctx, name(n)); err != nil {
				t.Fatalf("round %d: %v", round, err)
			}
		}
		done := make(chan struct{})
		var listing, dropping sync.WaitGroup
		for range 3 {
			listing.Go(func() {
				for {
					select {
					case <-done:
						return
					default:
					}
					if _, err := db.ListCollectionSpecifications(ctx, bson.D{}); err != nil {
						t.Errorf("list: %v", err)
						return
					}
				}
			})
		}
		for n := range colls {
			dropping.Go(func() {
				if err := db.Collection(name(n)).Drop(ctx); err != nil {
					t.Errorf("drop: %v", err)
				}
			})
		}
		dropping.Wait()
		close(done)
		listing.Wait()
		if left, err := db.ListCollectionNames(ctx, bson.D{}); err != nil || len(left) > 0 {
			t.Fatalf("round %d: %v are there after their drop (%v)", round, left, err)
		}
	}
}
