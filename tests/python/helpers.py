"""Raw transactions on a storage."""

from __future__ import annotations

from typing import Any

from ZODB.Connection import TransactionMetaData
from ZODB.POSException import POSKeyError
from ZODB.utils import z64

Write = tuple[bytes, "bytes | None", bytes]
"""(oid, serial, data)"""


def begun(storage: Any, *writes: Write, **meta: Any) -> TransactionMetaData:
    """A transaction with these writes, not voted."""
    txn = TransactionMetaData(**meta)
    storage.tpc_begin(txn)
    for oid, serial, data in writes:
        storage.store(oid, serial, data, "", txn)
    return txn


def finished(storage: Any, txn: TransactionMetaData) -> bytes:
    """Vote and finish; its tid."""
    try:
        storage.tpc_vote(txn)
        tid = storage.tpc_finish(txn)
    except BaseException:
        storage.tpc_abort(txn)
        raise
    assert type(tid) is bytes
    return tid


def commit(storage: Any, *writes: Write, **meta: Any) -> bytes:
    """A whole transaction; its tid."""
    return finished(storage, begun(storage, *writes, **meta))


def new(storage: Any, data: bytes = b"data") -> tuple[bytes, bytes]:
    """(oid, tid) of a new object."""
    oid = storage.new_oid()
    return oid, commit(storage, (oid, z64, data))


def holds(storage: Any, oid: bytes, data: bytes, tid: bytes) -> None:
    """The object is as it was, and the storage takes commits."""
    assert storage.load(oid) == (data, tid)
    commit(storage, (oid, tid, data + b"!"))
    assert storage.load(oid)[0] == data + b"!"


def undo(storage: Any, *ids: bytes) -> bytes:
    """Undo, in one transaction; its tid."""
    txn = begun(storage)
    try:
        for transaction_id in ids:
            storage.undo(transaction_id, txn)
    except BaseException:
        storage.tpc_abort(txn)
        raise
    return finished(storage, txn)


def ids(storage: Any) -> list[bytes]:
    """What undo names transactions by, newest first."""
    return [entry["id"] for entry in storage.undoLog(0, 1000)]


def current(storage: Any, oid: bytes) -> bytes | None:
    """The object's data, None if it does not exist."""
    try:
        data = storage.load(oid)[0]
    except POSKeyError:
        return None
    assert type(data) is bytes
    return data
