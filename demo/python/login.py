"""Logs in by each connection string and counts the orders: see ../node/login.mjs.

    login.py URI…
"""

import json
import sys

from pymongo import MongoClient
from pymongo.errors import PyMongoError

for uri in sys.argv[1:]:
    with MongoClient(uri, serverSelectionTimeoutMS=10_000) as client:
        try:
            fact = {"count": len(list(client["smetasc_shared"].orders.find()))}
        except PyMongoError as err:
            fact = {"code": getattr(err, "code", None), "message": str(err)}
    print(json.dumps(fact), flush=True)
