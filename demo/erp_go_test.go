package demo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"
)

// goERP is the small ERP of node/erp.mjs with the Go driver: what is left out,
// and why, stands there.
type goERP struct {
	out    io.Writer
	client *mongo.Client
	db     *mongo.Database
	line   int

	// plain leaves out what the embedded FerretDB lacks: transactions, array
	// filters, sessions and the server's own words in errors.
	plain bool
}

var goTenants = []string{"acme", "globex", "initech"}

var goKinds = []string{"user", "order", "item", "invoice", "transaction", "employee", "task"}

// runGo does the whole work and writes one line of JSON per operation. The
// error it returns is about the run itself, never about an operation.
func runGo(ctx context.Context, out io.Writer, uri, database string, plain bool) error {
	client, err := mongo.Connect(options.Client().ApplyURI(uri).SetServerSelectionTimeout(10 * time.Second))
	if err != nil {
		return err
	}
	defer client.Disconnect(context.WithoutCancel(ctx))
	e := &goERP{out: out, client: client, db: client.Database(database), plain: plain}
	e.definitions(ctx)
	for _, part := range []func(context.Context, string){e.fill, e.read, e.write, e.fail, e.transact} {
		for _, tenant := range goTenants {
			part(ctx, tenant)
		}
	}
	e.acrossTenants(ctx)
	if !plain { // FerretDB sorts by no key that it tells, and knows no bulkWrite command
		e.wholeCompany(ctx)
	}
	return ctx.Err()
}

// goID is an id made here, the same in each run.
func goID(tenant, kind string, n int) bson.ObjectID {
	id, err := bson.ObjectIDFromHex(fmt.Sprintf("65d0%04x%04x%012x",
		slices.Index(goTenants, tenant)+1, slices.Index(goKinds, kind)+1, n))
	if err != nil {
		panic(err)
	}
	return id
}

func goDay(n int) time.Time { return time.Date(2024, 1, 1+n, 0, 0, 0, 0, time.UTC) }

// step logs what an operation came to; a failed one is an outcome as well.
func (e *goERP) step(op string, work func() (any, error)) {
	e.line++
	fact := bson.D{{Key: "n", Value: e.line}, {Key: "op", Value: op}}
	if result, err := work(); err != nil {
		fact = append(fact, bson.E{Key: "error", Value: e.failure(err)})
	} else {
		fact = append(fact, bson.E{Key: "result", Value: result})
	}
	text, err := bson.MarshalExtJSON(fact, false, false)
	if err != nil {
		text = fmt.Appendf(nil, "%d %s: %v", e.line, op, err)
	}
	fmt.Fprintf(e.out, "%s\n", text)
}

func (e *goERP) failure(err error) bson.D {
	if e.plain && mongo.IsDuplicateKeyError(err) {
		return bson.D{{Key: "code", Value: 11000}}
	}
	var (
		command mongo.CommandError
		write   mongo.WriteException
		bulk    mongo.BulkWriteException
	)
	switch {
	case errors.As(err, &command):
		return bson.D{{Key: "code", Value: command.Code}, {Key: "name", Value: command.Name}, {Key: "message", Value: command.Message}, {Key: "labels", Value: command.Labels}}
	case errors.As(err, &write):
		list := bson.A{}
		for _, w := range write.WriteErrors {
			list = append(list, bson.D{{Key: "index", Value: w.Index}, {Key: "code", Value: w.Code}, {Key: "message", Value: w.Message}})
		}
		return bson.D{{Key: "writeErrors", Value: list}, {Key: "labels", Value: write.Labels}}
	case errors.As(err, &bulk):
		list := bson.A{}
		for _, w := range bulk.WriteErrors {
			list = append(list, bson.D{{Key: "index", Value: w.Index}, {Key: "code", Value: w.Code}, {Key: "message", Value: w.Message}})
		}
		return bson.D{{Key: "bulkErrors", Value: list}, {Key: "labels", Value: bulk.Labels}}
	}
	return bson.D{{Key: "message", Value: err.Error()}}
}

