package demo

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"
	"go.mongodb.org/mongo-driver/v2/mongo/readconcern"
	"go.mongodb.org/mongo-driver/v2/mongo/writeconcern"
	"go.mongodb.org/mongo-driver/v2/x/mongo/driver/xoptions"
)

// What mongodump, mongorestore, mongoexport and mongoimport (100.x) send, command by command and in their
// order, with the driver that they use. They write files between; here it stays in memory, as the same bytes.

// toolBatch is how many documents mongorestore and mongoimport send at once.
const toolBatch = 1000

// toolParallel is how many collections are dumped at once. One at a time is restored (-j 1): a
// listCollections at the time of a drop makes SecantusDB have the collection again, without options, so that
// the create behind the drop is refused with 48. The proxy lists collections from time to time.
const toolParallel = 4

// toolClient connects as every tool does.
func toolClient(ctx context.Context, name, uri string) (*mongo.Client, error) {
	client, err := mongo.Connect(options.Client().ApplyURI(uri).SetAppName(name).SetWriteConcern(writeconcern.Majority()))
	if err != nil {
		return nil, err
	}
	return client, client.Ping(ctx, nil)
}

// nodeType is how tools tell a mongos from a replica set.
func nodeType(ctx context.Context, client *mongo.Client) (string, error) {
	var hello struct {
		SetName, Hosts any
		Msg            string
	}
	if err := client.Database("admin").RunCommand(ctx, bson.M{"ismaster": 1}).Decode(&hello); err != nil {
		return "", fmt.Errorf("ismaster: %w", err)
	}
	switch {
	case hello.SetName != nil || hello.Hosts != nil:
		return "replset", nil
	case hello.Msg == "isdbgrid":
		return "mongos", nil
	}
	return "standalone", nil
}

// collectionInfo is a row of listCollections as tools read it.
type collectionInfo struct {
	Name, Type string
	Options    bson.D
	Info       struct{ UUID *bson.Binary }
}

// collectionInfos lists a database, or the one collection of the name.
func collectionInfos(ctx context.Context, db *mongo.Database, name string) (infos []collectionInfo, err error) {
	filter := bson.D{}
	if name != "" {
		filter = bson.D{{Key: "name", Value: name}}
	}
	cursor, err := db.ListCollections(ctx, filter)
	if err != nil {
		return nil, fmt.Errorf("listCollections: %w", err)
	}
	return infos, cursor.All(ctx, &infos)
}

// dumpedCollection is what a dump has of one collection: its metadata file and its data file.
type dumpedCollection struct {
	db, name, kind string
	uuid           *bson.Binary
	options        bson.D
	indexes        []bson.D
	docs           []bson.Raw
}

type dumpOptions struct {
	db, collection     string // empty: all of them
	query              bson.D
	oplog              bool
	viewsAsCollections bool
}

// mongodump dumps what the options say.
func mongodump(ctx context.Context, uri string, o dumpOptions) ([]*dumpedCollection, error) {
	client, err := toolClient(ctx, "mongodump", uri)
	if err != nil {
		return nil, err
	}
	defer client.Disconnect(ctx)
	node, err := nodeType(ctx, client)
	if err != nil {
		return nil, err
	}
	// Atlas alone answers this.
	if client.Database("admin").RunCommand(ctx, bson.M{"atlasVersion": 1}).Err() == nil {
		return nil, errors.New("taken for an Atlas proxy")
	}
	if o.oplog && node == "mongos" {
		return nil, errors.New("can't use --oplog option when dumping from a mongos")
	}
	if o.collection != "" {
		if infos, err := collectionInfos(ctx, client.Database(o.db), o.collection); err != nil || len(infos) == 0 {
			return nil, err
		}
	}
	if err := client.Ping(ctx, nil); err != nil {
		return nil, err
	}
	all, err := dumpList(ctx, client, o)
	if err != nil {
		return nil, err
	}
	for _, c := range all { // the metadata files
		if c.kind == "view" {
			continue
		}
		cursor, err := client.Database(c.db).Collection(c.name).Indexes().List(ctx)
		if err != nil {
			return nil, fmt.Errorf("listIndexes of %s: %w", c.name, err)
		}
		if err := cursor.All(ctx, &c.indexes); err != nil {
			return nil, err
		}
	}
	if err := client.Database("admin").RunCommand(ctx, bson.M{"buildInfo": 1}).Err(); err != nil { // --archive
		return nil, err
	}
	var start bson.Timestamp
	if o.oplog {
		if start, err = oplogStart(ctx, client); err != nil {
			return nil, err
		}
	}
	if err := inParallel(toolParallel, all, func(c *dumpedCollection) error { return dumpData(ctx, client, o, c) }); err != nil {
		return nil, err
	}
	if o.oplog {
		err = oplogSince(ctx, client, start)
	}
	return all, err
}

