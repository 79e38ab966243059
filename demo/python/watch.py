"""Change streams at every level with pymongo.

    python watch.py URI DATABASE

Opens the streams, makes changes of two tenants and of platform data, and prints
what each stream tells, without what differs from run to run.
"""

import sys

from bson.json_util import RELAXED_JSON_OPTIONS, dumps
from pymongo import MongoClient

uri, name = sys.argv[1:3]
client = MongoClient(uri)
db = client[name]
for coll in ("orders", "order_items", "users"):
    db.create_collection(coll)


def show(stream, event):
    token = event.pop("_id")
    assert list(token) == ["_data"] and isinstance(token["_data"], str), token
    for field in ("clusterTime", "wallTime"):
        event[field] = "time"
    print(stream, dumps(event, json_options=RELAXED_JSON_OPTIONS), flush=True)


def changes():
    for i, tenant in enumerate(("acme", "globex", "acme", "initech")):
        db.orders.insert_one({"_id": i, "tenantId": tenant, "lines": [{"sku": "a"}]})
        db.order_items.insert_one({"_id": i, "tenantId": tenant})
        db.users.insert_one({"_id": i, "tenantId": tenant})
        db.orders.update_one({"_id": i}, {"$set": {"lines.0.sku": "b"}, "$unset": {"none": 1}})
        db.orders.delete_one({"_id": i, "tenantId": tenant})
    with client.start_session() as s, s.start_transaction():
        db.orders.insert_one({"_id": "in a transaction", "tenantId": "acme"}, session=s)
        db.users.insert_one({"_id": "in a transaction"}, session=s)
    db.users.insert_one({"_id": "last"})
    db.orders.insert_one({"_id": "last", "tenantId": "acme"})


wait = {"max_await_time_ms": 1000}
streams = {
    "collection": db.orders.watch(full_document="updateLookup", **wait),
    "deletes": db.orders.watch([{"$match": {"operationType": "delete", "ns.db": name}}, {"$project": {"documentKey": 1}}], **wait),
    "platform": db.users.watch(**wait),
    "database": db.watch(**wait),
    "two at a time": db.watch([{"$match": {"ns.coll": {"$ne": "users"}}}], batch_size=2, **wait),
    "cluster": client.watch([{"$match": {"ns.db": name}}], **wait),
}
changes()
for stream, cursor in streams.items():
    seen = []
    for event in cursor:
        seen.append(event)
        if stream == "deletes" and len(seen) == 4 or event["documentKey"]["_id"] == "last" and event["ns"]["coll"] in ("orders", stream == "platform" and "users"):
            break
    tokens = [e["_id"] for e in seen]
    transactions = sum("lsid" in e or "txnNumber" in e for e in seen)
    for event in seen:
        # What a transaction's events say of their session is the proxy's own.
        event.pop("lsid", None)
        event.pop("txnNumber", None)
        show(stream, dict(event))
    if len({dumps(t) for t in tokens}) != len(tokens):
        print(stream, "has a token twice")
    cursor.close()

# Each place can be gone on from.
for stream, level in (("collection", db.orders), ("database", db), ("cluster", client)):
    with level.watch([{"$match": {"ns.db": name}}], **wait) as first:
        db.orders.insert_one({"_id": f"before {stream}", "tenantId": "globex"})
        db.orders.insert_one({"_id": f"after {stream}", "tenantId": "acme"})
        token = next(first)["_id"]
    for option in ("resume_after", "start_after"):
        with level.watch([{"$match": {"ns.db": name}}], **{option: token}, **wait) as again:
            show(f"{stream}, {option}", dict(next(again)))
    with level.watch([{"$match": {"ns.db": name}}], **wait) as quiet:
        assert quiet.try_next() is None
        place = quiet.resume_token
        db.orders.insert_one({"_id": f"quiet {stream}", "tenantId": "acme"})
    with level.watch([{"$match": {"ns.db": name}}], resume_after=place, **wait) as again:
        show(f"{stream}, resumed quietly", dict(next(again)))