func (e *goERP) definitions(ctx context.Context) {
	unique := func(coll string, keys ...string) {
		spec := bson.D{{Key: "tenantId", Value: 1}}
		for _, k := range keys {
			spec = append(spec, bson.E{Key: k, Value: 1})
		}
		e.step("index of "+coll, func() (any, error) {
			return e.db.Collection(coll).Indexes().CreateOne(ctx, mongo.IndexModel{Keys: spec, Options: options.Index().SetUnique(true)})
		})
	}
	unique("orders", "number")
	unique("order_items", "order", "sku")
	unique("invoices", "number")
	e.step("create tasks", func() (any, error) { return nil, e.db.CreateCollection(ctx, "tasks") })
	e.step("indexes of orders", func() (any, error) {
		list, err := e.db.Collection("orders").Indexes().ListSpecifications(ctx)
		var names []string
		for _, i := range list {
			names = append(names, fmt.Sprintf("%s %s unique=%v", i.Name, i.KeysDocument, i.Unique != nil && *i.Unique))
		}
		slices.Sort(names)
		return names, err
	})
	e.step("collections", func() (any, error) {
		names, err := e.db.ListCollectionNames(ctx, bson.D{})
		slices.Sort(names)
		return names, err
	})
}

func (e *goERP) fill(ctx context.Context, t string) {
	insert := func(coll, kind string, count int, fields func(n int) bson.D) {
		var docs []any
		for n := 1; n <= count; n++ {
			docs = append(docs, append(bson.D{{Key: "_id", Value: goID(t, kind, n)}, {Key: "tenantId", Value: t}}, fields(n)...))
		}
		e.step(t+": insert "+coll, func() (any, error) {
			r, err := e.db.Collection(coll).InsertMany(ctx, docs)
			if err != nil {
				return nil, err
			}
			return r.InsertedIDs, nil
		})
	}
	insert("users", "user", 2, func(n int) bson.D {
		return bson.D{{Key: "email", Value: fmt.Sprintf("user%d@%s.example", n, t)}}
	})
	insert("orders", "order", 6, func(n int) bson.D {
		return bson.D{
			{Key: "number", Value: n},
			{Key: "status", Value: []string{"draft", "open", "paid"}[n%3]},
			{Key: "customer", Value: bson.D{{Key: "name", Value: fmt.Sprint("Customer ", n%2)}, {Key: "city", Value: []string{"Oslo", "Rome"}[n%2]}}},
			{Key: "tags", Value: bson.A{"web", fmt.Sprint("t", n)}},
			{Key: "total", Value: float64(n) * 12.5},
			{Key: "placedAt", Value: goDay(n)},
			{Key: "createdBy", Value: goID(t, "user", 1+n%2)},
		}
	})
	insert("order_items", "item", 8, func(n int) bson.D {
		return bson.D{{Key: "order", Value: goID(t, "order", 1+n%3)}, {Key: "sku", Value: fmt.Sprint("sku-", n)}, {Key: "qty", Value: n}}
	})
	insert("invoices", "invoice", 2, func(n int) bson.D {
		return bson.D{{Key: "number", Value: fmt.Sprint("R-", n)}, {Key: "amount", Value: 10 * n}}
	})
	insert("transactions", "transaction", 4, func(n int) bson.D { return bson.D{{Key: "amount", Value: n}} })
	insert("employees", "employee", 3, func(n int) bson.D { return bson.D{{Key: "name", Value: fmt.Sprint("Employee ", n)}} })
	insert("tasks", "task", 4, func(n int) bson.D {
		return bson.D{{Key: "title", Value: fmt.Sprint("Task ", n)}, {Key: "priority", Value: n % 2}}
	})
}