// dumpList finds what there is to dump, and how much, to begin with the largest.
func dumpList(ctx context.Context, client *mongo.Client, o dumpOptions) (all []*dumpedCollection, err error) {
	names := []string{o.db}
	if o.db == "" {
		if names, err = client.ListDatabaseNames(ctx, bson.D{}); err != nil {
			return nil, err
		}
	}
	for _, name := range names {
		if o.db == "" && (name == "local" || name == "config") {
			continue
		}
		infos, err := collectionInfos(ctx, client.Database(name), o.collection)
		if err != nil {
			return nil, err
		}
		for _, i := range infos {
			if strings.HasPrefix(i.Name, "system.") && i.Name != "system.js" && name != "admin" {
				continue
			}
			c := &dumpedCollection{db: name, name: i.Name, kind: i.Type, uuid: i.Info.UUID, options: i.Options}
			if i.Type != "view" {
				if _, err := client.Database(name).Collection(i.Name).EstimatedDocumentCount(ctx); err != nil {
					return nil, fmt.Errorf("count of %s: %w", i.Name, err)
				}
			}
			all = append(all, c)
		}
	}
	return all, nil
}

// dumpData reads a collection's documents.
func dumpData(ctx context.Context, client *mongo.Client, o dumpOptions, c *dumpedCollection) error {
	db := client.Database(c.db)
	if _, err := collectionInfos(ctx, db, c.name); err != nil { // again, to tell a view
		return err
	}
	if c.kind == "view" && !o.viewsAsCollections {
		return nil
	}
	filter := bson.D{}
	switch {
	case o.query != nil:
		filter = o.query
	case c.kind == "view":
		if _, err := db.Collection(c.name).CountDocuments(ctx, bson.D{}); err != nil {
			return fmt.Errorf("count of %s: %w", c.name, err)
		}
	default:
		// Its error is only written down: an engine that is not known is taken for a modern one.
		var stats bson.M
		if err := db.RunCommand(ctx, bson.M{"collStats": c.name}).Decode(&stats); err != nil {
			return fmt.Errorf("collStats of %s: %w", c.name, err)
		}
		if _, old := stats["numExtents"]; old {
			return errors.New("taken for MMAPv1")
		}
		if _, err := db.Collection(c.name).EstimatedDocumentCount(ctx); err != nil {
			return err
		}
	}
	cursor, err := db.Collection(c.name).Find(ctx, filter)
	if err != nil {
		return fmt.Errorf("find in %s: %w", c.name, err)
	}
	return cursor.All(ctx, &c.docs)
}

// oplogStart is where a dump with --oplog begins: with the oldest open transaction, else with the
// newest entry.
func oplogStart(ctx context.Context, client *mongo.Client) (bson.Timestamp, error) {
	if err := client.Database("admin").RunCommand(ctx, bson.M{"isMaster": 1}).Err(); err != nil {
		return bson.Timestamp{}, err
	}
	open := client.Database("config").Collection("transactions", options.Collection().SetReadConcern(readconcern.Local())).FindOne(ctx,
		bson.D{{Key: "state", Value: bson.D{{Key: "$in", Value: bson.A{"prepared", "inProgress"}}}}},
		options.FindOne().SetSort(bson.D{{Key: "startOpTime", Value: 1}}))
	if err := open.Err(); !errors.Is(err, mongo.ErrNoDocuments) {
		return bson.Timestamp{}, fmt.Errorf("config.transactions: %w", err)
	}
	return oplogEnd(ctx, client, -1)
}

