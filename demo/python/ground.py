"""What the parts of the pymongo ERP share: the log, and ids and times made here."""

import re
from datetime import datetime, timedelta, timezone

from bson import ObjectId
from bson.json_util import RELAXED_JSON_OPTIONS, dumps
from pymongo.errors import BulkWriteError, ClientBulkWriteException, OperationFailure, PyMongoError

TENANTS = ["acme", "globex", "initech"]
KINDS = ["user", "order", "item", "invoice", "transaction", "employee", "project", "task", "job", "stock", "paper", "entry"]
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")  # they differ from server to server
START = datetime(2024, 1, 1, tzinfo=timezone.utc)

line = 0


def oid(tenant, kind, n):
    return ObjectId(f"65c0{TENANTS.index(tenant) + 1:04x}{KINDS.index(kind) + 1:04x}{n:012x}")


def day(n):
    return START + timedelta(days=n)


def report(op, **fact):
    global line
    line += 1
    print(dumps({"n": line, "op": op, **fact}, json_options=RELAXED_JSON_OPTIONS), flush=True)


def failure(err):
    fact = {"type": type(err).__name__}
    if isinstance(err, BulkWriteError):
        d = err.details
        fact["counts"] = {k: d[k] for k in ("nInserted", "nMatched", "nModified", "nRemoved", "nUpserted")}
        fact["writeErrors"] = [
            {k: e.get(k) for k in ("index", "code", "errmsg", "keyPattern", "keyValue")} for e in d["writeErrors"]
        ]
    elif isinstance(err, ClientBulkWriteException):
        fact["error"] = None if err.error is None else failure(err.error)
        fact["writeErrors"] = [{k: e.get(k) for k in ("idx", "code", "errmsg")} for e in err.write_errors]
        fact["counts"] = [err.partial_result.inserted_count, err.partial_result.modified_count]
    elif isinstance(err, OperationFailure):
        d = err.details or {}
        fact["code"] = err.code
        fact["codeName"] = d.get("codeName")
        fact["message"] = UUID.sub("…", d.get("errmsg") or "")
        fact["keyPattern"] = d.get("keyPattern")
        fact["keyValue"] = d.get("keyValue")
    else:
        fact["message"] = str(err)
    return fact


def step(op, work):
    """What it came to is a line either way, and the run goes on."""
    try:
        result = work()
    except PyMongoError as err:
        report(op, error=failure(err))
    else:
        report(op, result=result)


def bulk_counts(r):
    return {
        "inserted": r.inserted_count,
        "matched": r.matched_count,
        "modified": r.modified_count,
        "deleted": r.deleted_count,
        "upserted": {str(k): v for k, v in sorted((r.upserted_ids or {}).items())},
    }


def changed(r):
    return {"matched": r.matched_count, "modified": r.modified_count, "upserted": r.upserted_id}