func (e *goERP) read(ctx context.Context, t string) {
	orders, mine := e.db.Collection("orders"), bson.E{Key: "tenantId", Value: t}
	e.step(t+": find", func() (any, error) {
		return all(ctx)(orders.Find(ctx, bson.D{mine, {Key: "total", Value: bson.D{{Key: "$gt", Value: 20}}}},
			options.Find().SetSort(bson.D{{Key: "number", Value: -1}}).SetLimit(3).SetProjection(bson.D{{Key: "number", Value: 1}, {Key: "total", Value: 1}})))
	})
	e.step(t+": find, skip", func() (any, error) {
		return all(ctx)(orders.Find(ctx, bson.D{mine}, options.Find().SetSort(bson.D{{Key: "number", Value: 1}}).SetSkip(4)))
	})
	e.step(t+": find in nested fields", func() (any, error) {
		return all(ctx)(orders.Find(ctx, bson.D{{Key: "customer.city", Value: "Rome"}, mine}, options.Find().SetSort(bson.D{{Key: "number", Value: 1}})))
	})
	e.step(t+": find in batches", func() (any, error) {
		return all(ctx)(orders.Find(ctx, bson.D{mine}, options.Find().SetSort(bson.D{{Key: "number", Value: 1}}).SetBatchSize(2)))
	})
	e.step(t+": cursor closed early", func() (any, error) {
		cursor, err := orders.Find(ctx, bson.D{mine}, options.Find().SetSort(bson.D{{Key: "number", Value: 1}}).SetBatchSize(2))
		if err != nil {
			return nil, err
		}
		cursor.Next(ctx)
		first := cursor.Current.Lookup("number")
		return first, cursor.Close(ctx)
	})
	e.step(t+": find one by _id", func() (any, error) { return one(orders.FindOne(ctx, bson.D{{Key: "_id", Value: goID(t, "order", 2)}})) })
	e.step(t+": find none by _id", func() (any, error) {
		return one(orders.FindOne(ctx, bson.D{{Key: "_id", Value: goID(t, "order", 99)}}))
	})
	e.step(t+": find by several _ids", func() (any, error) {
		ids := bson.A{goID(t, "order", 3), goID(t, "order", 1), goID(t, "order", 99)}
		return e.byID(ctx, orders, bson.D{{Key: "_id", Value: bson.D{{Key: "$in", Value: ids}}}}, 1, 0)
	})
	e.step(t+": count", func() (any, error) { return orders.CountDocuments(ctx, bson.D{mine}) })
	e.step(t+": distinct", func() (any, error) {
		var cities []string
		err := orders.Distinct(ctx, "customer.city", bson.D{mine}).Decode(&cities)
		slices.Sort(cities)
		return cities, err
	})
	e.step(t+": aggregate", func() (any, error) {
		return all(ctx)(orders.Aggregate(ctx, mongo.Pipeline{
			{{Key: "$match", Value: bson.D{mine}}},
			{{Key: "$group", Value: bson.D{{Key: "_id", Value: "$status"}, {Key: "total", Value: bson.D{{Key: "$sum", Value: "$total"}}}}}},
			{{Key: "$sort", Value: bson.D{{Key: "_id", Value: 1}}}},
		}))
	})
	e.step(t+": aggregate in batches", func() (any, error) {
		return all(ctx)(orders.Aggregate(ctx, mongo.Pipeline{
			{{Key: "$match", Value: bson.D{mine}}},
			{{Key: "$unwind", Value: "$tags"}},
			{{Key: "$sort", Value: bson.D{{Key: "number", Value: 1}, {Key: "tags", Value: 1}}}},
			{{Key: "$project", Value: bson.D{{Key: "number", Value: 1}, {Key: "tags", Value: 1}}}},
		}, options.Aggregate().SetBatchSize(2)))
	})
}