// oplogEnd is the time of the newest entry (-1), or of the oldest (1).
func oplogEnd(ctx context.Context, client *mongo.Client, natural int) (bson.Timestamp, error) {
	var entry struct{ TS bson.Timestamp }
	err := client.Database("local").Collection("oplog.rs").FindOne(ctx, bson.D{},
		options.FindOne().SetSort(bson.M{"$natural": natural}).SetSkip(0)).Decode(&entry)
	if err != nil {
		return bson.Timestamp{}, fmt.Errorf("oplog: %w", err)
	}
	return entry.TS, nil
}

// oplogSince reads what was written while the dump was made.
func oplogSince(ctx context.Context, client *mongo.Client, start bson.Timestamp) error {
	end, err := oplogEnd(ctx, client, -1)
	if err != nil {
		return err
	}
	if _, err := oplogEnd(ctx, client, 1); err != nil {
		return err
	}
	cursor, err := client.Database("local").Collection("oplog.rs").Find(ctx,
		bson.M{"$and": bson.A{bson.M{"ts": bson.M{"$gte": start}}, bson.M{"ts": bson.M{"$lte": end}}}},
		options.Find().SetOplogReplay(true)) //nolint:staticcheck // it is what they send
	if err != nil {
		return err
	}
	return cursor.All(ctx, &[]bson.Raw{})
}

type restoreOptions struct {
	drop, preserveUUID, ordered, stopOnError, bypassValidation bool
	replay                                                     []bson.D // the oplog's entries of --oplogReplay
}

// mongorestore restores a dump.
func mongorestore(ctx context.Context, uri string, dump []*dumpedCollection, o restoreOptions) error {
	client, err := toolClient(ctx, "mongorestore", uri)
	if err != nil {
		return err
	}
	defer client.Disconnect(ctx)
	if err := client.Database("admin").RunCommand(ctx, bson.M{"buildInfo": 1}).Err(); err != nil {
		return err
	}
	for range 2 { // for a mongos, and for the write concern
		if _, err := nodeType(ctx, client); err != nil {
			return err
		}
	}
	if o.preserveUUID {
		infos, err := collectionInfos(ctx, client.Database("admin"), "system.version")
		if err != nil {
			return err
		}
		if len(infos) == 0 || infos[0].Info.UUID == nil {
			return errors.New("target host does not support --preserveUUID")
		}
	}
	known := map[string][]string{}
	for _, c := range dump {
		if _, ok := known[c.db]; ok {
			continue
		}
		infos, err := collectionInfos(ctx, client.Database(c.db), "")
		if err != nil {
			return err
		}
		known[c.db] = []string{}
		for _, i := range infos {
			known[c.db] = append(known[c.db], i.Name)
		}
	}
	err = inParallel(1, dump, func(c *dumpedCollection) error {
		return restoreData(ctx, client, c, slices.Contains(known[c.db], c.name), o)
	})
	if err != nil {
		return err
	}
	for _, entry := range o.replay {
		if err := client.Database("admin").RunCommand(ctx, bson.D{{Key: "applyOps", Value: bson.A{entry}}}).Err(); err != nil {
			return fmt.Errorf("applyOps: %w", err)
		}
	}
	return inParallel(1, dump, func(c *dumpedCollection) error { return restoreIndexes(ctx, client, c) })
}

