"""Copying from and to other storages, restoring, and what is there after a restart."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import transaction
from BTrees.OOBTree import OOBTree
from persistent.mapping import PersistentMapping
from ZODB import DB
from ZODB.blob import Blob
from ZODB.Connection import TransactionMetaData
from ZODB.FileStorage import FileStorage
from ZODB.POSException import POSKeyError
from ZODB.tests.RecoveryStorage import IteratorDeepCompare
from ZODB.utils import maxtid, p64, u64, z64
from zodb_dht import DHTStorage
from zodb_dht.errors import OptionError, Regressed

from .conftest import Opener
from .helpers import begun, commit, new


class Compare(IteratorDeepCompare):
    """ZODB's own comparison of all transactions of two storages."""

    def assertEqual(self, a: object, b: object) -> None:
        assert a == b

    def assertRaises(self, cls: type[BaseException], func: object, *args: object) -> None:
        with pytest.raises(cls):
            func(*args)  # type: ignore[operator]


def fill(db: DB, rounds: int = 30) -> None:
    """Several transactions with users, descriptions and extensions."""
    for i in range(rounds):
        with db.transaction(f"round {i}") as connection:
            root = connection.root()
            tree = root.setdefault("tree", OOBTree())
            tree.update({f"{i}-{j}": PersistentMapping(n=j) for j in range(5)})
            transaction.get().setUser(f"user{i}")
            connection.transaction_manager.get().setExtendedInfo("extended", {"i": i})


def test_a_copy_of_a_filestorage_and_back(storage: DHTStorage, tmp_path: Path) -> None:
    source = FileStorage(str(tmp_path / "Data.fs"))
    db = DB(source)
    fill(db)
    storage.copyTransactionsFrom(source)
    Compare().compare(source, storage)
    back = FileStorage(str(tmp_path / "Back.fs"))
    back.copyTransactionsFrom(storage)
    Compare().compare(storage, back)
    assert storage.lastTransaction() == source.lastTransaction()
    assert len(storage) == len(source)
    oid = storage.new_oid()
    with pytest.raises(POSKeyError):  # a new oid is new
        source.load(oid)
    back.close()
    db.close()


def test_a_filestorage_with_undone_transactions(storage: DHTStorage, tmp_path: Path) -> None:
    source = FileStorage(str(tmp_path / "Data.fs"))
    db = DB(source)
    fill(db, 3)
    for _ in range(4):  # down to the creation of the tree, which leaves records without data
        db.undo(db.undoLog(0, 1)[0]["id"])
        transaction.commit()
        fill(db, 1)
    with db.transaction() as connection:
        connection.root()["gone"] = gone = PersistentMapping()
        connection.add(gone)
    oid = gone._p_oid
    created = db.lastTransaction()
    db.undo(db.undoLog(0, 1)[0]["id"])
    transaction.commit()
    storage.copyTransactionsFrom(source)
    Compare().compare(source, storage)
    with pytest.raises(POSKeyError):
        storage.load(oid)
    before = storage.loadBefore(oid, p64(u64(created) + 1))
    assert before is not None
    assert before[1] == created
    newest = {record.oid: record.data for txn in source.iterator() for record in txn}
    assert newest[oid] is None
    assert len(storage) == sum(data is not None for data in newest.values())
    db.close()


def test_a_copy_can_go_on_where_the_last_one_ended(storage: DHTStorage, tmp_path: Path) -> None:
    source = FileStorage(str(tmp_path / "Data.fs"))
    db = DB(source)
    fill(db, 5)
    storage.copyTransactionsFrom(source)
    last = storage.lastTransaction()
    fill(db, 5)

    class Rest:
        def iterator(self) -> object:
            return source.iterator(p64(u64(last) + 1))

    storage.copyTransactionsFrom(Rest())
    Compare().compare(source, storage)
    with pytest.raises(Regressed, match="does not rise above the last"):
        storage.copyTransactionsFrom(source)
    Compare().compare(source, storage)
    db.close()


def test_blobs_of_a_source_without_files_are_refused_before_they_are_lost(storage: DHTStorage, tmp_path: Path) -> None:
    source = FileStorage(str(tmp_path / "Data.fs"), blob_dir=str(tmp_path / "blobs"))
    db = DB(source)
    fill(db, 2)
    before = db.lastTransaction()
    with db.transaction() as connection:
        connection.root()["blob"] = blob = Blob(b"bytes")

    class Records:
        iterator = source.iterator

    with pytest.raises(OptionError, match=f"oid 0x{u64(blob._p_oid):02x} is a blob"):
        storage.copyTransactionsFrom(Records())
    assert storage.lastTransaction() == before
    db.close()


def test_restore_keeps_tid_status_and_deletions(storage: DHTStorage) -> None:
    oid = p64(77)
    for tid, status, data in ((5, "p", b"first"), (9, " ", None), (12, " ", b"again")):
        txn = TransactionMetaData("user", f"at {tid}", {"x": tid})
        storage.tpc_begin(txn, p64(tid), status)
        storage.restore(oid, p64(tid), data, "", None, txn)
        storage.tpc_vote(txn)
        seen: list[bytes] = []
        assert storage.tpc_finish(txn, seen.append) == p64(tid)
        assert seen == [p64(tid)] == [storage.lastTransaction()]
    assert [(t.tid, t.status, t.description, [(r.oid, r.tid, r.data) for r in t]) for t in storage.iterator()] == [
        (p64(5), "p", b"at 5", [(oid, p64(5), b"first")]),
        (p64(9), " ", b"at 9", [(oid, p64(9), None)]),
        (p64(12), " ", b"at 12", [(oid, p64(12), b"again")]),
    ]
    assert storage.loadBefore(oid, p64(9)) == (b"first", p64(5), p64(9))
    with pytest.raises(POSKeyError):
        storage.loadBefore(oid, p64(10))
    assert u64(storage.new_oid()) > 77


