"""Input that can't be meant has its own clear error, and nothing is lost by it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ZODB.Connection import TransactionMetaData
from ZODB.POSException import ConflictError, POSKeyError, ReadConflictError, ReadOnlyError, StorageTransactionError
from ZODB.utils import maxtid, p64, z64
from zodb_dht import DHTStorage
from zodb_dht.config import MB
from zodb_dht.errors import (
    NotAPeerDirectory,
    TooLarge,
    Unsupported,
    Usage,
    WrongType,
)

from .conftest import Opener
from .helpers import begun, commit, holds, new

UNKNOWN = p64(1 << 40)


@pytest.mark.parametrize(
    "read",
    [
        lambda s: s.load(UNKNOWN),
        lambda s: s.loadBefore(UNKNOWN, maxtid),
        lambda s: s.loadBefore(UNKNOWN, z64),
        lambda s: s.loadSerial(UNKNOWN, p64(1)),
        lambda s: s.getTid(UNKNOWN),
        lambda s: s.history(UNKNOWN),
        lambda s: s.new_instance().load(UNKNOWN),
        lambda s: s.new_instance().loadBefore(UNKNOWN, maxtid),
    ],
)
def test_an_unknown_oid(storage: DHTStorage, read: Callable[[DHTStorage], Any]) -> None:
    oid, tid = new(storage)
    with pytest.raises(POSKeyError) as e:
        read(storage)
    assert e.value.args == (UNKNOWN,)
    holds(storage, oid, b"data", tid)


def test_a_serial_that_the_object_never_had(storage: DHTStorage) -> None:
    oid, tid = new(storage)
    with pytest.raises(POSKeyError):
        storage.loadSerial(oid, p64(1))
    with pytest.raises(ConflictError) as e:
        commit(storage, (oid, p64(1), b"other"))
    assert (e.value.oid, e.value.serials) == (oid, (tid, p64(1)))
    holds(storage, oid, b"data", tid)


def test_an_object_that_is_created_twice(storage: DHTStorage) -> None:
    oid, tid = new(storage)
    with pytest.raises(ConflictError) as e:
        commit(storage, (oid, z64, b"other"))
    assert (e.value.oid, e.value.serials) == (oid, (tid, z64))
    holds(storage, oid, b"data", tid)


def test_a_serial_of_an_object_that_does_not_exist(storage: DHTStorage) -> None:
    oid, tid = new(storage)
    with pytest.raises(ConflictError) as e:
        commit(storage, (UNKNOWN, p64(5), b"other"))
    assert (e.value.oid, e.value.serials) == (UNKNOWN, (z64, p64(5)))
    holds(storage, oid, b"data", tid)


def test_a_stale_read_says_which(storage: DHTStorage) -> None:
    oid, first = new(storage)
    second = commit(storage, (oid, first, b"second"))
    txn = begun(storage, (storage.new_oid(), z64, b"x"))
    storage.checkCurrentSerialInTransaction(oid, first, txn)
    with pytest.raises(ReadConflictError) as e:
        storage.tpc_vote(txn)
    assert (e.value.oid, e.value.serials) == (oid, (second, first))
    storage.tpc_abort(txn)
    holds(storage, oid, b"second", second)


@pytest.mark.parametrize(
    "call",
    [
        lambda s, t: s.store(p64(1), z64, b"x", "", t),
        lambda s, t: s.restore(p64(1), z64, b"x", "", None, t),
        lambda s, t: s.checkCurrentSerialInTransaction(p64(1), z64, t),
        lambda s, t: s.tpc_vote(t),
        lambda s, t: s.tpc_finish(t),
    ],
)
@pytest.mark.parametrize("of_a_view", [False, True])
def test_the_wrong_transaction(storage: DHTStorage, call: Callable[[Any, Any], Any], of_a_view: bool) -> None:
    oid, tid = new(storage)
    on = storage.new_instance() if of_a_view else storage
    right = begun(on)
    with pytest.raises(StorageTransactionError, match="not a transaction that tpc_begin was called with"):
        call(on, TransactionMetaData())
    on.tpc_abort(TransactionMetaData())
    on.store(oid, tid, b"right", "", right)
    on.tpc_vote(right)
    holds(storage, oid, b"right", on.tpc_finish(right))


def test_a_second_begin(storage: DHTStorage) -> None:
    oid = storage.new_oid()
    txn = begun(storage, (oid, z64, b"x"))
    with pytest.raises(StorageTransactionError, match="begun already"):
        storage.tpc_begin(txn)
    storage.tpc_vote(txn)
    with pytest.raises(StorageTransactionError, match="begun already"):
        storage.tpc_begin(txn)
    holds(storage, oid, b"x", storage.tpc_finish(txn))


@pytest.mark.parametrize(
    ("tid", "status"), [(maxtid, " "), (b"short", " "), (p64(1), ""), (p64(1), "pp"), (p64(1), b"p")]
)
def test_a_begin_with_what_no_finish_could_write(storage: DHTStorage, tid: bytes, status: Any) -> None:
    oid, was = new(storage)
    txn = TransactionMetaData()
    with pytest.raises(Usage):
        storage.tpc_begin(txn, tid, status)
    storage.tpc_begin(txn)
    storage.store(oid, was, b"later", "", txn)
    storage.tpc_vote(txn)
    holds(storage, oid, b"later", storage.tpc_finish(txn))


@pytest.mark.parametrize(
    "call",
    [
        lambda s, t: s.store(p64(1), z64, b"x", "", t),
        lambda s, t: s.restore(p64(1), z64, b"x", "", None, t),
        lambda s, t: s.checkCurrentSerialInTransaction(p64(1), z64, t),
        lambda s, t: s.tpc_vote(t),
    ],
)
def test_what_is_too_late_after_the_vote(storage: DHTStorage, call: Callable[[Any, Any], Any]) -> None:
    oid = storage.new_oid()
    txn = begun(storage, (oid, z64, b"voted"))
    storage.tpc_vote(txn)
    with pytest.raises(StorageTransactionError, match="the transaction is voted"):
        call(storage, txn)
    holds(storage, oid, b"voted", storage.tpc_finish(txn))


def test_a_finish_without_a_vote(storage: DHTStorage) -> None:
    oid = storage.new_oid()
    txn = begun(storage, (oid, z64, b"x"))
    with pytest.raises(StorageTransactionError, match="not voted yet"):
        storage.tpc_finish(txn)
    storage.tpc_vote(txn)
    holds(storage, oid, b"x", storage.tpc_finish(txn))


def test_nothing_but_abort_is_legal_after_a_failed_vote(storage: DHTStorage) -> None:
    oid, tid = new(storage)
    txn = begun(storage, (oid, z64, b"twice"))
    with pytest.raises(ConflictError):
        storage.tpc_vote(txn)
    for call in (storage.tpc_vote, storage.tpc_finish):
        with pytest.raises(StorageTransactionError, match="abort it"):
            call(txn)
    storage.tpc_abort(txn)
    holds(storage, oid, b"data", tid)


@pytest.mark.parametrize("data", ["text", None, bytearray(b"x"), 5, memoryview(b"x")])
def test_data_that_is_not_bytes(storage: DHTStorage, data: Any) -> None:
    oid, tid = new(storage)
    txn = begun(storage)
    with pytest.raises(WrongType, match="not bytes") as e:
        storage.store(oid, tid, data, "", txn)
    assert isinstance(e.value, TypeError)
    assert e.value.oid == oid
    storage.store(oid, tid, b"bytes", "", txn)
    storage.tpc_vote(txn)
    holds(storage, oid, b"bytes", storage.tpc_finish(txn))


@pytest.mark.parametrize("oid", [b"", b"1234567", b"123456789", "12345678", 5, None])
def test_an_oid_that_has_not_eight_bytes(storage: DHTStorage, oid: Any) -> None:
    txn = begun(storage)
    with pytest.raises(Usage, match="an oid has 8 bytes"):
        storage.store(oid, z64, b"x", "", txn)
    with pytest.raises(Usage, match="an oid has 8 bytes"):
        storage.checkCurrentSerialInTransaction(oid, z64, txn)
    view = storage.new_instance()
    view.poll_invalidations()
    for load in (storage.load, storage.history, view.load):
        with pytest.raises((ValueError, TypeError)):
            load(oid)


@pytest.mark.parametrize("serial", [b"", b"123456789", "12345678", 5])
def test_a_serial_that_has_not_eight_bytes(storage: DHTStorage, serial: Any) -> None:
    oid, tid = new(storage)
    with pytest.raises(Usage, match="a serial has 8 bytes"):
        begun(storage, (oid, serial, b"x"))
    with pytest.raises(Usage, match="a serial has 8 bytes"):
        storage.tpc_begin(TransactionMetaData(), serial)
    with pytest.raises((ValueError, TypeError)):
        storage.loadSerial(oid, serial)
    with pytest.raises((ValueError, TypeError)):
        storage.loadBefore(oid, serial)
    holds(storage, oid, b"data", tid)


def test_a_version(storage: DHTStorage) -> None:
    oid, tid = new(storage)
    txn = begun(storage)
    with pytest.raises(Unsupported, match="versions"):
        storage.store(oid, tid, b"x", "a version", txn)
    with pytest.raises(Unsupported, match="versions"):
        storage.load(oid, "a version")


def test_an_object_over_the_limit(open_storage: Opener) -> None:
    storage = open_storage(max_object_size=MB)
    oid = storage.new_oid()
    txn = begun(storage)
    with pytest.raises(TooLarge, match=f"max-object-size is {MB}") as e:
        storage.store(oid, z64, b"x" * (MB + 1), "", txn)
    assert e.value.oid == oid
    storage.store(oid, z64, b"x" * MB, "", txn)
    storage.tpc_vote(txn)
    storage.tpc_finish(txn)
    assert storage.load(oid)[0] == b"x" * MB


def test_sixteen_megabytes_are_no_problem(storage: DHTStorage) -> None:
    data = os.urandom(16 * MB)
    oid, tid = new(storage, data)
    assert storage.load(oid) == (data, tid)


def test_read_only_makes_no_directory(tmp_path: Path) -> None:
    # As FileStorage: who only wants to read, and has mistyped the path, must not get an empty database.
    for path in (tmp_path / "missing", tmp_path):
        with pytest.raises(NotAPeerDirectory, match="read-only on"):
            DHTStorage(path, read_only=True)
    assert not list(tmp_path.iterdir())


def test_read_only(open_storage: Opener) -> None:
    storage = open_storage()
    oid, tid = new(storage)
    storage.close()
    storage = open_storage(read_only=True)
    txn = TransactionMetaData()
    calls: list[Callable[[Any], Any]] = [
        lambda s: s.tpc_begin(txn),
        lambda s: s.store(oid, tid, b"x", "", txn),
        lambda s: s.restore(oid, tid, b"x", "", None, txn),
        lambda s: s.checkCurrentSerialInTransaction(oid, tid, txn),
        lambda s: s.tpc_vote(txn),
        lambda s: s.tpc_finish(txn),
        lambda s: s.new_oid(),
    ]
    for one in (storage, storage.new_instance()):
        for call in calls:
            with pytest.raises(ReadOnlyError):
                call(one)
        one.tpc_abort(txn)
        assert one.isReadOnly()
    with pytest.raises(ReadOnlyError):
        storage.copyTransactionsFrom(storage)
    assert storage.load(oid) == (b"data", tid)
    storage.close()
    holds(open_storage(), oid, b"data", tid)
