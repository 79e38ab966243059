import static com.mongodb.client.model.Accumulators.sum;
import static com.mongodb.client.model.Aggregates.group;
import static com.mongodb.client.model.Aggregates.lookup;
import static com.mongodb.client.model.Aggregates.match;
import static com.mongodb.client.model.Aggregates.project;
import static com.mongodb.client.model.Filters.and;
import static com.mongodb.client.model.Filters.eq;
import static com.mongodb.client.model.Filters.gt;
import static com.mongodb.client.model.Filters.in;
import static com.mongodb.client.model.Filters.lt;
import static com.mongodb.client.model.Projections.fields;
import static com.mongodb.client.model.Projections.include;
import static com.mongodb.client.model.Sorts.ascending;
import static com.mongodb.client.model.Sorts.descending;
import static com.mongodb.client.model.Sorts.orderBy;
import static com.mongodb.client.model.Updates.combine;
import static com.mongodb.client.model.Updates.inc;
import static com.mongodb.client.model.Updates.push;
import static com.mongodb.client.model.Updates.set;
import static com.mongodb.client.model.Updates.setOnInsert;

import com.mongodb.MongoBulkWriteException;
import com.mongodb.MongoException;
import com.mongodb.MongoWriteException;
import com.mongodb.bulk.BulkWriteResult;
import com.mongodb.client.ClientSession;
import com.mongodb.client.MongoClient;
import com.mongodb.client.MongoClients;
import com.mongodb.client.MongoCollection;
import com.mongodb.client.MongoCursor;
import com.mongodb.client.MongoDatabase;
import com.mongodb.client.model.BulkWriteOptions;
import com.mongodb.client.model.CountOptions;
import com.mongodb.client.model.DeleteManyModel;
import com.mongodb.client.model.DeleteOneModel;
import com.mongodb.client.model.Filters;
import com.mongodb.client.model.FindOneAndUpdateOptions;
import com.mongodb.client.model.IndexOptions;
import com.mongodb.client.model.Indexes;
import com.mongodb.client.model.InsertManyOptions;
import com.mongodb.client.model.InsertOneModel;
import com.mongodb.client.model.ReplaceOneModel;
import com.mongodb.client.model.ReturnDocument;
import com.mongodb.client.model.UpdateManyModel;
import com.mongodb.client.model.UpdateOneModel;
import com.mongodb.client.model.UpdateOptions;
import com.mongodb.client.model.WriteModel;
import com.mongodb.client.result.UpdateResult;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.Callable;
import java.util.function.Function;
import java.util.stream.IntStream;
import org.bson.Document;
import org.bson.types.ObjectId;

/**
 * The same small ERP as ../node/erp.mjs, with the Java driver:
 *
 * <pre>java -cp 'LIBRARIES/*' Erp.java URI DATABASE</pre>
 *
 * One line per operation, the same from two fresh servers. What is left out, and why, stands there.
 */
public class Erp {
    static final List<String> TENANTS = List.of("acme", "globex", "initech");
    static int line = 0;

    final MongoClient client;
    final MongoDatabase db;
    final MongoCollection<Document> users, orders, items;

    Erp(MongoClient client, String name) {
        this.client = client;
        db = client.getDatabase(name);
        users = db.getCollection("users");
        orders = db.getCollection("orders");
        items = db.getCollection("order_items");
    }

    static ObjectId id(String tenant, int kind, int n) {
        return new ObjectId(String.format("65d0%04x%04x%012x", TENANTS.indexOf(tenant) + 1, kind, n));
    }

    /** What it came to is a line either way, and the run goes on. */
    static void step(String op, Callable<Object> work) {
        Document fact = new Document("n", ++line).append("op", op);
        try {
            fact.append("result", work.call());
        } catch (Exception e) {
            fact.append("error", failure(e));
        }
        System.out.println(fact.toJson());
    }

    static Document failure(Exception e) {
        Document fact = new Document("type", e.getClass().getSimpleName());
        if (e instanceof MongoBulkWriteException bulk) {
            List<Document> all = new ArrayList<>();
            bulk.getWriteErrors().forEach(w -> all.add(new Document("index", w.getIndex()).append("code", w.getCode()).append("message", w.getMessage())));
            return fact.append("writeErrors", all).append("counts", counts(bulk.getWriteResult()));
        }
        if (e instanceof MongoWriteException write) {
            return fact.append("code", write.getCode()).append("message", write.getError().getMessage());
        }
        return fact.append("code", e instanceof MongoException m ? m.getCode() : null).append("labels", e instanceof MongoException m ? m.getErrorLabels().stream().sorted().toList() : null);
    }

