package main

import (
	"context"
	"fmt"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"
)

const (
	sharedDatabase = "smetasc_shared"
	isolatedTenant = "acme"
)

var (
	tenantNames  = map[string]string{"acme": "ACME Corp", "globex": "Globex", "initech": "Initech"}
	sharedTenant = []string{"globex", "initech"}
)

// batch is the documents of one collection, in the order they are written.
type batch struct {
	collection string
	documents  []any
}

// sharedSample writes what the application had before there was a proxy. Only
// into an empty database: what was tried out in an earlier run stays.
func sharedSample(ctx context.Context, db *mongo.Database) error {
	if has, err := hasAny(ctx, db.Collection("tenants"), bson.D{}); has || err != nil {
		return err
	}
	for _, coll := range []string{"orders", "invoices"} {
		index := mongo.IndexModel{
			Keys:    bson.D{{Key: "tenantId", Value: 1}, {Key: "number", Value: 1}},
			Options: options.Index().SetUnique(true),
		}
		if _, err := db.Collection(coll).Indexes().CreateOne(ctx, index); err != nil {
			return fmt.Errorf("index %s: %w", coll, err)
		}
	}
	for _, tenant := range sharedTenant {
		if err := insert(ctx, db, tenantSample(tenant)); err != nil {
			return err
		}
	}
	// The list of tenants last: it says that the rest is complete.
	return insert(ctx, db, platformSample())
}

// isolatedSample writes the isolated tenant's documents, as its application
// does: into the shared database, as far as it knows.
func isolatedSample(ctx context.Context, db *mongo.Database) error {
	mine := bson.D{{Key: "tenantId", Value: isolatedTenant}}
	if has, err := hasAny(ctx, db.Collection("tasks"), mine); has || err != nil {
		return err
	}
	return insert(ctx, db, tenantSample(isolatedTenant)) // tasks come last
}

func hasAny(ctx context.Context, coll *mongo.Collection, filter bson.D) (bool, error) {
	n, err := coll.CountDocuments(ctx, filter)
	return n > 0, err
}

func insert(ctx context.Context, db *mongo.Database, batches []batch) error {
	for _, b := range batches {
		if _, err := db.Collection(b.collection).InsertMany(ctx, b.documents); err != nil {
			return fmt.Errorf("insert %s: %w", b.collection, err)
		}
	}
	return nil
}

func platformSample() []batch {
	var users, tenants []any
	for _, t := range []string{"acme", "globex", "initech"} {
		mode := "shared"
		if t == isolatedTenant {
			mode = "per-tenant"
		}
		tenants = append(tenants, bson.D{{Key: "_id", Value: t}, {Key: "slug", Value: t}, {Key: "name", Value: tenantNames[t]}, {Key: "dbMode", Value: mode}, {Key: "package", Value: "full"}})
		for _, role := range []string{"admin", "clerk"} {
			users = append(users, bson.D{{Key: "_id", Value: userID(t, role)}, {Key: "tenantId", Value: t}, {Key: "email", Value: role + "@" + t + ".example"}, {Key: "role", Value: role}})
		}
	}
	return []batch{
		{"packages", []any{
			bson.D{{Key: "_id", Value: "basic"}, {Key: "modules", Value: bson.A{"orders"}}},
			bson.D{{Key: "_id", Value: "full"}, {Key: "modules", Value: bson.A{"orders", "accounting", "hrm", "projects"}}},
		}},
		{"roles", []any{
			bson.D{{Key: "_id", Value: "admin"}, {Key: "may", Value: bson.A{"read", "write"}}},
			bson.D{{Key: "_id", Value: "clerk"}, {Key: "may", Value: bson.A{"read"}}},
		}},
		{"users", users},
		{"tenants", tenants},
	}
}

func userID(tenant, role string) string { return tenant + "-" + role }

func tenantSample(tenant string) []batch {
	document := func(fields ...bson.E) bson.D {
		return append(bson.D{{Key: "_id", Value: bson.NewObjectID()}, {Key: "tenantId", Value: tenant}}, fields...)
	}
	id := func(document any) any { return document.(bson.D)[0].Value }

	var orders, items, invoices, transactions, employees, tasks []any
	for n, status := range []string{"paid", "paid", "open", "draft"} {
		orders = append(orders, document(
			bson.E{Key: "number", Value: n + 1}, bson.E{Key: "status", Value: status},
			bson.E{Key: "total", Value: float64(n+1) * 125}, bson.E{Key: "createdBy", Value: userID(tenant, "clerk")},
			bson.E{Key: "placedAt", Value: time.Date(2024, 3, n+1, 9, 0, 0, 0, time.UTC)}))
		for _, sku := range []string{"desk", "lamp"} {
			items = append(items, document(bson.E{Key: "order", Value: id(orders[n])}, bson.E{Key: "sku", Value: sku}, bson.E{Key: "qty", Value: n + 1}))
		}
	}
	for n := range 2 {
		invoices = append(invoices, document(bson.E{Key: "number", Value: fmt.Sprint("R-", n+1)}, bson.E{Key: "order", Value: id(orders[n])}, bson.E{Key: "amount", Value: float64(n+1) * 125}))
		transactions = append(transactions, document(bson.E{Key: "invoice", Value: id(invoices[n])}, bson.E{Key: "kind", Value: "payment"}, bson.E{Key: "amount", Value: float64(n+1) * 125}))
	}
	for _, name := range []string{"Ada", "Grace", "Edsger"} {
		employees = append(employees, document(bson.E{Key: "name", Value: name}, bson.E{Key: "department", Value: "sales"}))
	}
	project := document(bson.E{Key: "code", Value: "P1"}, bson.E{Key: "name", Value: "New warehouse"}, bson.E{Key: "lead", Value: id(employees[0])})
	for n, title := range []string{"Find a place", "Sign the lease", "Move in"} {
		tasks = append(tasks, document(bson.E{Key: "project", Value: id(project)}, bson.E{Key: "title", Value: title}, bson.E{Key: "done", Value: n == 0}))
	}
	return []batch{
		{"orders", orders},
		{"order_items", items},
		{"invoices", invoices},
		{"transactions", transactions},
		{"employees", employees},
		{"projects", []any{project}},
		{"tasks", tasks},
	}
}
