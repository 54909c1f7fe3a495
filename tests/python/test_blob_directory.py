"""Where the files of blobs are, and whose."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest
from ZODB.Connection import TransactionMetaData
from ZODB.FileStorage import FileStorage
from ZODB.utils import z64
from zodb_dht import DHTStorage
from zodb_dht.errors import Closed, ReadOnlyError, Usage

from .blobs import files, handed, store
from .conftest import Opener
from .helpers import begun


def test_blobs_are_there_after_reopening_and_temporary_files_are_not(open_storage: Opener) -> None:
    storage = open_storage()
    oid = storage.new_oid()
    tid = store(storage, oid, z64, b"content")
    left = handed(storage, b"left behind")
    txn = begun(storage)
    storage.storeBlob(storage.new_oid(), z64, b"record", handed(storage, b"not voted"), "", txn)
    storage.close()
    again = open_storage()
    with again.openCommittedBlobFile(oid, tid) as f:
        assert f.read() == b"content"
    assert not os.path.exists(left)
    assert list(files(again.fshelper.base_dir).values()) == [b"content"]


def test_a_read_only_storage_reads_blobs(open_storage: Opener) -> None:
    storage = open_storage()
    oid = storage.new_oid()
    tid = store(storage, oid, z64, b"content")
    storage.close()
    reader = open_storage(read_only=True)
    with reader.openCommittedBlobFile(oid, tid) as f:
        assert f.read() == b"content"
    with pytest.raises(ReadOnlyError):
        reader.storeBlob(oid, tid, b"record", handed(reader, b""), "", TransactionMetaData())


def test_names_outlive_the_storage(storage: DHTStorage) -> None:
    oid = storage.new_oid()
    tid = store(storage, oid, z64, b"content")
    name = storage.loadBlob(oid, tid)
    storage.close()
    assert storage.loadBlob(oid, tid) == name
    with pytest.raises(Closed):
        storage.loadBlob(oid, z64)


def test_the_blob_directory_can_be_elsewhere(open_storage: Opener, tmp_path: Path) -> None:
    storage = open_storage(blob_dir=tmp_path / "elsewhere")
    oid = storage.new_oid()
    tid = store(storage, oid, z64, b"content")
    assert storage.fshelper.base_dir == f"{tmp_path}/elsewhere/"
    assert not (tmp_path / "peer" / "blobs").exists()
    with pytest.raises(Usage, match="not this peer's blob directory"):
        open_storage("other", blob_dir=tmp_path / "elsewhere")
    open_storage("other").close()
    storage.close()
    with pytest.raises(Usage, match="move them there first"):
        open_storage(blob_dir=tmp_path / "a third")
    again = open_storage()
    assert again.loadBlob(oid, tid).startswith(f"{tmp_path}/elsewhere/0x00/")


@pytest.mark.parametrize("shared", [False, True])
def test_somebody_elses_directory_is_left_alone(open_storage: Opener, tmp_path: Path, shared: bool) -> None:
    precious = tmp_path / "elsewhere" / "tmp" / "precious"
    precious.parent.mkdir(parents=True)
    precious.write_bytes(b"mine")
    with pytest.raises(Usage, match="not this peer's blob directory"):
        open_storage(blob_dir=tmp_path / "elsewhere", shared=shared)
    assert sorted(tmp_path.glob("elsewhere/**/*")) == [precious.parent, precious]
    assert precious.read_bytes() == b"mine"
    # Nor the blobs of a FileStorage, whatever it has open at this moment.
    with contextlib.closing(FileStorage(str(tmp_path / "Data.fs"), blob_dir=str(tmp_path / "old"))) as old:
        temporary = Path(old.temporaryDirectory(), "uncommitted")
        temporary.write_bytes(b"mine")
        with pytest.raises(Usage, match="not this peer's blob directory"):
            open_storage(blob_dir=tmp_path / "old", shared=shared)
        assert temporary.read_bytes() == b"mine"
    open_storage(shared=shared)