func (e *goERP) write(ctx context.Context, t string) {
	orders, mine := e.db.Collection("orders"), bson.E{Key: "tenantId", Value: t}
	number := func(n int) bson.D { return bson.D{mine, {Key: "number", Value: n}} }
	byID := func(n int) bson.D { return bson.D{{Key: "_id", Value: goID(t, "order", n)}} }
	set := func(k string, v any) bson.D { return bson.D{{Key: "$set", Value: bson.D{{Key: k, Value: v}}}} }

	e.step(t+": update one", func() (any, error) { return updated(orders.UpdateOne(ctx, number(1), set("status", "closed"))) })
	e.step(t+": update one by _id", func() (any, error) {
		return updated(orders.UpdateByID(ctx, goID(t, "order", 2), set("status", "closed")))
	})
	e.step(t+": update none", func() (any, error) { return updated(orders.UpdateOne(ctx, byID(99), set("status", "closed"))) })
	e.step(t+": update many", func() (any, error) { return updated(orders.UpdateMany(ctx, bson.D{mine}, set("seen", true))) })
	e.step(t+": upsert", func() (any, error) {
		return updated(orders.UpdateOne(ctx, number(50), bson.D{{Key: "$setOnInsert", Value: byID(50)}}, options.UpdateOne().SetUpsert(true)))
	})
	e.step(t+": replace one", func() (any, error) {
		return updated(orders.ReplaceOne(ctx, number(3), bson.D{mine, {Key: "number", Value: 3}, {Key: "total", Value: 3}}))
	})
	e.step(t+": find one and update", func() (any, error) {
		return one(orders.FindOneAndUpdate(ctx, number(4), bson.D{{Key: "$inc", Value: bson.D{{Key: "total", Value: 1}}}}, options.FindOneAndUpdate().SetReturnDocument(options.After)))
	})
	e.step(t+": find one and update by _id", func() (any, error) {
		return one(orders.FindOneAndUpdate(ctx, byID(5), set("status", "paid")))
	})
	e.step(t+": find one and replace", func() (any, error) {
		return one(orders.FindOneAndReplace(ctx, number(6), bson.D{mine, {Key: "number", Value: 6}}, options.FindOneAndReplace().SetReturnDocument(options.After)))
	})
	e.step(t+": find one and delete", func() (any, error) { return one(orders.FindOneAndDelete(ctx, number(50))) })
	e.step(t+": delete one by _id", func() (any, error) {
		return deleted(e.db.Collection("order_items").DeleteOne(ctx, bson.D{{Key: "_id", Value: goID(t, "item", 8)}}))
	})
	e.step(t+": delete many", func() (any, error) {
		return deleted(e.db.Collection("transactions").DeleteMany(ctx, bson.D{mine, {Key: "amount", Value: bson.D{{Key: "$gt", Value: 2}}}}))
	})
	insert := func(id, n int) mongo.WriteModel {
		return mongo.NewInsertOneModel().SetDocument(bson.D{{Key: "_id", Value: goID(t, "order", id)}, mine, {Key: "number", Value: n}})
	}
	e.step(t+": bulk write", func() (any, error) {
		return bulk(orders.BulkWrite(ctx, []mongo.WriteModel{
			insert(20, 20),
			insert(21, 21),
			mongo.NewUpdateOneModel().SetFilter(number(20)).SetUpdate(set("total", 20)),
			mongo.NewUpdateOneModel().SetFilter(byID(21)).SetUpdate(set("total", 21)),
			mongo.NewUpdateManyModel().SetFilter(bson.D{mine, {Key: "total", Value: 21}}).SetUpdate(set("many", true)),
			mongo.NewDeleteOneModel().SetFilter(byID(21)),
		}))
	})
	if !e.plain { // FerretDB says nothing of what an ordered batch did before its error
		e.step(t+": bulk write, ordered, stops", func() (any, error) {
			return bulk(orders.BulkWrite(ctx, []mongo.WriteModel{insert(30, 30), insert(31, 1), insert(32, 32)}))
		})
		e.step(t+": bulk write, unordered, goes on", func() (any, error) {
			return bulk(orders.BulkWrite(ctx, []mongo.WriteModel{insert(33, 1), insert(34, 34), insert(35, 2)}, options.BulkWrite().SetOrdered(false)))
		})
	}
	e.step(t+": orders now", func() (any, error) {
		return all(ctx)(orders.Find(ctx, bson.D{mine}, options.Find().SetSort(bson.D{{Key: "number", Value: 1}})))
	})
}

func (e *goERP) fail(ctx context.Context, t string) {
	orders, mine := e.db.Collection("orders"), bson.E{Key: "tenantId", Value: t}
	insert := func(id, n int) func() (any, error) {
		return func() (any, error) {
			return orders.InsertOne(ctx, bson.D{{Key: "_id", Value: goID(t, "order", id)}, mine, {Key: "number", Value: n}})
		}
	}
	e.step(t+": duplicate number", insert(90, 1))
	e.step(t+": duplicate _id", insert(1, 90))
	if e.plain {
		return
	}
	e.step(t+": duplicate by update", func() (any, error) {
		return orders.UpdateByID(ctx, goID(t, "order", 1), bson.D{{Key: "$set", Value: bson.D{{Key: "number", Value: 2}}}})
	})
	e.step(t+": unknown operator", func() (any, error) {
		return one(orders.FindOne(ctx, bson.D{mine, {Key: "number", Value: bson.D{{Key: "$odd", Value: 1}}}}))
	})
	e.step(t+": unknown stage", func() (any, error) {
		return all(ctx)(orders.Aggregate(ctx, mongo.Pipeline{{{Key: "$match", Value: bson.D{mine}}}, {{Key: "$odd", Value: bson.D{}}}}))
	})
}

