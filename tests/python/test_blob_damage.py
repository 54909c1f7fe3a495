"""Blobs' files that somebody else writes to: committed ones, and ones that a transaction has handed over."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from io import FileIO
from pathlib import Path
from typing import Any

import pytest
import transaction
from ZODB.blob import Blob
from ZODB.DB import DB
from ZODB.utils import z64
from zodb_dht import DHTStorage
from zodb_dht.errors import BlobChanged, Corrupt

from .blobs import files, handed, store
from .conftest import Opener
from .helpers import begun, commit
from .test_conversion import run

CONTENT = b"hello world"
CID = "bafkreifzjut3te2nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e"
"""What `ipfs add --cid-version=1` says for CONTENT."""


def written(name: Path, at: int, data: bytes) -> None:
    """Write into a file that is protected, and put its times of use and writing back."""
    before = name.stat()
    while (
        name.stat().st_ctime_ns == before.st_ctime_ns
    ):  # before Linux 6.13 a change within a tick of the clock shows none
        name.chmod(0o600)
    with name.open("r+b") as f:
        f.seek(at)
        f.write(data)
    os.utime(name, ns=(before.st_atime_ns, before.st_mtime_ns))
    name.chmod(before.st_mode & 0o777)


def _changed(name: Path) -> None:
    written(name, 1, b"E")


def _longer(name: Path) -> None:
    written(name, len(CONTENT), b"!")


def _cut(name: Path) -> None:
    os.truncate(name, 5)


Damage = Callable[[Path], None]
DAMAGES: dict[Damage, str] = {
    _changed: "do not match their hash",
    _longer: "it has 12 bytes, not 11",
    _cut: "it has 5 bytes, not 11",
    Path.unlink: "file does not exist",
}


def verified(peer: Path) -> tuple[int, Any]:
    """`zodb-dht verify` of the peer directory: exit code, and what it found."""
    done = subprocess.run(
        [sys.executable, "-m", "zodb_dht.cli", "verify", str(peer), "--json"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.returncode, json.loads(done.stdout)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_committed_file_that_was_written_to(
    damage: Damage, open_storage: Opener, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    storage = open_storage()
    db = DB(storage)
    with db.transaction() as connection:
        connection.root()["blob"] = Blob(CONTENT)
        connection.root()["other"] = Blob(b"other")
    with db.transaction() as connection:
        blob = connection.root()["blob"]
        name, oid, tid = Path(blob.committed()), blob._p_oid, blob._p_serial
    damage(name)
    says = DAMAGES[damage]

    def names(e: Corrupt) -> None:
        assert (e.oid, e.tid, e.cid, e.file) == (oid, tid, CID, str(name))
        assert says in str(e) and tid.hex() in str(e) and str(e).count(str(name)) == 1

    manager = transaction.TransactionManager()
    reads: list[Callable[[], object]] = [
        lambda: storage.loadBlob(oid, tid),
        lambda: storage.openCommittedBlobFile(oid, tid).close(),
        lambda: db.open(manager).root()["blob"].open().close(),
        lambda: db.open(manager).root()["blob"].committed(),
    ]
    for read in reads:  # a load looks at the length alone
        if damage is _changed:
            read()
            continue
        with pytest.raises(Corrupt) as caught:
            read()
        names(caught.value)
    with pytest.raises(Corrupt) as caught:
        storage.verify_blob(oid, tid)
    names(caught.value)
    with db.transaction() as connection, connection.root()["other"].open() as f:
        assert f.read() == b"other"
    manager.abort()
    db.pack()  # it is current: nothing is done to it
    db.close()
    code, report = verified(tmp_path / "peer")
    assert code == 5 and len(report["damaged"]) == 1
    assert (report["damaged"][0]["file"], report["damaged"][0]["cid"]) == (str(name), CID)
    target = ("--blob-dir", tmp_path / "exported")
    code, out, err = run(capsys, "export", tmp_path / "peer", tmp_path / "New.fs", *target, "--verify")
    assert (code, out) == (5, "") and tid.hex() in err and str(name) in err and says in err
    name.unlink(missing_ok=True)
    name.write_bytes(CONTENT)  # as from a backup
    assert verified(tmp_path / "peer")[0] == 0
    for new in tmp_path.glob("New.fs*"):
        new.unlink()
    assert run(capsys, "export", tmp_path / "peer", tmp_path / "New.fs", *target, "--verify")[0] == 0


def _superseded(db: DB) -> Path:
    """The file of a blob's first revision, of two."""
    with db.transaction() as connection:
        connection.root()["blob"] = Blob(CONTENT)
    with db.transaction() as connection:
        old = Path(connection.root()["blob"].committed())
        with connection.root()["blob"].open("w") as f:
            f.write(b"second")
    return old


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_pack_removes_a_damaged_revision_and_keeps_the_others(damage: Damage, storage: DHTStorage) -> None:
    db = DB(storage)
    damage(_superseded(db))
    db.pack()
    assert list(files(storage.fshelper.base_dir).values()) == [b"second"]
    db.close()


