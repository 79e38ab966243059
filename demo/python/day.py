"""An ERP's day over all tenants, where pymongo has forms of its own; the rest
of it is in ../node/day.mjs."""

from bson import decode_all
from pymongo import DeleteMany, DeleteOne, IndexModel, InsertOne, MongoClient, ReplaceOne, ReturnDocument, UpdateMany, UpdateOne
from pymongo.collation import Collation
from pymongo.errors import PyMongoError
from pymongo.read_preferences import ReadPreference

from ground import TENANTS, bulk_counts, changed, oid, step


def every(make):
    return [d for t in TENANTS for d in make(t)]


def by_id(docs):
    return sorted(docs, key=lambda d: str(d["_id"]))


def fill(db):
    step("stock, unique", lambda: db.stock.create_indexes([IndexModel([("tenantId", 1), ("sku", 1)], unique=True), IndexModel("qty")]))
    step("stock of all tenants", lambda: db.stock.insert_many(every(lambda t: [{"_id": oid(t, "stock", n), "tenantId": t, "sku": f"S{n}", "qty": 10 * n + TENANTS.index(t)} for n in (1, 2, 3, 4)])).inserted_ids)
    step("jobs of all tenants", lambda: db.jobs.insert_many(every(lambda t: [{"_id": oid(t, "job", n), "tenantId": t, "priority": 10 * n + TENANTS.index(t), "state": "waiting"} for n in (1, 2, 3)]), ordered=False).inserted_ids)


def reports(db):
    orders = db.orders
    step("by status", lambda: list(orders.aggregate([{"$group": {"_id": "$status", "n": {"$sum": 1}, "total": {"$sum": "$total"}}}, {"$sort": {"_id": 1}}])))
    step("with users", lambda: list(orders.aggregate([{"$lookup": {"from": "users", "localField": "createdBy", "foreignField": "_id", "as": "user"}}, {"$unwind": "$user"}, {"$group": {"_id": "$user.email", "n": {"$sum": 1}}}, {"$sort": {"_id": 1}}])))
    step("with items", lambda: list(orders.aggregate([{"$lookup": {"from": "order_items", "localField": "_id", "foreignField": "order", "as": "items"}}, {"$project": {"tenantId": 1, "items": {"$size": "$items"}}}, {"$sort": {"_id": 1}}])))
    step("allowDiskUse, let, comment", lambda: list(orders.aggregate([{"$match": {"$expr": {"$gt": ["$total", "$$least"]}}}, {"$sort": {"total": -1, "_id": 1}}, {"$limit": 4}, {"$project": {"total": 1}}], allowDiskUse=True, let={"least": 20}, comment="report")))
    step("raw batches", lambda: [d["number"] for batch in orders.find_raw_batches({}, {"number": 1}, sort=[("_id", 1)], batch_size=4) for d in decode_all(batch)])
    step("raw batches of a pipeline", lambda: [d["number"] for batch in orders.aggregate_raw_batches([{"$sort": {"_id": -1}}, {"$project": {"number": 1}}], batchSize=4) for d in decode_all(batch)])
    step("to_list", lambda: orders.find({"total": {"$gt": 30}}, {"number": 1}).sort([("number", 1), ("_id", 1)]).to_list(length=5))
    step("to_list of a pipeline", lambda: orders.aggregate([{"$sort": {"_id": 1}}, {"$project": {"number": 1}}], batchSize=3).to_list())
    step("estimated", lambda: [db.orders.estimated_document_count(), db.users.estimated_document_count(), db.nothing.estimated_document_count()])
    step("counts", lambda: [orders.count_documents({}), orders.count_documents({"status": "open"}), orders.count_documents({}, skip=3, limit=9), orders.count_documents({"tenantId": {"$in": ["acme", "initech"]}})])
    step("distinct", lambda: sorted(orders.distinct("status")))
    step("distinct of a cursor", lambda: sorted(orders.find({"number": {"$lt": 4}}).distinct("tenantId")))

    def rewound():
        cursor = orders.find({}, {"number": 1}).sort("_id", 1).batch_size(3)
        first = [next(cursor)["number"] for _ in range(5)]
        again = [d["number"] for d in cursor.clone().limit(4)]
        cursor.rewind()
        return [first, again, next(cursor)["number"]]

    step("rewound", rewound)
    step("one by its index", lambda: orders.find({}, {"number": 1}).sort("_id", 1)[7])
    step("a slice", lambda: list(orders.find({}, {"number": 1}).sort("_id", 1)[5:9]))
    step("hint, comment, max time", lambda: list(orders.find({"number": {"$lt": 3}}, {"_id": 0, "tenantId": 1, "number": 1}).hint([("tenantId", 1), ("number", 1)]).comment("why").max_time_ms(10_000).sort([("tenantId", 1), ("number", 1)])))
    step("min and max", lambda: by_id(db.stock.find({}, {"qty": 1}).hint([("qty", 1)]).min([("qty", 20)]).max([("qty", 40)])))
    step("ignoring case", lambda: by_id(db.employees.find({"name": "EMPLOYEE 2"}, {"name": 1}, collation=Collation("en", strength=2))))
    step("from a secondary if there is one", lambda: orders.with_options(read_preference=ReadPreference.SECONDARY_PREFERRED).count_documents({}))
    step("not limited", lambda: by_id(orders.find({}, {"number": 1}, allow_disk_use=True)))
    step("by regular expression", lambda: list(db.stock.find({"sku": {"$regex": "^s[12]$", "$options": "i"}}, {"sku": 1}).sort("_id")))
    step("elements", lambda: list(orders.find({"tags": {"$elemMatch": {"$in": ["web", "phone"]}}, "number": 3}, {"tags": {"$slice": 1}}).sort("_id")))