func (e *goERP) transact(ctx context.Context, t string) {
	if e.plain {
		return
	}
	orders, tasks, mine := e.db.Collection("orders"), e.db.Collection("tasks"), bson.E{Key: "tenantId", Value: t}
	inTransaction := func(work func(context.Context) (any, error)) (any, error) {
		session, err := e.client.StartSession()
		if err != nil {
			return nil, err
		}
		defer session.EndSession(ctx)
		return session.WithTransaction(ctx, work)
	}
	e.step(t+": transaction that commits", func() (any, error) {
		return inTransaction(func(ctx context.Context) (any, error) {
			if _, err := one(e.db.Collection("users").FindOne(ctx, bson.D{{Key: "_id", Value: goID(t, "user", 1)}})); err != nil {
				return nil, err
			}
			if _, err := orders.UpdateByID(ctx, goID(t, "order", 1), bson.D{{Key: "$set", Value: bson.D{{Key: "paid", Value: true}}}}); err != nil {
				return nil, err
			}
			if _, err := tasks.InsertOne(ctx, bson.D{{Key: "_id", Value: goID(t, "task", 60)}, mine}); err != nil {
				return nil, err
			}
			return tasks.CountDocuments(ctx, bson.D{mine})
		})
	})
	e.step(t+": after it", func() (any, error) { return one(orders.FindOne(ctx, bson.D{{Key: "_id", Value: goID(t, "order", 1)}})) })
	e.step(t+": transaction that aborts", func() (any, error) {
		return inTransaction(func(ctx context.Context) (any, error) {
			if _, err := tasks.DeleteMany(ctx, bson.D{mine}); err != nil {
				return nil, err
			}
			n, err := tasks.CountDocuments(ctx, bson.D{mine})
			return nil, errors.Join(err, fmt.Errorf("changed my mind at %d tasks", n))
		})
	})
	e.step(t+": transaction with a duplicate", func() (any, error) {
		return inTransaction(func(ctx context.Context) (any, error) {
			if _, err := tasks.InsertOne(ctx, bson.D{{Key: "_id", Value: goID(t, "task", 61)}, mine}); err != nil {
				return nil, err
			}
			return orders.InsertOne(ctx, bson.D{{Key: "_id", Value: goID(t, "order", 61)}, mine, {Key: "number", Value: 1}})
		})
	})
	e.step(t+": tasks now", func() (any, error) {
		return all(ctx)(tasks.Find(ctx, bson.D{mine}, options.Find().SetSort(bson.D{{Key: "_id", Value: 1}})))
	})
}

// acrossTenants names several tenants without naming one: by _id.
func (e *goERP) acrossTenants(ctx context.Context) {
	var ids bson.A
	for _, t := range goTenants {
		ids = append(ids, goID(t, "order", 1), goID(t, "order", 2))
	}
	filter := bson.D{{Key: "_id", Value: bson.D{{Key: "$in", Value: ids}}}}
	e.step("orders of all tenants by _id", func() (any, error) {
		return e.byID(ctx, e.db.Collection("orders"), filter, -1, 0)
	})
	e.step("the same, two at a time", func() (any, error) {
		return e.byID(ctx, e.db.Collection("orders"), filter, 1, 2)
	})
}

// byID finds documents in the order of their _ids, given by the server or, where it does not tell
// the sort keys that the proxy merges by (FerretDB), made here.
func (e *goERP) byID(ctx context.Context, coll *mongo.Collection, filter bson.D, dir, batch int) (any, error) {
	opts := options.Find().SetBatchSize(int32(batch))
	if !e.plain {
		opts.SetSort(bson.D{{Key: "_id", Value: dir}})
	}
	found, err := all(ctx)(coll.Find(ctx, filter, opts))
	if docs, ok := found.([]bson.Raw); ok && e.plain {
		slices.SortFunc(docs, func(a, b bson.Raw) int {
			return dir * bytes.Compare(a.Lookup("_id").Value, b.Lookup("_id").Value)
		})
	}
	return found, err
}