// restoreData makes a collection and fills it.
func restoreData(ctx context.Context, client *mongo.Client, c *dumpedCollection, exists bool, o restoreOptions) error {
	db := client.Database(c.db)
	if exists && o.drop {
		if err := db.Collection(c.name).Drop(ctx); err != nil {
			return fmt.Errorf("drop %s: %w", c.name, err)
		}
		exists = false
	}
	if !exists {
		create := append(bson.D{{Key: "create", Value: c.name}}, slices.DeleteFunc(slices.Clone(c.options), func(e bson.E) bool { return e.Key == "autoIndexId" })...)
		for _, index := range c.indexes {
			if lookup(index, "name") == "_id_" {
				create = append(create, bson.E{Key: "idIndex", Value: restoredIndex(c, index, o.preserveUUID)})
			}
		}
		cmd := create
		if o.preserveUUID {
			db = client.Database("admin")
			cmd = bson.D{{Key: "applyOps", Value: bson.A{bson.D{{Key: "op", Value: "c"}, {Key: "ns", Value: c.db + ".$cmd"}, {Key: "o", Value: create}, {Key: "ui", Value: c.uuid}}}}}
		}
		if err := db.RunCommand(ctx, cmd).Err(); err != nil {
			return fmt.Errorf("create %s: %w", c.name, err)
		}
	}
	if c.kind == "view" {
		return nil
	}
	bulk, err := newToolBulk(ctx, client.Database(c.db).Collection(c.name), o)
	if err != nil {
		return err
	}
	for _, doc := range c.docs {
		if err := bulk.add(ctx, mongo.NewInsertOneModel().SetDocument(doc)); err != nil {
			return err
		}
	}
	return bulk.flush(ctx)
}

// restoredIndex is an index as it is sent: of the collection's name now, and in the server's own version.
func restoredIndex(c *dumpedCollection, index bson.D, version bool) bson.D {
	index = slices.DeleteFunc(slices.Clone(index), func(e bson.E) bool { return e.Key == "ns" || e.Key == "v" && !version })
	return append(index, bson.E{Key: "ns", Value: c.db + "." + c.name})
}

// restoreIndexes makes a collection's indexes, when all documents are there.
func restoreIndexes(ctx context.Context, client *mongo.Client, c *dumpedCollection) error {
	var indexes bson.A
	for _, index := range c.indexes {
		if lookup(index, "name") != "_id_" {
			indexes = append(indexes, restoredIndex(c, index, false))
		}
	}
	if len(indexes) == 0 {
		return nil
	}
	err := client.Database(c.db).RunCommand(ctx, bson.D{
		{Key: "createIndexes", Value: c.name}, {Key: "indexes", Value: indexes}, {Key: "ignoreUnknownIndexOptions", Value: true},
	}).Err()
	if err != nil {
		return fmt.Errorf("createIndexes of %s: %w", c.name, err)
	}
	return nil
}

// toolBulk gathers writes as mongorestore and mongoimport do.
type toolBulk struct {
	coll   *mongo.Collection
	models []mongo.WriteModel
	o      *options.BulkWriteOptionsBuilder
	stop   bool
}

// newToolBulk first finds out whether the server takes empty timestamps as they are.
func newToolBulk(ctx context.Context, coll *mongo.Collection, o restoreOptions) (*toolBulk, error) {
	bulk := options.BulkWrite().SetOrdered(o.ordered).SetBypassDocumentValidation(o.bypassValidation)
	probe, bypass := options.UpdateOne(), bson.D{{Key: "bypassEmptyTsReplacement", Value: true}}
	if err := xoptions.SetInternalUpdateOneOptions(probe, "addCommandFields", bypass); err != nil {
		return nil, err
	}
	_, err := coll.Database().Client().Database("_mongorestore_dummy").Collection("_mongorestore_dummy.dummy").UpdateOne(ctx,
		bson.D{{Key: "____dummy", Value: 1}}, bson.D{{Key: "$rename", Value: bson.D{}}}, probe)
	var refused mongo.ServerError
	switch {
	case err == nil:
		err = xoptions.SetInternalBulkWriteOptions(bulk, "addCommandFields", bypass)
	case errors.As(err, &refused) && refused.HasErrorCode(40415):
		err = nil
	}
	if err != nil {
		return nil, fmt.Errorf("_mongorestore_dummy: %w", err)
	}
	return &toolBulk{coll: coll, o: bulk, stop: o.stopOnError || o.ordered}, nil
}