@pytest.mark.parametrize("damage", DAMAGES)
def test_an_undo_does_not_bring_wrong_bytes_back(damage: Damage, storage: DHTStorage) -> None:
    db = DB(storage)
    old = _superseded(db)
    damage(old)
    manager = transaction.TransactionManager()
    db.undo(db.undoInfo()[0]["id"], manager.get())
    with pytest.raises(Corrupt, match=DAMAGES[damage]) as caught:
        manager.commit()
    assert caught.value.file == str(old)
    manager.abort()
    with db.transaction() as connection, connection.root()["blob"].open() as f:
        assert f.read() == b"second"
    db.close()


def staged(storage: DHTStorage) -> Path:
    (name,) = Path(storage.fshelper.base_dir, "staged").iterdir()
    return name


@pytest.mark.parametrize("size", [11, 5 << 20])
@pytest.mark.parametrize("damage", [_changed, _longer, _cut, Path.unlink])
def test_a_file_that_is_written_to_after_the_vote_is_refused(damage: Damage, size: int, storage: DHTStorage) -> None:
    oid = storage.new_oid()
    tid = store(storage, oid, z64, CONTENT)
    txn = begun(storage)
    storage.storeBlob(oid, tid, b"second", handed(storage, bytes(size)), "", txn)
    storage.tpc_vote(txn)
    damage(staged(storage))
    with pytest.raises(BlobChanged, match="changed after it was handed over") as caught:
        storage.tpc_finish(txn)
    assert f"oid {int.from_bytes(oid, 'big'):#04x}" in str(caught.value)
    storage.tpc_abort(txn)
    nothing_of_it(storage, oid, tid)


@pytest.mark.parametrize("size", [11, 5 << 20])
def test_a_file_that_is_written_to_before_the_vote(size: int, storage: DHTStorage) -> None:
    """The hash is made of it before or after: it is refused, or what is committed is what it holds."""
    committed = 0
    for n in range(20):
        oid = storage.new_oid()
        tid = store(storage, oid, z64, CONTENT)
        txn = begun(storage)
        storage.storeBlob(oid, tid, b"second", handed(storage, bytes(size)), "", txn)
        written(staged(storage), n * size // 20, b"E")
        try:
            storage.tpc_vote(txn)
            second = storage.tpc_finish(txn)
        except BlobChanged:
            storage.tpc_abort(txn)
            nothing_of_it(storage, oid, tid)
        else:
            committed += 1
            assert Path(storage.verify_blob(oid, second)).read_bytes()[n * size // 20] == ord("E")
    print(f"{committed} of 20 committed")


def test_a_file_that_another_descriptor_goes_on_writing_to(storage: DHTStorage) -> None:
    """A vote that sees a write refuses it. It may be faster than the writer, but not each time."""
    stop, refused = threading.Event(), 0
    oid = storage.new_oid()
    for _ in range(20):
        name = handed(storage, bytes(8 << 20))
        with open(name, "r+b", buffering=0) as f:

            def write(f: FileIO = f) -> None:
                n = 0
                while not stop.is_set():
                    f.seek(n % (8 << 20))
                    f.write(b"%d" % n)
                    n += 4999

            stop.clear()
            writer = threading.Thread(target=write)
            writer.start()
            txn = begun(storage)
            try:
                storage.storeBlob(oid, z64, b"record", name, "", txn)
                storage.tpc_vote(txn)
            except BlobChanged:
                refused += 1
            finally:
                stop.set()
                writer.join()
                storage.tpc_abort(txn)
        assert files(storage.fshelper.base_dir) == {}
        if refused:
            break
    assert refused
    tid = store(storage, oid, z64, CONTENT)
    assert Path(storage.verify_blob(oid, tid)).read_bytes() == CONTENT


def test_a_touched_file_is_no_changed_one(storage: DHTStorage, tmp_path: Path) -> None:
    oid = storage.new_oid()
    txn = begun(storage)
    storage.storeBlob(oid, z64, b"record", handed(storage, CONTENT), "", txn)
    storage.tpc_vote(txn)
    os.utime(staged(storage))
    os.link(staged(storage), tmp_path / "another name")  # as a backup does
    tid = storage.tpc_finish(txn)
    assert Path(storage.verify_blob(oid, tid)).read_bytes() == CONTENT


def nothing_of_it(storage: DHTStorage, oid: bytes, tid: bytes) -> None:
    """The object is as it was, nothing lies about, and the storage takes commits."""
    assert storage.load(oid) == (b"record", tid)
    assert Path(storage.verify_blob(oid, tid)).read_bytes() == CONTENT
    assert list(Path(storage.fshelper.base_dir, "staged").iterdir()) == []
    commit(storage, (storage.new_oid(), z64, b"other"))
