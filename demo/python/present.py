"""An application's first minute: see ../node/present.mjs.

    present.py URI NAME IDLE_MS
"""

import json
import sys
import time

from pymongo import MongoClient, ReturnDocument
from pymongo.errors import PyMongoError

uri, name, idle = sys.argv[1:]
client = MongoClient(uri, serverSelectionTimeoutMS=10_000)
db = client["smetasc_shared"]
orders, tasks = db.orders, db.tasks
mine = {"tenantId": "acme", "by": name}


def order(n):
    return {"_id": f"{name}-{n}", **mine, "number": f"{name}-{n}", "n": n, "text": "the same again " * 40}


def numbers(query, session=None, batch_size=0):
    return [d["n"] for d in orders.find(query, session=session, batch_size=batch_size).sort("n")]


def step(op, work):
    try:
        fact = {"result": work()}
    except PyMongoError as err:
        fact = {"error": {"code": getattr(err, "code", None), "message": str(err)}}
    print(json.dumps({"op": op, **fact}).replace(name, "NAME"), flush=True)


def in_session():
    with client.start_session(causal_consistency=True) as session:
        orders.insert_one(order(40), session=session)
        return numbers({**mine, "n": {"$gte": 40}}, session)


def transaction():
    def work(session):
        orders.update_one({**mine, "n": 40}, {"$set": {"paid": True}}, session=session)
        tasks.insert_one({"_id": f"{name}-1", **mine}, session=session)
        return numbers({**mine, "paid": True}, session)

    with client.start_session() as session:
        return session.with_transaction(work)


def aborted():
    with client.start_session() as session:
        session.start_transaction()
        orders.delete_many(mine, session=session)
        session.abort_transaction()
    return [orders.count_documents(mine), tasks.count_documents(mine)]


step("insert", lambda: len(orders.insert_many([order(n) for n in range(30)]).inserted_ids))
step("find in batches", lambda: numbers(mine, batch_size=7))
step("update", lambda: orders.update_one({**mine, "n": 1}, {"$set": {"seen": True}}).modified_count)
step("find and update", lambda: orders.find_one_and_update({"_id": f"{name}-2"}, {"$inc": {"n": 100}}, return_document=ReturnDocument.AFTER)["n"])
step("duplicate", lambda: orders.insert_one(order(3)).acknowledged)
step("session", in_session)
step("transaction", transaction)
step("aborted transaction", aborted)
time.sleep(int(idle) / 1000)
step("after a while", lambda: numbers({**mine, "n": {"$gte": 40}}))
client.close()