func (b *toolBulk) add(ctx context.Context, model mongo.WriteModel) error {
	if b.models = append(b.models, model); len(b.models) < toolBatch {
		return nil
	}
	return b.flush(ctx)
}

func (b *toolBulk) flush(ctx context.Context) error {
	if len(b.models) == 0 {
		return nil
	}
	_, err := b.coll.BulkWrite(ctx, b.models, b.o)
	b.models = nil
	var failed mongo.BulkWriteException
	if errors.As(err, &failed) && failed.WriteConcernError == nil && !b.stop &&
		!slices.ContainsFunc(failed.WriteErrors, func(e mongo.BulkWriteError) bool { return e.Code != 11000 && e.Code != 121 }) {
		return nil
	}
	return err
}

// mongoexport reads a collection as a dump of text would: by a hint where nothing else orders it.
func mongoexport(ctx context.Context, uri, db, coll string, query, sort bson.D) (docs []bson.D, err error) {
	client, err := toolClient(ctx, "mongoexport", uri)
	if err != nil {
		return nil, err
	}
	defer client.Disconnect(ctx)
	if _, err := nodeType(ctx, client); err != nil {
		return nil, err
	}
	infos, err := collectionInfos(ctx, client.Database(db), coll)
	if err != nil || len(infos) == 0 {
		return nil, err
	}
	c := client.Database(db).Collection(coll)
	if query == nil && infos[0].Type != "view" {
		if _, err := c.EstimatedDocumentCount(ctx); err != nil {
			return nil, err
		}
	}
	o := options.Find().SetSkip(0).SetLimit(0)
	if sort != nil {
		o.SetSort(sort)
	} else if query == nil && infos[0].Type != "view" {
		o.SetHint(bson.D{{Key: "_id", Value: 1}})
	}
	if query == nil {
		query = bson.D{}
	}
	cursor, err := c.Find(ctx, query, o)
	if err != nil {
		return nil, err
	}
	return docs, cursor.All(ctx, &docs)
}

// mongoimport writes documents in one of its modes: insert, upsert, merge or delete.
func mongoimport(ctx context.Context, uri, db, coll, mode string, by []string, drop bool, docs []bson.D) error {
	client, err := toolClient(ctx, "mongoimport", uri)
	if err != nil {
		return err
	}
	defer client.Disconnect(ctx)
	if _, err := nodeType(ctx, client); err != nil {
		return err
	}
	c := client.Database(db).Collection(coll)
	if drop {
		if err := c.Drop(ctx); err != nil {
			return err
		}
	}
	bulk, err := newToolBulk(ctx, c, restoreOptions{ordered: mode != "insert"})
	if err != nil {
		return err
	}
	for _, d := range docs {
		selector := bson.D{}
		for _, name := range by {
			selector = append(selector, bson.E{Key: name, Value: lookup(d, name)})
		}
		var model mongo.WriteModel
		switch mode {
		case "insert":
			model = mongo.NewInsertOneModel().SetDocument(d)
		case "upsert":
			model = mongo.NewReplaceOneModel().SetFilter(selector).SetReplacement(d).SetUpsert(true)
		case "merge":
			model = mongo.NewUpdateOneModel().SetFilter(selector).SetUpdate(bson.D{{Key: "$set", Value: d}}).SetUpsert(true)
		case "delete":
			model = mongo.NewDeleteOneModel().SetFilter(selector)
		}
		if err := bulk.add(ctx, model); err != nil {
			return err
		}
	}
	return bulk.flush(ctx)
}

// inParallel does the work for the collections, n at once, and returns the first error.
func inParallel(n int, all []*dumpedCollection, work func(*dumpedCollection) error) error {
	var group sync.WaitGroup
	todo := make(chan *dumpedCollection, len(all))
	for _, c := range all {
		todo <- c
	}
	close(todo)
	errs := make([]error, n)
	for i := range errs {
		group.Go(func() {
			for c := range todo {
				if errs[i] = work(c); errs[i] != nil {
					return
				}
			}
		})
	}
	group.Wait()
	return errors.Join(errs...)
}
