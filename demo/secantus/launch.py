#!/usr/bin/env python3
"""Starts SecantusDB, the server the end-to-end tests run against.

    launch.py [--until-stdin-closes] <arguments of secantusd-py>

The package's own entry point is not used because of four things.

It can hang for ever. Version 0.7.0b3 runs `create`, `drop` and the implicit
create of `createIndexes` with the storage engine's autocommit while it holds
the server's global lock. Suppose a client is inserting into the very
collection that is being created (or has created it in a transaction that is
still open): the catalogue row is then held by that client's storage
transaction, the engine repeats the autocommit write until the row is free,
and it never is, because the client in turn waits for the global lock.
Mongoose brings this about on every start, as autoCreate and autoIndex run
beside the first inserts.
Here each of the three runs as one explicit storage transaction that begins
under the collection's own lock, which inserts take too. A conflict then ends
the transaction instead of repeating inside of it, every lock is let go, and
the whole step is tried again from the start. The server's own DDL code runs
unchanged within.

It takes {locale: "simple"} for a language's collation, so that "ä" comes before
"b". "simple" asks for the comparison of bytes, which is what it does where no
collation is given:
https://www.mongodb.com/docs/manual/reference/collation/

A collection that is dropped while listCollections collects the names and their
options is there again: the listing asks for its identity, and where none is
stored a new one is, with the row of the collection. Here no identity is stored
for a collection that is not there.

It outlives its parent. With --until-stdin-closes the end of standard input
stops the server: the parent keeps the other end of that pipe open for as long
as it lives, so that not even a killed test leaves a server behind.
"""

import contextlib
import functools
import os
import signal
import sys
import threading
import uuid

from secantus import cli, collation, storage

STDIN_FLAG = "--until-stdin-closes"
STOP_GRACE_SECONDS = 5


@contextlib.contextmanager
def collection_transaction(store, db, coll):
    # The server's only legal order: the collection's lock before the global
    # one, which the DDL methods take inside.
    with store._coll_lock(db, coll):
        with store._batch_transaction(sync=False):
            yield


def run_as_transaction(ddl):
    """The whole of a DDL method becomes one storage transaction."""

    # Outermost, so that it waits between two attempts without any lock.
    @storage._retry_write_conflicts
    @functools.wraps(ddl)
    def attempt(store, db, coll, *args, **kwargs):
        with collection_transaction(store, db, coll):
            return ddl(store, db, coll, *args, **kwargs)

    return attempt


@storage._retry_write_conflicts
def make_collection(store, db, coll):
    with collection_transaction(store, db, coll):
        store._ensure_collection(db, coll)


def run_with_collection_made(ddl):
    """Only the implicit create is moved out: it alone writes the row that is
    fought over, and an index build is too long to be repeated."""

    @functools.wraps(ddl)
    def build(store, db, coll, *args, **kwargs):
        if not store.collection_exists(db, coll):
            make_collection(store, db, coll)
        return ddl(store, db, coll, *args, **kwargs)

    return build


def work_around_hang(cls):
    for name, wrap in {
        "create_collection": run_as_transaction,
        "drop_collection": run_as_transaction,
        "create_index": run_with_collection_made,
    }.items():
        setattr(cls, name, wrap(getattr(cls, name)))


def compare_bytes_where_simple():
    parse = collation.parse

    @functools.wraps(parse)
    def parse_unless_simple(spec):
        if isinstance(spec, dict) and spec.get("locale") == "simple":
            return None
        return parse(spec)

    collation.parse = parse_unless_simple


def store_no_identity_of_what_is_dropped(cls):
    identity = cls._collection_uuid

    @functools.wraps(identity)
    def identity_of_what_is_there(store, db, coll):
        stored = (store._coll_options(db, coll) or {}).get("uuid")
        if stored is not None:
            return stored if isinstance(stored, uuid.UUID) else uuid.UUID(bytes=bytes(stored))
        with store._lock:
            if store._coll_options(db, coll) is None:
                return uuid.uuid4()
            return identity(store, db, coll)

    cls._collection_uuid = identity_of_what_is_there


def stop_when_stdin_closes():
    def watch():
        while os.read(0, 4096):
            pass
        # An orderly stop removes the temporary storage; a stuck one may not
        # keep the process alive.
        threading.Timer(STOP_GRACE_SECONDS, os._exit, [1]).start()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def main(args):
    if STDIN_FLAG in args:
        args = [a for a in args if a != STDIN_FLAG]
        stop_when_stdin_closes()
    work_around_hang(storage.Storage)
    compare_bytes_where_simple()
    store_no_identity_of_what_is_dropped(storage.Storage)
    return cli.main(args)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
