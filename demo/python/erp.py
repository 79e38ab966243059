"""The same small ERP as ../node/erp.mjs, with pymongo.

    python erp.py URI DATABASE [apart]

One line of JSON per operation, the same bytes from two fresh servers. What is
left out, and why, stands in erp.mjs; further, because SecantusDB's texts are
its own: unknown commands and fields, the inside of explain.
"""

import sys

from pymongo import (
    ASCENDING,
    DESCENDING,
    DeleteMany,
    DeleteOne,
    IndexModel,
    InsertOne,
    MongoClient,
    ReplaceOne,
    ReturnDocument,
    UpdateMany,
    UpdateOne,
)
from pymongo.read_concern import ReadConcern
from pymongo.write_concern import WriteConcern

import day
from ground import TENANTS, bulk_counts, changed, oid, step
from ground import day as date

def make_indexes(db):
    unique = {"orders": ["number"], "order_items": ["order", "sku"], "invoices": ["number"], "projects": ["code"]}
    for coll, keys in unique.items():
        model = IndexModel([("tenantId", ASCENDING)] + [(k, ASCENDING) for k in keys], unique=True)
        step(f"indexes of {coll}", lambda c=coll, m=model: db[c].create_indexes([m]))
    step("index by time", lambda: db.orders.create_index([("tenantId", ASCENDING), ("placedAt", DESCENDING)]))
    step("the same index again", lambda: db.orders.create_index([("tenantId", ASCENDING), ("placedAt", DESCENDING)]))
    step("unique email", lambda: db.users.create_index("email", unique=True))
    step("create a collection", lambda: db.create_collection("tasks").name)


def fill(db, t):
    def insert(coll, kind, docs):
        docs = [{"_id": oid(t, kind, n), "tenantId": t, **d} for n, d in docs]
        step(f"{t}: insert {coll}", lambda: db[coll].insert_many(docs).inserted_ids)

    insert("users", "user", [(n, {"email": f"user{n}@{t}.example", "name": f"User {n}"}) for n in (1, 2)])
    insert("employees", "employee", [(n, {"name": f"Employee {n}", "salary": 1000 * n}) for n in (1, 2, 3)])
    insert(
        "orders",
        "order",
        [
            (
                n,
                {
                    "number": n,
                    "status": ("draft", "open", "paid")[n % 3],
                    "customer": {"name": f"Customer {n % 2}", "address": {"city": "Rome" if n % 2 else "Oslo"}},
                    "tags": ["web", f"t{n}"] if n % 2 else ["phone"],
                    "total": n * 12.5,
                    "placedAt": date(n),
                    "createdBy": oid(t, "user", 1 + n % 2),
                },
            )
            for n in range(1, 8)
        ],
    )
    insert(
        "order_items",
        "item",
        [(n, {"order": oid(t, "order", 1 + n % 3), "sku": f"sku-{n}", "qty": n}) for n in range(1, 9)],
    )
    step(
        f"{t}: insert an invoice",
        lambda: db.invoices.insert_one({"_id": oid(t, "invoice", 1), "tenantId": t, "number": "R-1", "amount": 12.5}).inserted_id,
    )
    insert("transactions", "transaction", [(n, {"amount": n * 5, "kind": "in" if n % 2 else "out"}) for n in range(1, 5)])
    insert("projects", "project", [(1, {"code": "P1", "name": f"Project of {t}"})])
    insert("tasks", "task", [(n, {"title": f"Task {n}", "priority": n % 3, "done": n % 2 == 0}) for n in range(1, 6)])


