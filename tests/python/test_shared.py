"""The shared mode: one lock, one order of announcements, and who may wrap what."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest
from persistent.mapping import PersistentMapping
from ZODB import DB, interfaces
from ZODB.config import storageFromString
from ZODB.MappingStorage import MappingStorage
from ZODB.mvccadapter import MVCCAdapter
from ZODB.POSException import ConflictError, POSKeyError
from ZODB.tests.hexstorage import HexStorage
from ZODB.utils import load_current, maxtid, p64, u64, z64
from zodb_dht import DHTStorage
from zodb_dht.errors import OptionError, Unsupported
from zodb_dht.mvcc import MVCCStorage
from zodb_dht.shared import SharedStorage
from zope.interface import providedBy
from zope.interface.verify import verifyObject

from .conftest import Opener
from .helpers import begun, commit, new


class Wrapper:
    """An IStorageWrapper that takes down what it hears, and what the storage then said of itself."""

    def __init__(self, storage: Any) -> None:
        self.storage = storage
        self.heard: list[tuple[Any, ...]] = []
        storage.registerDB(self)

    def invalidate(self, tid: bytes, oids: list[bytes]) -> None:
        self.heard.append((tid, sorted(oids), load_current(self.storage, oids[0])[1]))

    def invalidateCache(self) -> None:
        self.heard.append(("everything",))

    def references(self, record: bytes, oids: Any = None) -> Any:
        return oids

    def transform_record_data(self, data: bytes) -> bytes:
        return data

    untransform_record_data = transform_record_data


@pytest.fixture
def shared(open_storage: Opener) -> DHTStorage:
    return open_storage(shared=True)


def test_the_option_chooses_the_kind(open_storage: Opener, tmp_path: Path) -> None:
    native, shared = open_storage("a"), open_storage("b", shared="on")
    assert type(native) is MVCCStorage and type(shared) is SharedStorage
    assert type(native.new_client()) is MVCCStorage
    client = shared.new_client()
    assert type(client) is SharedStorage
    client.close()
    section = f"%import zodb_dht\n<dhtstorage>\npath {tmp_path}/c\nshared true\n</dhtstorage>\n"
    opened = storageFromString(section)
    assert type(opened) is SharedStorage and isinstance(opened, DHTStorage)
    opened.close()
    with pytest.raises(OptionError, match="shared"):
        DHTStorage(tmp_path / "d", shared="perhaps")


def test_it_declares_what_it_keeps_and_no_views(shared: DHTStorage, open_storage: Opener) -> None:
    declared = set(providedBy(shared))
    assert declared == set(providedBy(open_storage("other"))) - {interfaces.IMVCCStorage}
    for interface in declared:
        verifyObject(interface, shared)
    for name in ("new_instance", "poll_invalidations", "release"):
        assert not hasattr(shared, name)


def test_it_keeps_what_a_zeo_server_asks_for(shared: DHTStorage) -> None:
    from ZEO.interfaces import IServeable

    verifyObject(IServeable, shared, tentative=True)
    assert shared.tpc_transaction() is None
    txn = begun(shared)
    assert shared.tpc_transaction() is txn
    shared.tpc_abort(txn)
    assert shared.tpc_transaction() is None


def test_an_own_commit_is_called_back_under_the_lock_before_it_is_the_last(shared: DHTStorage) -> None:
    wrapper, seen = Wrapper(shared), []

    def taken_elsewhere() -> bool:
        free: list[bool] = []
        thread = threading.Thread(target=lambda: free.append(shared._lock.acquire(blocking=False)))
        thread.start()
        thread.join()
        return not free[0]

    def func(tid: bytes) -> None:
        seen.append((tid, shared.lastTransaction(), taken_elsewhere()))

    txn = begun(shared, (p64(7), z64, b"data"))
    shared.tpc_vote(txn)
    tid = shared.tpc_finish(txn, func)
    assert seen == [(tid, z64, True)]
    assert shared.lastTransaction() == tid and wrapper.heard == []


def test_a_transaction_that_was_packed_away_before_it_was_told_is_the_last(
    shared: DHTStorage, open_storage: Opener
) -> None:
    source = open_storage("source")
    new(source, b"old")
    last = commit(source)  # without a record
    shared.copyTransactionsFrom(source)
    shared.pack(time.time() + 1, None)
    assert not [t for t in shared.iterator() if t.tid == last]
    assert shared.lastTransaction() == last == shared.lastTransaction()


def test_who_hears_of_a_commit_waits_for_what_it_wrote(shared: DHTStorage) -> None:
    oid, before = new(shared, b"old")
    found: list[Any] = []

    def read(tid: bytes) -> None:
        found.append(shared.loadBefore(oid, p64(u64(tid) + 1)))

    def tell(tid: bytes) -> None:
        reader = threading.Thread(target=read, args=(tid,))
        readers.append(reader)
        reader.start()
        reader.join(0.2)  # long enough for one that does not wait

    readers: list[threading.Thread] = []
    txn = begun(shared, (oid, before, b"new"))
    shared.tpc_vote(txn)
    tid = shared.tpc_finish(txn, tell)
    readers[0].join()
    assert found == [(b"new", tid, None)]


def test_a_callback_that_commits_leaves_its_own_commit_announced(shared: DHTStorage) -> None:
    oid, before = new(shared, b"old")
    found: list[Any] = []

    def tell(tid: bytes) -> None:
        inner = commit(shared, (p64(99), z64, b"inner"))
        for upto in (tid, inner):
            reader = threading.Thread(target=lambda t=upto: found.append(shared.loadBefore(oid, p64(u64(t) + 1))))
            readers.append(reader)
            reader.start()
            reader.join(0.2)  # as above

    readers: list[threading.Thread] = []
    txn = begun(shared, (oid, before, b"new"))
    shared.tpc_vote(txn)
    tid = shared.tpc_finish(txn, tell)
    for reader in readers:
        reader.join()
    assert found == [(b"new", tid, None)] * 2


def test_others_commits_are_told_in_the_order_of_the_log(shared: DHTStorage) -> None:
    wrapper, other = Wrapper(shared), shared.new_client()
    oid, first = new(other)
    second = commit(other, (oid, first, b"two"), (p64(99), z64, b"new"))
    mine = commit(shared, (p64(100), z64, b"mine"))
    third = commit(other, (oid, second, b"three"))
    # Each was told with its records loadable, and before the next one was there.
    assert wrapper.heard == [(first, [oid], first), (second, [oid, p64(99)], second), (third, [oid], third)]
    assert first < second < mine < third == shared.lastTransaction() == other.lastTransaction()
    other.close()
    commit(shared, (oid, third, b"four"))


def test_what_came_by_a_copy_is_told_too(shared: DHTStorage) -> None:
    wrapper = Wrapper(shared)
    source = MappingStorage()
    tids = [commit(source, (p64(n), z64, b"x")) for n in range(1, 4)]
    shared.copyTransactionsFrom(source)
    assert shared.lastTransaction() == tids[-1]
    assert [heard[0] for heard in wrapper.heard] == tids


def test_a_wrapper_that_fails_to_invalidate_forgets_everything(shared: DHTStorage) -> None:
    wrapper, other = Wrapper(shared), shared.new_client()
    wrapper.invalidate = None  # type: ignore[assignment, method-assign]
    _, tid = new(other)
    assert wrapper.heard == [("everything",)] and shared.lastTransaction() == tid
    other.close()


def test_a_failing_callback_leaves_nobody_with_old_data(shared: DHTStorage) -> None:
    wrapper = Wrapper(shared)

    def fail(tid: bytes) -> None:
        raise RuntimeError("in the callback")

    txn = begun(shared, (p64(7), z64, b"data"))
    shared.tpc_vote(txn)
    with pytest.raises(RuntimeError, match="in the callback"):
        shared.tpc_finish(txn, fail)
    shared.tpc_abort(txn)
    tid = shared.lastTransaction()
    assert load_current(shared, p64(7)) == (b"data", tid)
    assert wrapper.heard == [(tid, [p64(7)], tid)]


def test_connections_of_two_databases_on_one_peer_see_each_others_commits(shared: DHTStorage) -> None:
    one, two = DB(shared), DB(shared.new_client())
    assert isinstance(one._mvcc_storage, MVCCAdapter)
    a, b = one.open(), two.open()
    for n in range(5):
        a.root()["n"] = n
        a.transaction_manager.commit()
        b.sync()
        assert b.root()["n"] == n
        b.root()["m"] = PersistentMapping(n=n)
        b.transaction_manager.commit()
        a.sync()
        assert a.root()["m"]["n"] == n
    a.close()
    b.close()
    two.close()
    one.close()


def test_the_last_invalidations_are_those_of_the_newest_transactions(shared: DHTStorage) -> None:
    assert list(shared.lastInvalidations(10)) == []
    oid, first = new(shared)
    tids = [first, *(commit(shared, (p64(n), z64, b"x"), (p64(n + 50), z64, b"y")) for n in range(10, 15))]
    assert [tid for tid, _ in shared.lastInvalidations(100)] == tids
    assert shared.lastInvalidations(1) == [(tids[-1], [p64(14), p64(64)])]
    assert [tid for tid, _ in shared.lastInvalidations(3)] == tids[-3:]
    assert shared.lastInvalidations(0) == []
    assert shared.lastInvalidations(6)[0] == (first, [oid])


def test_an_object_of_a_base_is_taken_on_any_serial_but_not_one_that_was_here(shared: DHTStorage) -> None:
    base_tid = p64(5)
    tid = commit(shared, (p64(7), base_tid, b"new"))
    assert shared.load(p64(7)) == (b"new", tid)
    txn = begun(shared, (p64(7), base_tid, b"newer"))
    with pytest.raises(ConflictError):
        shared.tpc_vote(txn)
    shared.tpc_abort(txn)
    # Deleted is not unknown.
    source = MappingStorage()
    commit(source, (p64(8), z64, b"x"))
    shared._peer.node.restore(b"d" * 16, maxtid[:1] + b"\0" * 7, " ", b"", b"", b"", [(p64(7), None)])
    shared._peer.node.drain()
    with pytest.raises(POSKeyError):
        shared.load(p64(7))
    txn = begun(shared, (p64(7), tid, b"newer"))
    with pytest.raises(ConflictError):
        shared.tpc_vote(txn)
    shared.tpc_abort(txn)


def test_without_shared_such_a_store_conflicts(storage: DHTStorage) -> None:
    txn = begun(storage, (p64(7), p64(5), b"new"))
    with pytest.raises(ConflictError):
        storage.tpc_vote(txn)
    storage.tpc_abort(txn)


def test_a_wrapper_around_views_is_refused_before_it_stores_anything(storage: DHTStorage) -> None:
    from zc.zlibstorage import ZlibStorage

    for wrap in (HexStorage, ZlibStorage):
        with pytest.raises(Unsupported, match=f"{wrap.__name__} .*`shared`"):
            wrap(storage)
    with pytest.raises(AttributeError, match="shared"):
        storage._lock  # noqa: B018
    DB(storage).close()
