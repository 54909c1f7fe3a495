"""Blobs that come from another storage, or go to one."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ZODB.blob import Blob, copyTransactionsFromTo
from ZODB.Connection import TransactionMetaData
from ZODB.DB import DB
from ZODB.FileStorage import FileStorage
from ZODB.POSException import POSKeyError
from ZODB.utils import p64
from zodb_dht import DHTStorage
from zodb_dht.errors import Unreadable

from .blobs import files, handed
from .conftest import Opener


def sample(db: Any) -> None:
    """Transactions with blobs: created, changed, beside other objects, one never written to."""
    with db.transaction() as connection:
        root = connection.root()
        root["small"], root["big"], root["plain"] = Blob(b"small"), Blob(os.urandom(1 << 20)), {"a": 1}
    with db.transaction() as connection, connection.root()["small"].open("w") as f:
        f.write(b"changed")
    with db.transaction() as connection:
        connection.root()["unwritten"] = Blob()


def same(a: Any, b: Any) -> None:
    """Every transaction, record and blob of a is in b."""
    count = 0
    for one, other in zip(a.iterator(), b.iterator(), strict=True):
        assert (one.tid, one.user, one.description) == (other.tid, other.user, other.description)
        for record, copied in zip(
            sorted(one, key=lambda r: str(r.oid)), sorted(other, key=lambda r: str(r.oid)), strict=True
        ):
            assert (record.oid, record.data) == (copied.oid, copied.data)
            try:
                name = a.loadBlob(record.oid, record.tid)
            except POSKeyError:
                with pytest.raises(POSKeyError):
                    b.loadBlob(record.oid, record.tid)
                continue
            count += 1
            assert Path(name).read_bytes() == Path(b.loadBlob(record.oid, record.tid)).read_bytes()
    assert count >= 3


def _ours(source: Any, destination: Any) -> None:
    destination.copyTransactionsFrom(source)


@pytest.mark.parametrize("copy", [_ours, copyTransactionsFromTo])
def test_copies_from_and_to_filestorage(
    copy: Callable[[Any, Any], None], storage: DHTStorage, open_storage: Opener, tmp_path: Path
) -> None:
    source = FileStorage(str(tmp_path / "Data.fs"), blob_dir=str(tmp_path / "blobs"))
    db = DB(source)
    sample(db)
    before = files(tmp_path / "blobs")
    modes = {name: (tmp_path / "blobs" / name).stat().st_mode for name in before}
    copy(source, storage)
    assert files(tmp_path / "blobs") == before
    assert {name: (tmp_path / "blobs" / name).stat().st_mode for name in before} == modes
    same(source, storage)
    second = open_storage("second")
    copy(storage, second)
    same(storage, second)
    third = FileStorage(str(tmp_path / "Third.fs"), blob_dir=str(tmp_path / "third"))
    third.copyTransactionsFrom(second)
    same(second, third)
    third.close()
    db.close()
    for one in (storage, second):
        assert os.listdir(one.temporaryDirectory()) == []


def test_a_failed_copy_leaves_no_file(storage: DHTStorage, tmp_path: Path) -> None:
    source = FileStorage(str(tmp_path / "Data.fs"), blob_dir=str(tmp_path / "blobs"))
    db = DB(source)
    sample(db)

    class Failing:
        loadBlob = source.loadBlob

        def iterator(self) -> Any:
            yield from itertools.islice(source.iterator(), 2)
            raise OSError("the source is gone")

    with pytest.raises(Unreadable, match="the source is gone"):
        storage.copyTransactionsFrom(Failing())
    committed = [t.tid for t in storage.iterator()]
    names = [name for name in files(storage.fshelper.base_dir) if not name.endswith(".blob")]
    assert len(committed) == 2 and names == []
    db.close()


def test_restored_blobs_keep_their_tid(storage: DHTStorage) -> None:
    oid = p64(77)
    for tid, content in ((p64(5), b"first"), (p64(9), b"second")):
        txn = TransactionMetaData()
        storage.tpc_begin(txn, tid, " ")
        storage.restoreBlob(oid, tid, b"record", handed(storage, content), None, txn)
        storage.tpc_vote(txn)
        storage.tpc_finish(txn)
        assert Path(storage.loadBlob(oid, tid)).read_bytes() == content
    txn = TransactionMetaData()
    storage.tpc_begin(txn, p64(12), " ")
    storage.restoreBlob(oid, p64(12), b"record", handed(storage, b"aborted"), None, txn)
    storage.tpc_vote(txn)
    storage.tpc_abort(txn)
    assert sorted(files(storage.fshelper.base_dir).values()) == [b"first", b"second"]
