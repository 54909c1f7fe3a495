"""What people put around a storage, around ours in the shared mode: each with a database on top."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from persistent.mapping import PersistentMapping
from transaction import TransactionManager
from zc.beforestorage import Before
from zc.zlibstorage import ZlibStorage
from ZODB import DB
from ZODB.config import storageFromString
from ZODB.DemoStorage import DemoStorage
from ZODB.MappingStorage import MappingStorage
from ZODB.mvccadapter import MVCCAdapter
from ZODB.POSException import ConflictError, ReadConflictError, ReadOnlyError
from ZODB.tests.hexstorage import HexStorage
from ZODB.utils import load_current, maxtid, p64, u64, z64
from zodb_dht import DHTStorage

from .conftest import Opener
from .helpers import commit

LONG = "a text that is worth compressing, " * 20


def _open(db: Any) -> Any:
    return db.open(TransactionManager())


def conflicting(db: Any) -> None:
    """Two connections change one object; the second is told, and both see what is committed."""
    a, b = _open(db), _open(db)
    try:
        a.root()["shared"] = PersistentMapping(n=0)
        a.transaction_manager.commit()
        b.sync()
        b.root()["shared"]["n"] += 1
        b.transaction_manager.commit()
        a.root()["shared"]["n"] += 1
        with pytest.raises(ConflictError):
            a.transaction_manager.commit()
        a.transaction_manager.abort()
        assert a.root()["shared"]["n"] == 1
    finally:
        a.close()
        b.close()


@pytest.mark.parametrize(
    ("wrap", "stored"), [(HexStorage, b".h"), (ZlibStorage, b".z")], ids=["HexStorage", "zc.zlibstorage"]
)
def test_a_transforming_wrapper(wrap: Callable[[Any], Any], stored: bytes, open_storage: Opener) -> None:
    db = DB(wrap(open_storage(shared=True)))
    assert isinstance(db._mvcc_storage, MVCCAdapter)
    with db.transaction() as connection:
        connection.root()["a"] = PersistentMapping(text=LONG)
    conflicting(db)
    oid = _oid_of(db, "a")
    db.close()
    raw = open_storage(shared=True)
    assert load_current(raw, oid)[0].startswith(stored)
    db = DB(wrap(raw))
    with db.transaction() as connection:
        assert connection.root()["a"]["text"] == LONG
    db.close()


def _oid_of(db: Any, key: str) -> bytes:
    with db.transaction() as connection:
        oid: bytes = connection.root()[key]._p_oid
    return oid


def test_conflicts_are_resolved_through_a_transforming_wrapper(open_storage: Opener) -> None:
    from BTrees.Length import Length

    db = DB(ZlibStorage(HexStorage(open_storage(shared=True))))
    a, b = _open(db), _open(db)
    a.root()["length"] = Length()
    a.transaction_manager.commit()
    b.sync()
    a.root()["length"].change(2)
    b.root()["length"].change(3)
    a.transaction_manager.commit()
    b.transaction_manager.commit()
    a.sync()
    assert a.root()["length"]() == b.root()["length"]() == 5
    a.close()
    b.close()
    db.close()


def test_hexstorage_hands_on_which_objects_a_foreign_commit_changed(open_storage: Opener) -> None:
    """Not that everything may have: a connection that polls at that moment would lose it."""
    storage = open_storage(shared=True)
    view = MVCCAdapter(HexStorage(storage)).new_instance()
    view.poll_invalidations()
    other = HexStorage(storage.new_client())
    oid = other.new_oid()
    commit(other, (oid, z64, b"data"))
    assert view.poll_invalidations() == [oid]


def test_foreign_commits_reach_connections_through_hexstorage(open_storage: Opener) -> None:
    storage = open_storage(shared=True)
    other = HexStorage(storage.new_client())
    db, db2 = DB(HexStorage(storage)), DB(other)
    a, b = _open(db), _open(db2)
    for n in range(3):
        b.root()["n"] = n
        b.transaction_manager.commit()
        a.sync()
        assert a.root()["n"] == n
        b.sync()
    a.close()
    b.close()
    db2.close()
    db.close()


def test_demostorage_over_ours_leaves_it_alone(open_storage: Opener) -> None:
    storage = open_storage(shared=True)
    with DB(storage).transaction() as connection:
        connection.root()["base"] = PersistentMapping(n=1)
    before = storage.lastTransaction()
    db = DB(DemoStorage(base=storage, close_base_on_close=False))
    with db.transaction() as connection:
        connection.root()["base"]["n"] = 2
        connection.root()["more"] = PersistentMapping()
    conflicting(db)
    db.close()
    assert storage.lastTransaction() == before


def test_demostorage_with_our_changes(open_storage: Opener) -> None:
    base = MappingStorage()
    first = DB(base)
    with first.transaction() as connection:
        connection.root()["base"] = PersistentMapping(n=1)
        connection.root()["kept"] = PersistentMapping(n=7)
    demo = DemoStorage(base=base, changes=open_storage(shared=True), close_base_on_close=False)
    db = DB(demo)
    with db.transaction() as connection:
        connection.root()["base"]["n"] += 1  # its serial is the base's
    with db.transaction() as connection:
        connection.root()["base"]["n"] += 1  # and now it is ours
        connection.root()["new"] = PersistentMapping()
    conflicting(db)
    db.close()
    again = DB(DemoStorage(base=base, changes=open_storage(shared=True), close_base_on_close=False))
    with again.transaction() as connection:
        root = connection.root()
        assert (root["base"]["n"], root["kept"]["n"], dict(root["new"])) == (3, 7, {})
    again.close()


def test_a_demostorage_of_two_of_ours_by_zconfig(tmp_path: Path) -> None:
    section = f"""
        %import zodb_dht
        <demostorage>
          <dhtstorage base>
            path {tmp_path}/base
            shared on
          </dhtstorage>
          <dhtstorage changes>
            path {tmp_path}/changes
            shared on
          </dhtstorage>
        </demostorage>
    """
    for opening in range(2):
        db = DB(storageFromString(section))
        with db.transaction() as connection:
            assert connection.root().setdefault("opened", 0) == opening
            connection.root()["opened"] += 1
        conflicting(db)
        db.close()


def test_demostorage_does_not_take_changes_of_the_other_kind(storage: DHTStorage) -> None:
    with pytest.raises(AttributeError, match="`shared` on"):
        DemoStorage(changes=storage)


def test_beforestorage_shows_the_past(open_storage: Opener) -> None:
    storage = open_storage(shared=True)
    db = DB(storage)
    with db.transaction() as connection:
        connection.root()["n"] = 1
    then = p64(u64(storage.lastTransaction()) + 1)
    with db.transaction() as connection:
        connection.root()["n"] = 2
    past = DB(Before(storage, then))
    connection = _open(past)
    assert connection.root()["n"] == 1
    assert past.storage.lastTransaction() == p64(u64(then) - 1)
    connection.root()["n"] = 3
    with pytest.raises(ReadOnlyError):
        connection.transaction_manager.commit()
    connection.transaction_manager.abort()
    connection.close()
    past.close()


def test_an_adapter_instance_keeps_its_snapshot(open_storage: Opener) -> None:
    storage = open_storage(shared=True)
    adapter = MVCCAdapter(storage)
    first = commit(storage, (p64(1), z64, b"one"))
    reader, writer = adapter.new_instance(), adapter.new_instance()
    assert reader.poll_invalidations() == []
    writer.poll_invalidations()
    second = commit(writer, (p64(1), first, b"two"), (p64(2), z64, b"new"))
    assert reader.load(p64(1)) == (b"one", first)
    with pytest.raises(ReadConflictError):
        reader.load(p64(2))
    assert sorted(reader.poll_invalidations()) == [p64(1), p64(2)]
    assert reader.load(p64(1)) == (b"two", second)
    assert writer.poll_invalidations() == []
    assert storage.loadBefore(p64(1), maxtid) == (b"two", second, None)
    assert storage.loadBefore(p64(1), second) == (b"one", first, second)