def read(db, t):
    orders, mine = db.orders, {"tenantId": t}
    step(f"{t}: find", lambda: list(orders.find({**mine, "status": "open"}, {"number": 1, "customer.name": 1}).sort("number", -1).limit(2)))
    step(f"{t}: find, skip", lambda: list(orders.find(mine).sort([("total", -1)]).skip(1).limit(2)))
    step(f"{t}: find in nested fields", lambda: list(orders.find({**mine, "customer.address.city": "Rome"}, {"_id": 0, "number": 1}).sort("number")))
    step(f"{t}: find with $in", lambda: list(orders.find({"tenantId": {"$in": [t]}, "number": {"$in": [1, 3, 5]}}, {"number": 1}).sort("number")))
    step(f"{t}: find with $and", lambda: list(orders.find({"$and": [mine, {"total": {"$lt": 40}}]}, {"total": 1}).sort("total")))
    step(f"{t}: find_one by _id", lambda: orders.find_one(oid(t, "order", 3)))
    step(f"{t}: find by several _ids", lambda: list(orders.find({"_id": {"$in": [oid(t, "order", n) for n in (3, 1, 99)]}}).sort("_id")))
    step(f"{t}: find_one of nothing", lambda: orders.find_one({"_id": oid(t, "order", 99)}))
    step(f"{t}: cursor, two at a time", lambda: [d["number"] for d in orders.find(mine).sort("number").batch_size(2)])

    def closed_early():
        with orders.find(mine).sort("number").batch_size(2) as cursor:
            first = next(cursor)["number"]
            alive = cursor.alive
        return [first, alive, cursor.alive]

    step(f"{t}: cursor closed early", closed_early)
    step(f"{t}: count", lambda: orders.count_documents(mine))
    step(f"{t}: count, limit and skip", lambda: orders.count_documents(mine, skip=2, limit=3))
    step(f"{t}: count command", lambda: db.command("count", "orders", query=mine)["n"])
    step(f"{t}: distinct", lambda: sorted(orders.distinct("customer.address.city", mine)))
    step(
        f"{t}: aggregate",
        lambda: list(
            orders.aggregate(
                [
                    {"$match": mine},
                    {"$group": {"_id": "$status", "total": {"$sum": "$total"}, "n": {"$sum": 1}, "max": {"$max": "$number"}}},
                    {"$sort": {"_id": 1}},
                ]
            )
        ),
    )
    step(
        f"{t}: aggregate, unwind, in batches",
        lambda: list(
            orders.aggregate(
                [{"$match": mine}, {"$unwind": "$tags"}, {"$sort": {"number": 1, "tags": 1}}, {"$project": {"_id": 0, "number": 1, "tags": 1}}],
                batchSize=2,
            )
        ),
    )
    step(f"{t}: aggregate, facts", lambda: list(orders.aggregate([{"$match": mine}, {"$sortByCount": "$customer.address.city"}])))
    step(f"{t}: explain has", lambda: sorted(set(db.command("explain", {"find": "orders", "filter": mine})) & {"ok", "queryPlanner"}))