def test_a_tid_that_does_not_rise_is_refused_by_the_vote(storage: DHTStorage) -> None:
    oid, tid = new(storage)
    for bad in (tid, p64(1)):
        txn = TransactionMetaData()
        storage.tpc_begin(txn, bad)
        storage.restore(oid, bad, b"x", "", None, txn)
        with pytest.raises(Regressed):
            storage.tpc_vote(txn)
        storage.tpc_abort(txn)
    assert storage.load(oid) == (b"data", tid)


def test_restore_into_a_new_transaction_overwrites(storage: DHTStorage) -> None:
    oid, first = new(storage)
    txn = begun(storage)
    storage.restore(oid, p64(1), b"restored", "", None, txn)
    assert storage.tpc_vote(txn) is None
    tid = storage.tpc_finish(txn)
    assert tid > first
    assert storage.load(oid) == (b"restored", tid)
    txn = begun(storage)
    storage.restore(oid, p64(1), None, "", None, txn)
    assert storage.tpc_vote(txn) is None
    gone = storage.tpc_finish(txn)
    assert storage.loadBefore(oid, gone) == (b"restored", tid, gone)
    with pytest.raises(POSKeyError):
        storage.load(oid)


def test_oids_are_never_given_twice(storage: DHTStorage) -> None:
    given: list[bytes] = []
    lock = threading.Lock()

    def take() -> None:
        mine = [storage.new_oid() for _ in range(1500)]
        with lock:
            given.extend(mine)

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    foreign = p64(u64(max(given)) + 20)  # in the range at hand, not asked for
    commit(storage, (foreign, z64, b"foreign"))
    given += [storage.new_oid() for _ in range(50)]
    assert len(set(given)) == len(given)
    assert foreign not in given
    assert z64 not in given
    giant = b"\xee" * 8
    commit(storage, (giant, z64, b"giant"))
    given += [storage.new_oid() for _ in range(1100)]
    assert len(set(given)) == len(given)
    assert given[-1] > giant


def test_all_is_there_after_a_restart(open_storage: Opener) -> None:
    storage = open_storage()
    db = DB(storage)
    fill(db, 10)
    oid = storage.new_oid()
    want = [(t.tid, t.user, t.description, t.extension, [(r.oid, r.data) for r in t]) for t in storage.iterator()]
    last, size, history = storage.lastTransaction(), len(storage), storage.history(z64, 100)
    assert len(want) == 11
    db.close()
    storage = open_storage()
    assert want == [
        (t.tid, t.user, t.description, t.extension, [(r.oid, r.data) for r in t]) for t in storage.iterator()
    ]
    assert (storage.lastTransaction(), len(storage), storage.history(z64, 100)) == (last, size, history)
    assert storage.new_oid() > oid
    db = DB(storage)
    with db.transaction() as connection:
        assert sorted(connection.root()["tree"]) == sorted(f"{i}-{j}" for i in range(10) for j in range(5))
    assert storage.lastTransaction() == last
    fill(db, 1)
    assert storage.lastTransaction() > last
    db.close()


def test_what_was_voted_but_not_finished_is_not_there_after_a_restart(open_storage: Opener) -> None:
    storage = open_storage()
    oid, tid = new(storage)
    txn = begun(storage, (oid, tid, b"voted"))
    storage.tpc_vote(txn)
    storage.close()
    storage = open_storage()
    assert storage.load(oid) == (b"data", tid)
    assert storage.loadBefore(oid, maxtid) == (b"data", tid, None)
    commit(storage, (oid, tid, b"after"))


def test_an_iterator_takes_its_snapshot_when_it_is_made(storage: DHTStorage) -> None:
    tids = [new(storage)[1] for _ in range(450)]  # more than are read at once
    iterator = storage.iterator()
    new(storage)
    assert [t.tid for t in iterator] == tids
    assert [t.tid for t in storage.iterator(tids[3], tids[7])] == tids[3:8]
    assert list(storage.iterator(tids[7], tids[3])) == []
    assert list(storage.iterator(p64(u64(storage.lastTransaction()) + 1))) == []


def test_history_has_what_zodb_documents(storage: DHTStorage) -> None:
    oid, first = new(storage, b"12345")
    second = commit(storage, (oid, first, b"123"), user="u", description="d", extension={"more": 1, "tid": "mine"})
    newest, oldest = storage.history(oid, 5)
    time = newest.pop("time")
    assert newest == {
        "tid": second,
        "serial": second,
        "user_name": b"u",
        "description": b"d",
        "size": 3,
        "more": 1,
    }
    assert time > oldest["time"] > 0
    assert oldest["tid"] == first
    assert [h["tid"] for h in storage.history(oid)] == [second]
    assert storage.history(oid, 0) == storage.history(oid, -1) == []  # it exists
    with pytest.raises(POSKeyError):
        storage.history(p64(99), 0)