def nightly(db):
    step("update_many", lambda: changed(db.orders.update_many({"status": "draft"}, {"$set": {"status": "stale"}, "$currentDate": {"seen": True}})))
    step("and without the clock's", lambda: changed(db.orders.update_many({}, {"$unset": {"seen": ""}})))
    step("by a pipeline", lambda: changed(db.stock.update_many({"qty": {"$gt": 20}}, [{"$set": {"twice": {"$multiply": ["$qty", 2]}}}])))
    step("with array filters", lambda: changed(db.orders.update_many({}, {"$set": {"tags.$[t]": "internet"}}, array_filters=[{"t": "web"}])))
    step("delete_many", lambda: db.transactions.delete_many({"amount": {"$lt": 10}}).deleted_count)
    step("delete_many with a hint", lambda: db.stock.delete_many({"qty": {"$gte": 40}}, hint=[("qty", 1)]).deleted_count)
    step("orders now", lambda: list(db.orders.find({}, {"status": 1, "tags": 1}).sort("_id")))
    step("stock now", lambda: list(db.stock.find().sort("_id")))


def queues(db):
    def work():
        seen = []
        while len(seen) < 20:
            job = db.jobs.find_one_and_update({"state": "waiting"}, {"$set": {"state": "running"}, "$inc": {"tries": 1}}, sort=[("priority", -1)], return_document=ReturnDocument.AFTER)
            if job is None:
                break
            seen.append([job["tenantId"], job["priority"], job["tries"]])
        return seen

    step("jobs by priority", work)
    step("update_one, sorted", lambda: changed(db.jobs.update_one({"state": "running", "priority": {"$gt": 15}}, {"$set": {"state": "done"}}, sort={"priority": 1})))
    step("find_one_and_delete", lambda: db.jobs.find_one_and_delete({"state": "running"}, sort=[("priority", 1)]))
    step("find_one_and_replace", lambda: db.jobs.find_one_and_replace({"state": "done"}, {"tenantId": "acme", "priority": 99, "state": "new"}, return_document=ReturnDocument.AFTER))
    step("jobs now", lambda: list(db.jobs.find().sort("_id")))


def batches(uri, db):
    stock = db.stock
    step("of all tenants, stops", lambda: stock.insert_many(every(lambda t: [{"_id": oid(t, "stock", 10 + n), "tenantId": t, "sku": f"S{n}"} for n in (5, 1, 6)])))
    step("stock after it", lambda: [d["sku"] for d in stock.find().sort("_id")])
    step("of all tenants, goes on", lambda: stock.insert_many(every(lambda t: [{"_id": oid(t, "stock", 20 + n), "tenantId": t, "sku": f"S{n}"} for n in (5, 2, 7)]), ordered=False))
    step("stock after that", lambda: [d["sku"] for d in stock.find().sort("_id")])
    step(
        "bulk_write over tenants",
        lambda: bulk_counts(
            stock.bulk_write(
                every(
                    lambda t: [
                        InsertOne({"_id": oid(t, "stock", 30), "tenantId": t, "sku": "S30", "qty": 1}),
                        UpdateOne({"_id": oid(t, "stock", 30)}, {"$inc": {"qty": 1}}),
                        ReplaceOne({"tenantId": t, "sku": "S2"}, {"tenantId": t, "sku": "S2", "qty": 2}),
                        UpdateOne({"_id": oid(t, "stock", 31)}, {"$set": {"sku": "S31"}, "$setOnInsert": {"tenantId": t}}, upsert=True),
                        DeleteOne({"_id": oid(t, "stock", 3)}),
                    ]
                )
                + [UpdateMany({"sku": {"$in": ["S30", "S31"]}}, {"$set": {"new": True}}), DeleteMany({"sku": "S7"})]
            )
        ),
    )
    mixed = every(lambda t: [UpdateOne({"_id": oid(t, "stock", 1)}, {"$inc": {"qty": 1}}), InsertOne({"_id": oid(t, "stock", 40), "tenantId": t, "sku": "S1" if t != "acme" else "S40"})])
    step("bulk_write, stops", lambda: bulk_counts(stock.bulk_write(mixed)))
    step("bulk_write, goes on", lambda: bulk_counts(stock.bulk_write(mixed, ordered=False)))
    step("stock at last", lambda: list(stock.find().sort("_id")))

    # SecantusDB knows no stmtIds in this command, without which a retryable one can not be split.
    def over_collections():
        with MongoClient(uri, retryWrites=False) as plain:
            result = plain.bulk_write(
                every(lambda t: [InsertOne({"_id": oid(t, "paper", 1), "tenantId": t, "title": "x"}, namespace=f"{db.name}.papers"), UpdateOne({"sku": "S1", "tenantId": t}, {"$set": {"paper": True}}, namespace=f"{db.name}.stock")]),
                verbose_results=True,
            )
        return [result.inserted_count, result.matched_count, result.modified_count]

    step("bulk_write over collections", over_collections)
    step("papers", lambda: list(db.papers.find().sort("_id")))