// wholeCompany is what an application does with all of its tenants at once.
func (e *goERP) wholeCompany(ctx context.Context) {
	orders := e.db.Collection("orders")
	set := func(k string, v any) bson.D { return bson.D{{Key: "$set", Value: bson.D{{Key: k, Value: v}}}} }
	number := func(n int) bson.D { return bson.D{{Key: "number", Value: n}} }
	sorted := bson.D{{Key: "number", Value: -1}, {Key: "tenantId", Value: 1}}
	several := bson.D{{Key: "tenantId", Value: bson.D{{Key: "$in", Value: bson.A{"acme", "globex"}}}}}
	e.step("all: find, sorted, a page", func() (any, error) {
		return all(ctx)(orders.Find(ctx, bson.D{}, options.Find().SetSort(sorted).SetSkip(2).SetLimit(7).SetBatchSize(3)))
	})
	e.step("several: find, sorted", func() (any, error) {
		return all(ctx)(orders.Find(ctx, several, options.Find().SetSort(sorted).SetProjection(bson.D{{Key: "number", Value: 1}, {Key: "_id", Value: 0}})))
	})
	e.step("all: estimated count", func() (any, error) { return orders.EstimatedDocumentCount(ctx) })
	e.step("all: distinct", func() (any, error) {
		var cities []string
		err := orders.Distinct(ctx, "customer.city", bson.D{}).Decode(&cities)
		slices.Sort(cities)
		return cities, err
	})
	e.step("all: update many", func() (any, error) { return updated(orders.UpdateMany(ctx, number(1), set("audited", true))) })
	e.step("several: update many", func() (any, error) { return updated(orders.UpdateMany(ctx, several, set("seen", 2))) })
	e.step("all: update many by a pipeline", func() (any, error) {
		return updated(orders.UpdateMany(ctx, number(2), mongo.Pipeline{{{Key: "$set", Value: bson.D{{Key: "doubled", Value: bson.D{{Key: "$add", Value: bson.A{"$number", "$number"}}}}}}}}))
	})
	e.step("all: upsert many", func() (any, error) {
		return updated(orders.UpdateMany(ctx, number(70), bson.D{{Key: "$setOnInsert", Value: bson.D{{Key: "tenantId", Value: "acme"}, {Key: "_id", Value: goID("acme", "order", 70)}}}}, options.UpdateMany().SetUpsert(true)))
	})
	e.step("all: the first in a queue", func() (any, error) {
		queue := options.FindOneAndUpdate().SetSort(bson.D{{Key: "number", Value: -1}, {Key: "tenantId", Value: -1}}).SetReturnDocument(options.After)
		return one(orders.FindOneAndUpdate(ctx, bson.D{}, set("taken", true), queue))
	})
	e.step("several: insert, unordered", func() (any, error) {
		var docs []any
		for i, t := range []string{"acme", "globex", "initech", "acme"} {
			docs = append(docs, bson.D{{Key: "_id", Value: goID(t, "order", 80+i%3)}, {Key: "tenantId", Value: t}, {Key: "number", Value: 80 + i%3}})
		}
		r, err := orders.InsertMany(ctx, docs, options.InsertMany().SetOrdered(false))
		if err != nil {
			return nil, err
		}
		return r.InsertedIDs, nil
	})
	for _, ordered := range []bool{true, false} {
		e.step(fmt.Sprintf("several: client bulk write, ordered %v", ordered), func() (any, error) { return e.clientBulk(ctx, ordered) })
	}
	e.step("several: delete many", func() (any, error) {
		return deleted(orders.DeleteMany(ctx, append(several, bson.E{Key: "number", Value: bson.D{{Key: "$gte", Value: 80}}})))
	})
	e.step("all: delete one", func() (any, error) { return deleted(orders.DeleteOne(ctx, number(70))) })
	e.step("all: orders now", func() (any, error) {
		return all(ctx)(orders.Find(ctx, bson.D{}, options.Find().SetSort(sorted)))
	})
}

