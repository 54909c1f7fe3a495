"""Blobs through ZODB and through the storage's own methods."""

from __future__ import annotations

import os
import stat
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import transaction
from ZODB import interfaces
from ZODB.blob import Blob, BlobFile
from ZODB.DB import DB
from ZODB.POSException import ConflictError, POSKeyError, ReadConflictError
from ZODB.serialize import referencesf
from ZODB.utils import p64, z64
from zodb_dht import DHTStorage, packing
from zodb_dht.errors import Corrupt, Usage
from zope.interface.verify import verifyObject

from .blobs import files, handed, open_files, store
from .helpers import begun

MB = 1 << 20


def test_root_and_views_are_blob_storages(storage: DHTStorage) -> None:
    assert interfaces.IBlobStorageRestoreable.providedBy(storage)
    view = storage.new_instance()
    for one in (storage, view):
        assert interfaces.IBlobStorage.providedBy(one)
        verifyObject(interfaces.IBlobStorage, one)
        tid = store(one, storage.new_oid(), z64, b"content")
        assert os.stat(one.temporaryDirectory()).st_dev == os.stat(one.fshelper.base_dir).st_dev
        assert one.fshelper.getBlobFilename(p64(0), tid).startswith(one.fshelper.base_dir)
    verifyObject(interfaces.IBlobStorageRestoreable, storage)


def test_a_stored_file_is_moved_and_found_by_its_revision(storage: DHTStorage, tmp_path: Path) -> None:
    oid = storage.new_oid()
    path = handed(storage, b"first")
    inode = os.stat(path).st_ino
    txn = begun(storage)
    storage.storeBlob(oid, None, b"record", path, "", txn)
    assert not os.path.exists(path)
    assert files(storage.fshelper.base_dir).keys() != {}
    with pytest.raises(POSKeyError):
        storage.load(oid)
    storage.tpc_vote(txn)
    first = storage.tpc_finish(txn)
    second = store(storage, oid, first, b"second")
    name = storage.loadBlob(oid, first)
    assert name == storage.fshelper.getBlobFilename(oid, first)
    assert os.stat(name).st_ino == inode, "it was copied, not renamed"
    assert not os.stat(name).st_mode & (stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH)
    assert storage.fshelper.splitBlobFilename(name) == (oid, first)
    with storage.openCommittedBlobFile(oid, first) as f:
        assert f.read() == b"first"
    with storage.openCommittedBlobFile(oid, second, blob := Blob()) as f:
        assert isinstance(f, BlobFile) and f.blob is blob and f.read() == b"second"
    for missing in ((oid, z64), (storage.new_oid(), first)):
        with pytest.raises(POSKeyError):
            storage.loadBlob(*missing)
    assert os.listdir(storage.temporaryDirectory()) == []


@pytest.mark.parametrize("phase", ["begun", "voted", "conflict"])
def test_an_abort_leaves_no_file(storage: DHTStorage, phase: str) -> None:
    oid = storage.new_oid()
    tid = store(storage, oid, z64, b"first")
    before = files(storage.fshelper.base_dir)
    txn = begun(storage)
    storage.storeBlob(oid, tid if phase != "conflict" else p64(1), b"record", handed(storage, b"second"), "", txn)
    storage.storeBlob(storage.new_oid(), z64, b"record", handed(storage, b"third"), "", txn)
    if phase == "voted":
        storage.tpc_vote(txn)
    elif phase == "conflict":
        with pytest.raises(ConflictError):
            storage.tpc_vote(txn)
    assert len(files(storage.fshelper.base_dir)) == len(before) + 2
    storage.tpc_abort(txn)
    assert files(storage.fshelper.base_dir) == before
    assert store(storage, oid, tid, b"fourth") == storage.lastTransaction()


def test_two_writers_of_one_blob_conflict(storage: DHTStorage) -> None:
    db = DB(storage)
    with db.transaction() as connection:
        connection.root()["blob"] = Blob(b"first")
    one, two = transaction.TransactionManager(), transaction.TransactionManager()
    first, second = db.open(one), db.open(two)
    for connection, content in ((first, b"one"), (second, b"two")):
        with connection.root()["blob"].open("w") as f:
            f.write(content)
    one.commit()
    with pytest.raises(ConflictError):
        two.commit()
    two.abort()
    with second.root()["blob"].open() as f:
        assert f.read() == b"one"
    assert sorted(files(storage.fshelper.base_dir).values()) == [b"first", b"one"]
    db.close()


