"""Undo where ZODB's suites do not look: races, several at once, paging, views."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import transaction
from BTrees.Length import Length
from ZODB.DB import DB
from ZODB.FileStorage import FileStorage
from ZODB.POSException import (
    ConflictError,
    MultipleUndoErrors,
    ReadOnlyError,
    UndoError,
)
from ZODB.utils import oid_repr, p64, z64
from zodb_dht import DHTStorage

from .conftest import Opener
from .helpers import begun, commit, current, ids, new, undo


@pytest.fixture(params=["root", "view", "polled view"])
def one(storage: DHTStorage, request: pytest.FixtureRequest) -> Any:
    """What undo is asked of; the root sees what came of it."""
    if request.param == "root":
        return storage
    view = storage.new_instance()
    if request.param == "polled view":
        view.poll_invalidations()
    return view


def test_an_undo_of_an_undo_of_a_creation(storage: DHTStorage, one: Any) -> None:
    oid, first = new(storage, b"created")
    second = undo(one, ids(one)[0])
    assert current(storage, oid) is None
    assert storage.loadBefore(oid, second) == (b"created", first, second)
    assert len(storage) == 0
    third = undo(one, ids(one)[0])
    assert storage.load(oid) == (b"created", third)
    fourth = undo(one, ids(one)[0])
    assert current(storage, oid) is None
    assert [(h["tid"], h["size"]) for h in storage.history(oid, 9)] == [
        (fourth, 0),
        (third, 7),
        (second, 0),
        (first, 7),
    ]
    assert [[(r.tid, r.data, r.data_txn) for r in t] for t in storage.iterator()] == [
        [(first, b"created", None)],
        [(second, None, None)],
        [(third, b"created", first)],
        [(fourth, None, None)],
    ]


def test_several_undos_in_one_transaction_see_each_other(one: Any, storage: DHTStorage) -> None:
    oid, tid = new(storage, b"0")
    for i in range(1, 4):
        tid = commit(storage, (oid, tid, b"%d" % i))
    newest = ids(one)
    undo(one, *newest[:3])
    assert current(storage, oid) == b"0"
    undo(one, ids(one)[0])
    assert current(storage, oid) == b"3"


def test_one_conflict_among_several_undos_changes_nothing(storage: DHTStorage) -> None:
    a, tid_a = new(storage, b"a0")
    b, tid_b = new(storage, b"b0")
    commit(storage, (a, tid_a, b"a1"), (b, tid_b, b"b1"))
    commit(storage, (b, storage.getTid(b), b"b2"))
    commit(storage, (a, storage.getTid(a), b"a2"))
    newest, _, both = ids(storage)[:3]
    txn = begun(storage)
    storage.undo(newest, txn)
    with pytest.raises(MultipleUndoErrors) as caught:
        storage.undo(both, txn)
    assert caught.value._oid == b
    text = "Some data were modified by a later transaction"
    assert caught.value._reason == text
    assert str(caught.value) == f"Undo error {oid_repr(b)}: {text}"  # Zope shows it
    storage.tpc_vote(txn)  # the first undo alone
    storage.tpc_finish(txn)
    assert (current(storage, a), current(storage, b)) == (b"a1", b"b2")


@pytest.mark.parametrize("bad", [b"", b"x", b"AAAAAAAAAAA=", b"AAAAAAAAAAE=", b"\xff\xff", "text"])
def test_an_id_that_names_nothing_is_an_undo_error(storage: DHTStorage, bad: Any) -> None:
    new(storage)
    txn = begun(storage)
    with pytest.raises(UndoError, match="Invalid transaction id"):
        storage.undo(bad, txn)
    storage.tpc_abort(txn)


def test_an_object_changed_between_undo_and_vote_is_undone_on_what_is_current(storage: DHTStorage) -> None:
    db = DB(storage)
    with db.transaction() as connection:
        connection.root()["n"] = Length()
    for step in (1, 10):
        with db.transaction() as connection:
            connection.root()["n"].change(step)
    txn = begun(storage)
    storage.undo(ids(storage)[1], txn)
    with db.transaction() as connection:
        connection.root()["n"].change(100)
    storage.tpc_vote(txn)
    storage.tpc_finish(txn)
    with db.transaction() as connection:
        assert connection.root()["n"]() == 110
    db.close()


def test_an_object_changed_between_undo_and_vote_that_can_not_be_merged_is_an_undo_error(storage: DHTStorage) -> None:
    oid, tid = new(storage, b"0")
    tid = commit(storage, (oid, tid, b"1"))
    txn = begun(storage)
    storage.undo(ids(storage)[0], txn)
    last = commit(storage, (oid, tid, b"2"))
    with pytest.raises(UndoError) as caught:
        storage.tpc_vote(txn)
    assert caught.value._oid == oid
    storage.tpc_abort(txn)
    assert storage.load(oid) == (b"2", last)
    commit(storage, (oid, last, b"3"))  # nothing stayed reserved


def test_a_write_that_lost_against_the_undo_of_its_creation_is_a_conflict(storage: DHTStorage) -> None:
    oid, tid = new(storage, b"0")
    txn = begun(storage, (oid, tid, b"1"))
    undo(storage, ids(storage)[0])
    with pytest.raises(ConflictError):
        storage.tpc_vote(txn)
    storage.tpc_abort(txn)


def test_undos_and_commits_by_threads_lose_nothing(storage: DHTStorage) -> None:
    db = DB(storage)
    with db.transaction() as connection:
        connection.root()["n"] = Length()
    errors: list[BaseException] = []
    undone: list[int] = []

    def guarded(run: Callable[[], None]) -> Callable[[], None]:
        def work() -> None:
            try:
                run()
            except BaseException as e:
                errors.append(e)

        return work

    def change() -> None:
        manager = transaction.TransactionManager()
        connection = db.open(manager)
        for _ in range(40):
            for attempt in manager.attempts(50):
                with attempt:
                    manager.get().note("change")
                    connection.root()["n"].change(1)
        connection.close()

    def take_back() -> None:
        while len(undone) < 25 and not errors:
            for entry in db.undoInfo(0, 3, {"description": b"change"}):
                manager = transaction.TransactionManager()
                manager.get().note("taken back")
                db.undo(entry["id"], manager.get())
                manager.commit()
                undone.append(1)

    threads = [threading.Thread(target=guarded(run)) for run in (change, take_back, change)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    with db.transaction() as connection:
        assert connection.root()["n"]() == 80 - len(undone)
    db.close()


def test_a_connection_sees_an_undo_at_its_next_transaction(storage: DHTStorage) -> None:
    db = DB(storage)
    manager = transaction.TransactionManager()
    connection = db.open(manager)
    root = connection.root()
    for i in range(3):
        root["a"] = i
        manager.commit()
    other = transaction.TransactionManager()
    db.undoMultiple([entry["id"] for entry in db.undoLog(0, 2)], other.get())
    other.commit()
    assert root["a"] == 2
    manager.begin()
    assert root["a"] == 0
    db.close()


def test_the_log_pages_over_ten_thousand_transactions(storage: DHTStorage, tmp_path: Any) -> None:
    class Source:
        def iterator(self) -> Any:
            from ZODB.BaseStorage import DataRecord, TransactionRecord

            class One(TransactionRecord):  # type: ignore[misc]
                def __iter__(self) -> Any:
                    yield DataRecord(p64(1), self.tid, self.tid, None)

            for n in range(1, 10_001):
                yield One(p64(n), " ", b"user", b"%d" % n, b"")

    storage.copyTransactionsFrom(Source())

    def page(*args: Any) -> list[int]:
        return [int(entry["description"]) for entry in storage.undoLog(*args)]

    assert page() == list(range(10_000, 9_980, -1))
    assert page(0, 3) == [10_000, 9_999, 9_998]
    assert page(5, -3) == [9_995, 9_994, 9_993]
    assert page(9_990, 20_000) == list(range(10, 0, -1))
    assert page(0, 10_000) == list(range(10_000, 0, -1))
    assert page(1, 3, lambda entry: entry["description"].endswith(b"000")) == [9_000, 8_000]
    assert page(20_000, 20_020) == page(3, 3) == []
    assert [e["description"] for e in storage.undoInfo(0, -2, {"description": b"77"})] == [b"77"]


def test_read_only_reads_the_log_and_undoes_nothing(storage: DHTStorage, open_storage: Opener) -> None:
    oid, tid = new(storage)
    log = storage.undoLog()
    storage.close()
    read_only = open_storage(read_only=True)
    assert read_only.undoLog() == log
    assert read_only.record_iternext() == (oid, tid, b"data", None)
    for call in (read_only.undo, read_only.new_instance().undo):
        with pytest.raises(ReadOnlyError):
            call(log[0]["id"], None)
    with pytest.raises(ReadOnlyError):
        read_only.deleteObject(oid, tid, None)


def test_an_undo_after_a_restart(open_storage: Opener) -> None:
    storage = open_storage()
    oid, tid = new(storage, b"0")
    commit(storage, (oid, tid, b"1"))
    undo(storage, ids(storage)[0])
    storage.close()
    storage = open_storage()
    assert current(storage, oid) == b"0"
    undo(storage, ids(storage)[0])
    assert current(storage, oid) == b"1"


def _data_txns(storage: Any) -> list[set[bytes | None]]:
    """Of each transaction; asked for while it is read, and for all of it at once."""
    late = [{record.data_txn for record in txn} for txn in storage.iterator()]
    ahead: list[set[bytes | None]] = []
    for txn in storage.iterator():
        records = list(txn)
        ahead.append({record.data_txn for record in records})
    assert late == ahead
    return late


@pytest.mark.parametrize("objects", [3, 2500])  # more than are read at once
def test_data_txn_is_an_undos(storage: DHTStorage, objects: int) -> None:
    """Others repeat older revisions by chance, and a FileStorage that is told searches through all behind them."""
    oids = [storage.new_oid() for _ in range(objects)]
    first = commit(storage, *((oid, z64, b"a") for oid in oids))
    second = commit(storage, *((oid, first, b"b") for oid in oids), (storage.new_oid(), z64, b"new"))
    third = commit(storage, *((oid, second, b"a") for oid in oids[:-1]), (oids[-1], second, b"c"))
    undo(storage, ids(storage)[0])
    undo(storage, ids(storage)[2])  # of the second one, which takes the new object away again
    assert _data_txns(storage) == [{None}, {None}, {None}, {second}, {third, first, None}]


def test_a_filestorage_copy_keeps_what_undos_repeat(storage: DHTStorage, tmp_path: Any) -> None:
    source, back = FileStorage(str(tmp_path / "Data.fs")), FileStorage(str(tmp_path / "Back.fs"))
    control = FileStorage(str(tmp_path / "Control.fs"))  # ZODB 6.0's FileStorage keeps only some of them
    oid, tid = new(source, b"0")
    for data in (b"1", b"2"):
        tid = commit(source, (oid, tid, data))
    for _ in range(4):
        undo(source, ids(source)[0])
    storage.copyTransactionsFrom(source)
    back.copyTransactionsFrom(storage)
    control.copyTransactionsFrom(source)
    for copy, original in ((storage, source), (back, control)):
        want = [[(r.oid, r.tid, r.data, r.data_txn) for r in t] for t in original.iterator()]
        assert [[(r.oid, r.tid, r.data, r.data_txn) for r in t] for t in copy.iterator()] == want
    for filestorage in (source, back, control):
        filestorage.close()


def test_history_has_as_many_revisions_as_asked_for_while_a_newer_one_is_not_published(storage: DHTStorage) -> None:
    oid, first = new(storage)
    txn = begun(storage, (oid, first, b"newer"))
    storage.tpc_vote(txn)
    seen: list[bytes] = []
    tid = storage.tpc_finish(txn, lambda _: seen.extend(h["tid"] for h in storage.history(oid, 1)))
    assert seen == [first]
    assert [h["tid"] for h in storage.history(oid, 1)] == [tid]