    static Document counts(BulkWriteResult r) {
        return new Document("inserted", r.getInsertedCount()).append("matched", r.getMatchedCount()).append("modified", r.getModifiedCount()).append("deleted", r.getDeletedCount())
            .append("upserted", r.getUpserts().stream().map(u -> new Document("index", u.getIndex()).append("id", u.getId())).toList());
    }

    static Document changed(UpdateResult r) {
        return new Document("matched", r.getMatchedCount()).append("modified", r.getModifiedCount()).append("upserted", r.getUpsertedId());
    }

    static List<Document> each(Function<String, List<Document>> make) {
        return TENANTS.stream().flatMap(t -> make.apply(t).stream()).toList();
    }

    static List<Document> all(Iterable<Document> docs) {
        List<Document> out = new ArrayList<>();
        docs.forEach(out::add);
        return out;
    }

    void fill() {
        step("unique numbers", () -> orders.createIndex(Indexes.ascending("tenantId", "number"), new IndexOptions().unique(true)));
        step("unique emails", () -> users.createIndex(Indexes.ascending("email"), new IndexOptions().unique(true)));
        step("users", () -> users.insertMany(each(t -> IntStream.of(1, 2).mapToObj(n -> new Document("_id", id(t, 1, n)).append("tenantId", t).append("email", n + "@" + t)).toList())).getInsertedIds().size());
        step("orders of all tenants", () -> orders.insertMany(each(t -> IntStream.rangeClosed(1, 6).mapToObj(n -> new Document("_id", id(t, 2, n)).append("tenantId", t).append("number", n)
            .append("status", n % 2 == 0 ? "open" : "paid").append("total", n * 12.5).append("tags", List.of("t" + n)).append("createdBy", id(t, 1, 1 + n % 2))).toList())).getInsertedIds().size());
        step("items", () -> items.insertMany(each(t -> IntStream.rangeClosed(1, 4).mapToObj(n -> new Document("_id", id(t, 3, n)).append("tenantId", t).append("order", id(t, 2, 1 + n % 3)).append("qty", n)).toList())).getInsertedIds().size());
    }

    void read() {
        for (String t : TENANTS) {
            step(t + ": find", () -> all(orders.find(and(eq("tenantId", t), eq("status", "open"))).sort(descending("number")).projection(include("number", "total")).limit(2)));
            step(t + ": by _id", () -> orders.find(eq("_id", id(t, 2, 3))).first());
            step(t + ": count", () -> orders.countDocuments(eq("tenantId", t)));
        }
        step("find all, in batches", () -> {
            List<Object> seen = new ArrayList<>();
            try (MongoCursor<Document> c = orders.find().sort(orderBy(descending("total"), ascending("_id"))).batchSize(4).cursor()) {
                while (c.hasNext()) seen.add(c.next().get("number"));
            }
            return seen;
        });
        step("a page", () -> all(orders.find(gt("total", 20)).sort(ascending("_id")).skip(3).limit(4).projection(fields(include("number")))));
        step("counts", () -> List.of(orders.countDocuments(), orders.estimatedDocumentCount(), orders.countDocuments(eq("status", "open"), new CountOptions().skip(2).limit(5)), users.countDocuments()));
        step("distinct", () -> {
            List<String> seen = orders.distinct("status", String.class).into(new ArrayList<>());
            return seen.stream().sorted().toList();
        });
        step("by status", () -> all(orders.aggregate(List.of(group("$status", sum("n", 1), sum("total", "$total")), com.mongodb.client.model.Aggregates.sort(ascending("_id"))))));
        step("with users", () -> all(orders.aggregate(List.of(match(lt("number", 3)), lookup("users", "createdBy", "_id", "user"), project(include("number", "user.email")), com.mongodb.client.model.Aggregates.sort(ascending("_id"))))));
        step("with items", () -> all(orders.aggregate(List.of(lookup("order_items", "_id", "order", "items"), project(new Document("items", new Document("$size", "$items"))), com.mongodb.client.model.Aggregates.sort(ascending("_id")))).batchSize(5)));
    }