def test_a_reader_keeps_the_blob_of_its_snapshot(storage: DHTStorage) -> None:
    db = DB(storage)
    with db.transaction() as connection:
        connection.root()["blob"] = Blob(b"old")
    reading = transaction.TransactionManager()
    reader = db.open(reading)
    blob = reader.root()["blob"]
    with db.transaction() as connection, connection.root()["blob"].open("w") as f:
        f.write(b"new")
    with blob.open() as f:
        assert f.read() == b"old"
    reading.begin()
    with blob.open() as f:
        assert f.read() == b"new"
    with db.transaction() as connection:
        before = db.open(transaction.TransactionManager(), before=storage.lastTransaction())
    with before.root()["blob"].open() as f:
        assert f.read() == b"old"
    before.close()
    db.close()


def test_savepoints_and_consumed_files(storage: DHTStorage, tmp_path: Path) -> None:
    db = DB(storage)
    connection = db.open()
    blob = connection.root()["blob"] = Blob()
    with blob.open("w") as f:
        f.write(b"at the savepoint")
    savepoint = transaction.savepoint()
    with blob.open("r+") as f:
        f.write(b"changed later ..")
    savepoint.rollback()
    file = tmp_path / "consumed"
    file.write_bytes(b"consumed")
    connection.root()["consumed"] = consumed = Blob()
    consumed.consumeFile(str(file))
    transaction.commit()
    assert not file.exists()
    assert sorted(files(storage.fshelper.base_dir).values()) == [b"at the savepoint", b"consumed"]
    with blob.open("a") as f:
        f.write(b", and more")
    transaction.commit()
    with open(blob.committed(), "rb") as committed:
        assert committed.read() == b"at the savepoint, and more"
    db.close()


def recorded_cid(storage: DHTStorage, blob: Blob) -> str:
    """The CID in the transaction record: what a load says when the file is missing."""
    name = blob.committed()
    os.rename(name, name + ".aside")
    try:
        with pytest.raises(Corrupt) as caught:
            storage.loadBlob(blob._p_oid, blob._p_serial)
    finally:
        os.rename(name + ".aside", name)
    assert caught.value.cid is not None
    return caught.value.cid


@pytest.mark.parametrize("connected", [False, True], ids=["in the process' directory", "in the storage's"])
@pytest.mark.parametrize("reopened", [False, True])
def test_what_is_rewritten_while_it_is_hashed_ahead_gets_the_right_cid(
    storage: DHTStorage, tmp_path: Path, connected: bool, reopened: bool
) -> None:
    db = DB(storage)
    connection = db.open()
    connection.root()["blob"] = blob = Blob()
    if connected:
        transaction.commit()
    content = bytearray(os.urandom(8 * MB + 17))
    with blob.open("w") as f:
        for at in range(0, len(content), MB):
            f.write(content[at : at + MB])
        if not reopened:
            f.seek(3 * MB + 5)
            f.write(b"changed")
    if reopened:
        with blob.open("r+") as f:
            f.seek(3 * MB + 5)
            f.write(b"changed")
    content[3 * MB + 5 : 3 * MB + 12] = b"changed"
    afresh = tmp_path / "afresh"  # nobody looks there
    afresh.write_bytes(content)
    connection.root()["other"] = other = Blob()
    other.consumeFile(str(afresh))
    transaction.commit()
    with blob.open() as f:
        assert f.read() == content
    assert recorded_cid(storage, blob) == recorded_cid(storage, other)
    db.close()


def test_a_file_that_is_given_up_leaves_nothing_open(storage: DHTStorage) -> None:
    db = DB(storage)
    for _ in range(20):
        connection = db.open()
        connection.root()["blob"] = blob = Blob()
        with blob.open("w") as f:
            f.write(bytes(2 * MB))
        transaction.abort()
        connection.close()
        del blob
    storage.close()
    assert not [name for name in open_files() if "BUC" in name]


def test_a_missing_or_cut_blob_says_which(storage: DHTStorage) -> None:
    oid = storage.new_oid()
    tid = store(storage, oid, z64, b"hello world")
    name = storage.loadBlob(oid, tid)
    os.chmod(name, 0o600)
    os.truncate(name, 5)
    for _ in range(2):
        with pytest.raises(Corrupt) as caught:
            storage.openCommittedBlobFile(oid, tid)
        assert (caught.value.oid, caught.value.tid, caught.value.file) == (oid, tid, name)
        # What `ipfs add --cid-version=1` says for these bytes.
        assert caught.value.cid == "bafkreifzjut3te2nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e"
        if os.path.exists(name):
            os.remove(name)
    assert storage.load(oid) == (b"record", tid)


