"""What exists: in order of oid, deleted by an external collector, and as it was."""

from __future__ import annotations

import datetime

import pytest
import transaction
from persistent.mapping import PersistentMapping
from ZODB.DB import DB
from ZODB.POSException import (
    ConflictError,
    POSKeyError,
    ReadOnlyHistoryError,
)
from ZODB.utils import p64, u64, z64
from zodb_dht import DHTStorage

from .helpers import begun, commit, current, ids, new, undo


def test_records_of_what_exists_in_order_of_oid(storage: DHTStorage) -> None:
    with pytest.raises(ValueError):
        storage.record_iternext()
    made = [new(storage, b"%d" % i) for i in range(250)]  # more than are read at once
    undo(storage, ids(storage)[0])
    commit(storage, (made[0][0], made[0][1], b"again"))
    got, following = [], None
    while True:
        oid, _, data, following = storage.record_iternext(following)
        got.append((oid, data))
        if following is None:
            break
        assert type(following) is bytes  # else no ZEO server sends it
    assert got == [(oid, b"%d" % i if i else b"again") for i, (oid, _) in enumerate(made[:249])]
    assert storage.record_iternext(bytes(made[5][0]))[2] == b"5"  # a cursor that went over a wire


def test_an_external_collector_deletes(storage: DHTStorage) -> None:
    oid, tid = new(storage)
    txn = begun(storage)
    with pytest.raises(ConflictError):
        storage.deleteObject(oid, z64, txn)
    with pytest.raises(POSKeyError):
        storage.deleteObject(p64(u64(oid) + 1), tid, txn)
    storage.deleteObject(oid, tid, txn)
    storage.tpc_vote(txn)
    gone = storage.tpc_finish(txn)
    assert gone == storage.lastTransaction()
    assert current(storage, oid) is None
    assert storage.loadBefore(oid, gone) == (b"data", tid, gone)
    undo(storage, ids(storage)[0])
    assert current(storage, oid) == b"data"


def test_a_deletion_of_what_changed_before_the_vote_is_a_conflict(storage: DHTStorage) -> None:
    oid, tid = new(storage)
    txn = begun(storage)
    storage.deleteObject(oid, tid, txn)
    last = commit(storage, (oid, tid, b"newer"))
    with pytest.raises(ConflictError):
        storage.tpc_vote(txn)
    storage.tpc_abort(txn)
    assert storage.load(oid) == (b"newer", last)


def test_historical_connections_read_what_was(storage: DHTStorage) -> None:
    db = DB(storage)
    tids = []
    for i in range(3):
        with db.transaction() as connection:
            connection.root()["a"] = PersistentMapping(n=i)
        tids.append(db.lastTransaction())
    undo(storage, ids(storage)[0])
    for i, tid in enumerate(tids):
        then = db.open(at=tid)
        assert then.root()["a"]["n"] == i
        then.close()
    with pytest.raises(ValueError, match="in the future"):
        db.open(at=datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(1))
    manager = transaction.TransactionManager()
    then = db.open(manager, at=tids[2])
    then.root()["a"]["n"] = 7
    with pytest.raises(ReadOnlyHistoryError):
        manager.commit()
    manager.abort()
    then.close()
    before = db.open(before=tids[1])
    assert before.root()["a"]["n"] == 0
    before.close()
    now = db.open()
    assert now.root()["a"]["n"] == 1
    for entry in storage.history(z64, size=999999999999):  # as zodbbrowser
        assert storage.loadSerial(z64, entry["tid"])
    db.close()