    void write() {
        for (String t : TENANTS) {
            step(t + ": updateOne", () -> changed(orders.updateOne(eq("_id", id(t, 2, 1)), combine(inc("total", 1), push("tags", "seen")))));
            step(t + ": upsert", () -> changed(orders.updateOne(and(eq("tenantId", t), eq("number", 70)), combine(set("total", 70), setOnInsert("_id", id(t, 2, 70))), new UpdateOptions().upsert(true))));
            step(t + ": upsert by _id", () -> changed(orders.updateOne(eq("_id", id(t, 2, 71)), combine(set("number", 71), set("tenantId", t)), new UpdateOptions().upsert(true))));
            step(t + ": duplicate", () -> orders.insertOne(new Document("_id", id(t, 2, 72)).append("tenantId", t).append("number", 1)).wasAcknowledged());
        }
        step("updateMany", () -> changed(orders.updateMany(eq("status", "open"), set("status", "late"))));
        step("next of all", () -> orders.findOneAndUpdate(eq("status", "late"), set("status", "taken"), new FindOneAndUpdateOptions().sort(orderBy(descending("total"), ascending("_id"))).returnDocument(ReturnDocument.AFTER)));
        step("findOneAndDelete", () -> orders.findOneAndDelete(eq("status", "taken")));
        step("deleteMany", () -> items.deleteMany(lt("qty", 2)).getDeletedCount());
        List<Document> twice = each(t -> List.of(new Document("_id", id(t, 2, 80)).append("tenantId", t).append("number", 80), new Document("_id", id(t, 2, 81)).append("tenantId", t).append("number", t.equals("acme") ? 81 : 1)));
        step("insertMany, stops", () -> orders.insertMany(twice).getInsertedIds().size());
        step("insertMany, goes on", () -> orders.insertMany(twice, new InsertManyOptions().ordered(false)).getInsertedIds().size());
        step("bulkWrite", () -> {
            List<WriteModel<Document>> all = new ArrayList<>();
            for (String t : TENANTS) {
                all.add(new InsertOneModel<>(new Document("_id", id(t, 2, 90)).append("tenantId", t).append("number", 90)));
                all.add(new UpdateOneModel<>(eq("_id", id(t, 2, 2)), set("total", 2)));
                all.add(new ReplaceOneModel<>(and(eq("tenantId", t), eq("number", 3)), new Document("tenantId", t).append("number", 3)));
                all.add(new DeleteOneModel<>(eq("_id", id(t, 2, 4))));
            }
            all.add(new UpdateManyModel<>(in("number", 90, 91), inc("total", 9)));
            all.add(new DeleteManyModel<>(eq("number", 5)));
            return counts(orders.bulkWrite(all, new BulkWriteOptions().ordered(true)));
        });
        step("orders now", () -> all(orders.find().sort(ascending("_id"))));
        step("items now", () -> all(items.find().sort(ascending("_id"))));
    }

    void transact() {
        try (ClientSession session = client.startSession()) {
            step("transaction", () -> session.withTransaction(() -> {
                for (String t : TENANTS) {
                    orders.insertOne(session, new Document("_id", id(t, 2, 100)).append("tenantId", t).append("number", 100));
                    users.updateOne(session, eq("_id", id(t, 1, 1)), inc("orders", 1));
                }
                return orders.countDocuments(session, eq("number", 100));
            }));
            step("transaction, given up", () -> session.withTransaction(() -> {
                orders.deleteMany(session, Filters.empty());
                throw new IllegalStateException("not after all");
            }));
            step("after both", () -> List.of(orders.countDocuments(), users.countDocuments(eq("orders", 1))));
        }
    }

    void define() {
        step("collections", () -> db.listCollectionNames().into(new ArrayList<>()).stream().sorted().toList());
        step("indexes", () -> orders.listIndexes().map(d -> d.getString("name")).into(new ArrayList<>()).stream().sorted().toList());
        step("drop an index", () -> {
            orders.dropIndex(Indexes.ascending("tenantId", "number"));
            return orders.listIndexes().into(new ArrayList<>()).size();
        });
    }

    public static void main(String[] args) {
        java.util.logging.Logger.getLogger("org.mongodb.driver").setLevel(java.util.logging.Level.OFF);
        try (MongoClient client = MongoClients.create(args[0])) {
            Erp erp = new Erp(client, args[1]);
            erp.fill();
            erp.read();
            erp.write();
            erp.transact();
            erp.define();
        }
    }
}