def write(db, t):
    orders, mine = db.orders, {"tenantId": t}
    step(f"{t}: update_one", lambda: changed(orders.update_one({**mine, "number": 1}, {"$set": {"status": "closed"}})))
    step(f"{t}: update_one by _id", lambda: changed(orders.update_one({"_id": oid(t, "order", 2)}, {"$inc": {"total": 1}})))
    step(f"{t}: update_one, nothing to do", lambda: changed(orders.update_one({**mine, "number": 1}, {"$set": {"status": "closed"}})))
    step(f"{t}: update_one of nothing", lambda: changed(orders.update_one({"_id": oid(t, "order", 99)}, {"$inc": {"total": 1}})))
    step(
        f"{t}: update_one, upsert",
        lambda: changed(orders.update_one({**mine, "number": 50}, {"$set": {"total": 5}, "$setOnInsert": {"_id": oid(t, "order", 50)}}, upsert=True)),
    )
    step(f"{t}: update_many", lambda: changed(orders.update_many({**mine, "status": "open"}, {"$push": {"tags": "many"}})))
    step(f"{t}: replace_one", lambda: changed(orders.replace_one({**mine, "number": 6}, {"tenantId": t, "number": 6, "total": 0})))
    step(f"{t}: replace_one by _id", lambda: changed(orders.replace_one({"_id": oid(t, "order", 7)}, {"tenantId": t, "number": 7, "total": 7})))
    step(
        f"{t}: find_one_and_update",
        lambda: orders.find_one_and_update({**mine, "number": 3}, {"$inc": {"total": 1}}, projection={"total": 1}, return_document=ReturnDocument.AFTER),
    )
    step(
        f"{t}: find_one_and_update, sorted",
        lambda: orders.find_one_and_update(mine, {"$set": {"last": True}}, sort=[("number", -1)], return_document=ReturnDocument.BEFORE),
    )
    step(f"{t}: find_one_and_update by _id", lambda: orders.find_one_and_update({"_id": oid(t, "order", 4)}, {"$unset": {"tags": ""}}))
    step(
        f"{t}: find_one_and_update, upsert",
        lambda: db.invoices.find_one_and_update(
            {**mine, "number": "R-9"}, {"$set": {"amount": 9}, "$setOnInsert": {"_id": oid(t, "invoice", 9)}}, upsert=True, return_document=ReturnDocument.AFTER
        ),
    )
    step(f"{t}: find_one_and_replace", lambda: db.projects.find_one_and_replace({**mine, "code": "P1"}, {"tenantId": t, "code": "P1", "name": "new"}))
    step(f"{t}: find_one_and_delete", lambda: orders.find_one_and_delete({**mine, "number": 50}))
    step(f"{t}: delete_one", lambda: db.order_items.delete_one({**mine, "sku": "sku-1"}).deleted_count)
    step(f"{t}: delete_one by _id", lambda: db.order_items.delete_one({"_id": oid(t, "item", 2)}).deleted_count)
    step(f"{t}: delete_one of nothing", lambda: db.order_items.delete_one({"_id": oid(t, "item", 99)}).deleted_count)
    step(f"{t}: delete_many", lambda: db.transactions.delete_many({**mine, "kind": "out"}).deleted_count)
    step(
        f"{t}: bulk_write",
        lambda: bulk_counts(
            orders.bulk_write(
                [
                    InsertOne({"_id": oid(t, "order", 20), "tenantId": t, "number": 20}),
                    InsertOne({"_id": oid(t, "order", 21), "tenantId": t, "number": 21}),
                    UpdateOne({**mine, "number": 20}, {"$set": {"total": 20}}),
                    UpdateOne({"_id": oid(t, "order", 21)}, {"$set": {"total": 21}}),
                    UpdateMany({**mine, "number": {"$gte": 20}}, {"$inc": {"total": 1}}),
                    ReplaceOne({**mine, "number": 5}, {"tenantId": t, "number": 5, "total": 5}),
                    UpdateOne({**mine, "number": 22}, {"$setOnInsert": {"_id": oid(t, "order", 22)}}, upsert=True),
                    DeleteOne({"_id": oid(t, "order", 21)}),
                    DeleteMany({**mine, "number": {"$gt": 100}}),
                ]
            )
        ),
    )
    same = [InsertOne({"_id": oid(t, "order", 30 + n), "tenantId": t, "number": number}) for n, number in enumerate((30, 1, 31, 2))]
    step(f"{t}: bulk_write, ordered, stops", lambda: bulk_counts(orders.bulk_write(same)))
    step(f"{t}: bulk_write, unordered, goes on", lambda: bulk_counts(orders.bulk_write(same[1:], ordered=False)))
    step(
        f"{t}: insert_many, unordered",
        lambda: orders.insert_many(
            [{"_id": oid(t, "order", 40), "tenantId": t, "number": 1}, {"_id": oid(t, "order", 41), "tenantId": t, "number": 41}], ordered=False
        ).inserted_ids,
    )
    step(f"{t}: majority", lambda: db.get_collection("tasks", write_concern=WriteConcern("majority")).update_one({**mine, "title": "Task 1"}, {"$set": {"safe": True}}).modified_count)
    step(f"{t}: orders now", lambda: list(orders.find(mine).sort("number")))


def fail(db, t):
    orders, mine = db.orders, {"tenantId": t}
    step(f"{t}: duplicate number", lambda: orders.insert_one({"_id": oid(t, "order", 90), "tenantId": t, "number": 1}))
    step(f"{t}: duplicate _id", lambda: orders.insert_one({"_id": oid(t, "order", 1), "tenantId": t, "number": 90}))
    step(f"{t}: duplicate by update", lambda: orders.update_one({**mine, "number": 1}, {"$set": {"number": 2}}))
    step(f"{t}: duplicate by find_one_and_update", lambda: orders.find_one_and_update({**mine, "number": 1}, {"$set": {"number": 2}}))
    step(f"{t}: unknown operator", lambda: list(orders.find({**mine, "number": {"$odd": 1}})))
    step(f"{t}: bad $in", lambda: list(orders.find({**mine, "number": {"$in": 1}})))
    step(f"{t}: immutable _id", lambda: orders.update_one({**mine, "number": 1}, {"$set": {"_id": 1}}))
    step(f"{t}: $inc of a string", lambda: orders.update_one({**mine, "number": 1}, {"$inc": {"status": 1}}))
    step(f"{t}: $push to a number", lambda: orders.update_one({"_id": oid(t, "order", 1)}, {"$push": {"number": 1}}))
    step(f"{t}: unknown stage", lambda: list(orders.aggregate([{"$match": mine}, {"$odd": {}}])))