def test_what_is_no_file_is_refused(storage: DHTStorage, tmp_path: Path) -> None:
    txn = begun(storage)
    for bad in (tmp_path / "nothing", tmp_path):
        with pytest.raises(Usage, match="not the name of a file"):
            storage.storeBlob(storage.new_oid(), z64, b"record", str(bad), "", txn)
    storage.tpc_abort(txn)
    with pytest.raises(POSKeyError):
        storage.loadBlob(storage.new_oid(), z64)


def test_writers_of_many_blobs_at_once(storage: DHTStorage) -> None:
    stored: dict[tuple[bytes, bytes], bytes] = {}
    failed: list[BaseException] = []

    def write(thread: int) -> None:
        try:
            for n in range(10):
                oid, content = storage.new_oid(), f"{thread} {n % 3}".encode() * 1000  # some alike
                stored[oid, store(storage, oid, z64, content)] = content
        except BaseException as e:
            failed.append(e)

    threads = [threading.Thread(target=write, args=(n,)) for n in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not failed
    assert len(stored) == 40
    for (oid, tid), content in stored.items():
        assert Path(storage.loadBlob(oid, tid)).read_bytes() == content


def test_undo_brings_the_file_back_and_an_abort_leaves_none(storage: DHTStorage) -> None:
    db = DB(storage)
    for content in (b"first", b"second", b"third"):
        with db.transaction() as connection:
            root = connection.root()
            if "blob" not in root:
                root["blob"] = Blob()
            with root["blob"].open("w") as f:
                f.write(content)
    newest = db.undoInfo()[0]["id"]
    before = files(storage.fshelper.base_dir)
    manager = transaction.TransactionManager()
    txn = manager.begin()
    db.undo(newest, txn)
    txn.abort()
    assert files(storage.fshelper.base_dir) == before
    txn = manager.begin()
    db.undo(newest, txn)
    txn.commit()
    with db.transaction() as connection:
        blob = connection.root()["blob"]
        with blob.open() as f:
            assert f.read() == b"second"
        assert blob.committed() == storage.fshelper.getBlobFilename(blob._p_oid, storage.lastTransaction())
    txn = manager.begin()
    db.undo(db.undoInfo()[0]["id"], txn)  # the undo itself
    txn.commit()
    with db.transaction() as connection, connection.root()["blob"].open() as f:
        assert f.read() == b"third"
    assert sorted(files(storage.fshelper.base_dir).values()) == [b"first", b"second", b"second", b"third", b"third"]
    db.close()


@pytest.mark.parametrize("given_up", ["deleted", "undone"])
def test_a_file_of_an_object_that_the_same_transaction_deletes_is_not_left_over(
    storage: DHTStorage, given_up: str
) -> None:
    oid = storage.new_oid()
    tid = store(storage, oid, z64, b"first")
    txn = begun(storage)
    storage.storeBlob(oid, tid, b"record", handed(storage, b"second"), "", txn)
    if given_up == "deleted":
        storage.deleteObject(oid, tid, txn)
    else:  # its creation: the data of the record is the same
        storage.undo(storage.undoLog()[0]["id"], txn)
    storage.tpc_vote(txn)
    storage.tpc_finish(txn)
    with pytest.raises(POSKeyError):
        storage.load(oid)
    assert list(files(storage.fshelper.base_dir).values()) == [b"first"]


def test_a_blob_of_an_old_snapshot_is_readable_until_the_sweep(storage: DHTStorage) -> None:
    db = DB(storage)
    with db.transaction() as connection:
        connection.root()["blob"] = Blob(b"old")
    manager = transaction.TransactionManager(explicit=True)
    manager.begin()
    reader = db.open(manager)
    blob = reader.root()["blob"]
    blob._p_activate()
    revision = (blob._p_oid, blob._p_serial)
    with db.transaction() as connection, connection.root()["blob"].open("w") as f:
        f.write(b"new")
    found: list[bytes] = []

    def look(*_: Any) -> None:
        try:
            with reader._storage.openCommittedBlobFile(*revision) as f:
                found.append(f.read())
        except ReadConflictError:
            found.append(b"conflict")

    look()
    assert packing.pack(
        storage._peer.node, packing.tid_of(time.time()), referencesf, look
    )  # its own reader: no waiting
    look()
    readable = found.count(b"old")
    assert readable > 1, "it was not looked at while the pack ran"
    assert found == [b"old"] * readable + [b"conflict"] * (len(found) - readable)
    assert found[-1] == b"conflict"
    manager.abort()
    manager.begin()
    with reader.root()["blob"].open() as f:
        assert f.read() == b"new"
    manager.abort()
    reader.close()
    db.close()