// clientBulk is a bulkWrite command over several collections and tenants, one write of which fails.
func (e *goERP) clientBulk(ctx context.Context, ordered bool) (any, error) {
	n := 90
	if ordered {
		n = 95
	}
	set := func(k string, v any) bson.D { return bson.D{{Key: "$set", Value: bson.D{{Key: k, Value: v}}}} }
	var writes []mongo.ClientBulkWrite
	add := func(coll string, m mongo.ClientWriteModel) {
		writes = append(writes, mongo.ClientBulkWrite{Database: e.db.Name(), Collection: coll, Model: m})
	}
	for _, t := range goTenants {
		add("orders", mongo.NewClientInsertOneModel().SetDocument(bson.D{{Key: "_id", Value: goID(t, "order", n)}, {Key: "tenantId", Value: t}, {Key: "number", Value: n}}))
	}
	add("users", mongo.NewClientUpdateOneModel().SetFilter(bson.D{{Key: "_id", Value: goID("acme", "user", 1)}}).SetUpdate(set("bulk", n)))
	add("orders", mongo.NewClientUpdateManyModel().SetFilter(bson.D{{Key: "number", Value: n}}).SetUpdate(set("bulk", true)))
	add("orders", mongo.NewClientUpdateOneModel().SetFilter(bson.D{{Key: "_id", Value: goID("acme", "order", n)}}).SetUpdate(set("saved", true)))
	add("orders", mongo.NewClientInsertOneModel().SetDocument(bson.D{{Key: "_id", Value: goID("acme", "order", n)}, {Key: "tenantId", Value: "acme"}, {Key: "number", Value: n}}))
	add("orders", mongo.NewClientDeleteManyModel().SetFilter(bson.D{{Key: "number", Value: n}}))
	r, err := e.client.BulkWrite(ctx, writes, options.ClientBulkWrite().SetOrdered(ordered).SetVerboseResults(true))
	var failed mongo.ClientBulkWriteException
	if errors.As(err, &failed) {
		codes := bson.D{}
		for i, w := range failed.WriteErrors {
			codes = append(codes, bson.E{Key: fmt.Sprint(i), Value: w.Code})
		}
		if r = failed.PartialResult; r == nil {
			return codes, nil
		}
		return bson.A{codes, r.InsertedCount, r.MatchedCount, r.ModifiedCount, r.DeletedCount, len(r.UpdateResults)}, nil
	}
	if err != nil {
		return nil, err
	}
	return bson.A{r.InsertedCount, r.MatchedCount, r.ModifiedCount, r.DeletedCount}, nil
}

// all reads a cursor to its end; its two steps take Find's results as they come.
func all(ctx context.Context) func(*mongo.Cursor, error) (any, error) {
	return func(cursor *mongo.Cursor, err error) (any, error) {
		if err != nil {
			return nil, err
		}
		docs := []bson.Raw{}
		err = cursor.All(ctx, &docs)
		return docs, err
	}
}

func one(r *mongo.SingleResult) (any, error) {
	raw, err := r.Raw()
	if errors.Is(err, mongo.ErrNoDocuments) {
		return nil, nil
	}
	return raw, err
}

func updated(r *mongo.UpdateResult, err error) (any, error) {
	if err != nil {
		return nil, err
	}
	return bson.D{{Key: "matched", Value: r.MatchedCount}, {Key: "modified", Value: r.ModifiedCount}, {Key: "upserted", Value: r.UpsertedID}}, nil
}

func deleted(r *mongo.DeleteResult, err error) (any, error) {
	if err != nil {
		return nil, err
	}
	return r.DeletedCount, nil
}

func bulk(r *mongo.BulkWriteResult, err error) (any, error) {
	if err != nil {
		return nil, err
	}
	return bson.D{{Key: "inserted", Value: r.InsertedCount}, {Key: "matched", Value: r.MatchedCount}, {Key: "modified", Value: r.ModifiedCount}, {Key: "deleted", Value: r.DeletedCount}}, nil
}

// firstLines shortens what a failed program printed.
func firstLines(s string, n int) string {
	lines := strings.SplitN(s, "\n", n+1)
	return strings.Join(lines[:min(n, len(lines))], "\n")
}