def transact(client, db, t, apart):
    orders, mine = db.orders, {"tenantId": t}
    with client.start_session(causal_consistency=True) as session:

        def causal():
            orders.insert_one({"_id": oid(t, "order", 60), "tenantId": t, "number": 60}, session=session)
            orders.update_one({"_id": oid(t, "order", 60)}, {"$set": {"total": 60}}, session=session)
            return [orders.find_one({"_id": oid(t, "order", 60)}, session=session), orders.count_documents(mine, session=session)]

        step(f"{t}: reads its own writes", causal)

        def commits(s):
            user = db.users.find_one({"_id": oid(t, "user", 1)}, session=s)
            order = orders.find_one({"_id": oid(t, "order", 1)}, session=s)
            db.invoices.insert_one({"_id": oid(t, "invoice", 60), "tenantId": t, "number": "R-60", "for": user["email"], "amount": order["total"]}, session=s)
            orders.update_one({"_id": order["_id"]}, {"$set": {"status": "paid"}}, session=s)
            db.transactions.insert_many([{"_id": oid(t, "transaction", n), "tenantId": t, "amount": n} for n in (60, 61)], session=s)
            return [db.transactions.count_documents(mine, session=s), [i["number"] for i in db.invoices.find(mine, session=s).sort("number")]]

        if not apart:  # users are the platform's
            step(
                f"{t}: transaction that commits",
                lambda: session.with_transaction(commits, read_concern=ReadConcern("majority"), write_concern=WriteConcern("majority")),
            )
        step(f"{t}: after it", lambda: [orders.find_one({"_id": oid(t, "order", 1)}), db.invoices.find_one({"_id": oid(t, "invoice", 60)})])

        def aborts():
            with session.start_transaction():
                inserted = db.tasks.insert_one({"_id": oid(t, "task", 60), "tenantId": t}, session=session).inserted_id
                gone = orders.delete_many(mine, session=session).deleted_count
                left = orders.count_documents(mine, session=session)
                session.abort_transaction()
            return [inserted, gone, left, db.tasks.find_one({"_id": oid(t, "task", 60)}), orders.count_documents(mine)]

        step(f"{t}: transaction that aborts", aborts)

        def duplicates():
            with session.start_transaction():
                db.tasks.insert_one({"_id": oid(t, "task", 61), "tenantId": t}, session=session)
                orders.insert_one({"_id": oid(t, "order", 61), "tenantId": t, "number": 1}, session=session)

        step(f"{t}: transaction with a duplicate", duplicates)
        step(f"{t}: nothing of it stayed", lambda: db.tasks.count_documents({**mine, "_id": oid(t, "task", 61)}))

        def cursor_inside():
            with session.start_transaction():
                return [d["number"] for d in orders.find(mine, session=session).sort("number").batch_size(3)]

        step(f"{t}: cursor in a transaction", cursor_inside)


def definitions(db):
    step("collections", lambda: sorted(db.list_collection_names()))
    step("collections by name", lambda: sorted(db.list_collection_names(filter={"name": {"$in": ["orders", "users", "none"]}})))
    for coll in ("orders", "order_items", "invoices", "projects", "tasks", "users"):
        step(
            f"indexes of {coll}",
            lambda c=coll: sorted(([i["name"], dict(i["key"]), i.get("unique", False)] for i in db[c].list_indexes()), key=lambda i: i[0]),
        )
    step("drop an index", lambda: db.orders.drop_index("tenantId_1_placedAt_-1"))
    step("drop it again", lambda: db.orders.drop_index("tenantId_1_placedAt_-1"))
    step("indexes left", lambda: sorted(db.orders.index_information()))
    step("no such collection", lambda: [list(db.nothing.find()), db.nothing.count_documents({}), list(db.nothing.list_indexes())])


def main(uri, name, mode=""):
    apart = mode == "apart"
    with MongoClient(uri, tz_aware=True, serverSelectionTimeoutMS=10_000) as client:
        db = client[name]
        step("ping", lambda: client.admin.command("ping")["ok"])
        make_indexes(db)
        for t in TENANTS:
            fill(db, t)
        for t in TENANTS:
            read(db, t)
        for t in TENANTS:
            write(db, t)
        for t in TENANTS:
            fail(db, t)
        for t in TENANTS:
            transact(client, db, t, apart)
        ids = [oid(t, "order", n) for t in TENANTS for n in (1, 2)]
        step("orders of all tenants by _id", lambda: list(db.orders.find({"_id": {"$in": ids}}, {"tenantId": 1, "number": 1}).sort("_id", -1)))
        step("the same, two at a time", lambda: [d["_id"] for d in db.orders.find({"_id": {"$in": ids}}).sort("_id").batch_size(2)])
        day.work(uri, client, db, apart)
        definitions(db)


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        sys.exit(f"usage: {sys.argv[0]} URI DATABASE [apart]")
    main(*sys.argv[1:])
