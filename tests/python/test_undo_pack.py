"""An undo beside a pack."""

from __future__ import annotations

import threading
import time

import pytest
from persistent.mapping import PersistentMapping
from ZODB.DB import DB
from ZODB.POSException import (
    ReadConflictError,
    UndoError,
)
from ZODB.serialize import referencesf
from ZODB.utils import p64
from zodb_dht import DHTStorage, packing

from .conftest import Opener
from .helpers import begun, ids, undo


def test_a_packed_transaction_ends_the_log_and_is_not_undone(storage: DHTStorage) -> None:
    for tid, status in ((5, " "), (6, "p"), (7, "u"), (8, " ")):
        txn = begun(storage)
        storage.tpc_abort(txn)
        storage.tpc_begin(txn, p64(tid), status)
        storage.restore(p64(1), p64(tid), b"%d" % tid, "", None, txn)
        storage.tpc_vote(txn)
        storage.tpc_finish(txn)
    assert ids(storage) == [b"AAAAAAAAAAg="]
    for packed in (b"AAAAAAAAAAY=", b"AAAAAAAAAAc="):
        with pytest.raises(UndoError, match="non-undoable"):
            undo(storage, packed)


def _without_page(db: DB) -> None:
    """A folder whose page the last transaction took out."""
    with db.transaction() as conn:
        conn.root()["folder"] = PersistentMapping(page=PersistentMapping())
    with db.transaction() as conn:
        del conn.root()["folder"]["page"]


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("voted", [False, True])
def test_an_undo_that_a_pack_overtook_brings_back_no_reference_to_garbage(
    open_storage: Opener, shared: bool, voted: bool
) -> None:
    storage = open_storage(shared=shared)
    db = DB(storage)
    _without_page(db)
    txn = begun(storage)
    storage.undo(ids(storage)[0], txn)
    if voted:
        storage.tpc_vote(txn)
    storage.pack(time.time(), referencesf)  # collects the page
    with pytest.raises(ReadConflictError if voted else UndoError):
        storage.tpc_vote(txn) if not voted else storage.tpc_finish(txn)
    storage.tpc_abort(txn)
    with db.transaction() as conn:
        assert not conn.root()["folder"].data
    db.close()


@pytest.mark.parametrize("shared", [False, True])
def test_a_pack_waits_for_an_undo_that_has_voted(open_storage: Opener, shared: bool) -> None:
    storage = open_storage(shared=shared)
    db = DB(storage)
    _without_page(db)
    txn = begun(storage)
    storage.undo(ids(storage)[0], txn)
    storage.tpc_vote(txn)
    phases: list[str] = []
    waits = threading.Event()

    def seen(phase: str, done: int, total: int) -> None:
        phases.append(phase)
        if phases.count("wait") == 3:  # for readers first, then for votes
            waits.set()

    def pack() -> None:
        try:
            packing.pack(storage._peer.node, packing.tid_of(time.time()), referencesf, seen)
        finally:
            waits.set()

    packer = threading.Thread(target=pack)
    packer.start()
    waits.wait()
    assert "log" not in phases
    storage.tpc_finish(txn)
    packer.join()
    assert "list" in phases
    db.cacheMinimize()  # nobody told the DB of a transaction on its storage
    with db.transaction() as conn:
        assert conn.root()["folder"]["page"].data == {}
    db.close()


def test_an_undo_of_what_came_after_a_pack_is_no_conflict(open_storage: Opener) -> None:
    storage = open_storage()
    db = DB(storage)
    with db.transaction() as conn:
        conn.root()["folder"] = PersistentMapping(page=PersistentMapping())
    storage.pack(time.time(), referencesf)
    with db.transaction() as conn:
        del conn.root()["folder"]["page"]
    storage.pack(storage.undoLog(0, 1)[0]["time"] - 0.0001, referencesf)
    undo(storage, ids(storage)[0])
    with db.transaction() as conn:
        assert conn.root()["folder"]["page"].data == {}
    db.close()