def sessions(client, db, apart):
    with client.start_session() as session:

        def reads():
            cursor = db.orders.find({}, {"number": 1}, session=session).sort("_id").batch_size(4)
            return [d["number"] for d in cursor]

        step("cursor of a session", reads)
        if apart:
            return

        def commits():
            with session.start_transaction():
                n = db.stock.update_many({"sku": "S1"}, {"$inc": {"qty": 100}}, session=session).modified_count
                db.jobs.insert_many([{"_id": oid(t, "job", 50), "tenantId": t, "priority": 0} for t in TENANTS], session=session)
                return [n, [d["qty"] for d in db.stock.find({"sku": "S1"}, session=session).sort("_id").batch_size(2)]]

        step("transaction over tenants", commits)

        def aborts():
            with session.start_transaction():
                db.stock.delete_many({}, session=session)
                db.jobs.insert_one({"_id": oid("acme", "job", 51), "tenantId": "acme"}, session=session)
                left = db.stock.count_documents({}, session=session)
                session.abort_transaction()
            return [left, db.stock.count_documents({}), db.jobs.count_documents({"priority": 0})]

        step("transaction over tenants that aborts", aborts)

        def fails():
            try:
                with session.start_transaction():
                    db.jobs.insert_one({"_id": oid("globex", "job", 52), "tenantId": "globex"}, session=session)
                    db.stock.insert_one({"_id": oid("acme", "stock", 52), "tenantId": "acme", "sku": "S1"}, session=session)
            except PyMongoError as err:
                return [err.code, err.has_error_label("TransientTransactionError"), db.jobs.count_documents({"_id": oid("globex", "job", 52)})]

        step("transaction over tenants that fails", fails)


def collections(db):
    step("create, validated", lambda: db.create_collection("ledger", validator={"amount": {"$type": "number"}}, validationAction="error").name)
    step("entries", lambda: db.ledger.insert_many([{"_id": oid(t, "entry", 1), "tenantId": t, "amount": 1} for t in TENANTS]).inserted_ids)
    for t in TENANTS:
        step(f"{t}: not valid", lambda t=t: db.ledger.insert_one({"_id": oid(t, "entry", 2), "tenantId": t, "amount": "x"}))
        step(f"{t}: past the validator", lambda t=t: db.get_collection("ledger").insert_one({"_id": oid(t, "entry", 3), "tenantId": t, "amount": "y"}, bypass_document_validation=True).inserted_id)
    step("options", lambda: db.ledger.options())
    step("index information", lambda: {k: {"key": v["key"], "unique": v.get("unique")} for k, v in sorted(db.stock.index_information().items())})
    step("an index with options", lambda: db.ledger.create_index([("tenantId", 1), ("amount", 1)], name="amounts", partialFilterExpression={"amount": {"$gt": 1}}))
    step("the same name, other keys", lambda: db.ledger.create_index([("tenantId", -1)], name="amounts"))
    step("drop it", lambda: db.ledger.drop_index("amounts"))
    step("drop all", lambda: db.stock.drop_indexes())
    step("left", lambda: sorted(db.stock.index_information()))
    step("by command", lambda: [db.command("count", "stock")["n"], db.command({"distinct": "stock", "key": "tenantId", "query": {"tenantId": "acme"}})["values"]])


def work(uri, client, db, apart):
    fill(db)
    reports(db)
    nightly(db)
    queues(db)
    batches(uri, db)
    sessions(client, db, apart)
    collections(db)
