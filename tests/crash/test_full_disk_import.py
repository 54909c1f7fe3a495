"""A full disk in an import: it ends with a clear error, and goes on where it was once there is space."""

from __future__ import annotations

import json
import pickle
import random
import subprocess
import sys
from pathlib import Path

import pytest
from ZODB.blob import Blob
from ZODB.Connection import TransactionMetaData
from ZODB.FileStorage import FileStorage
from ZODB.utils import p64, z64

DISK = "32m"
TRANSACTIONS, SIZE = 60, 1_000_000  # twice what the disk holds


def fill(path: Path, blobs: bool) -> None:
    storage, record = FileStorage(str(path), blob_dir=f"{path}.blobs"), pickle.dumps(Blob, 3) + pickle.dumps(None, 3)
    for n in range(TRANSACTIONS):
        data = random.Random(n).randbytes(SIZE)
        meta = TransactionMetaData(b"ada", b"edit %d" % n)
        storage.tpc_begin(meta)
        if blobs:
            file = path.with_suffix(".tmp")
            file.write_bytes(data)
            storage.storeBlob(p64(n), z64, record, str(file), "", meta)
        else:
            storage.store(p64(n), z64, data, "", meta)
        storage.tpc_vote(meta)
        storage.tpc_finish(meta)
    storage.close()


@pytest.mark.parametrize("blobs", [False], ids=["records"])
def test_a_full_disk_ends_an_import_that_goes_on_later(
    blobs: bool,
    small_disk: Path,
    tmp_path: Path,
) -> None:
    source, peer = tmp_path / "Data.fs", small_disk / "peer"
    fill(source, blobs)
    command = [sys.executable, "-m", "zodb_dht.cli", "import", str(source), str(peer)]
    command += ["--blob-dir", f"{source}.blobs", "--json"]
    for _ in range(2):
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 1 and done.stdout == "", done
        assert "space" in done.stderr, f"not a clear error: {done.stderr}"
    subprocess.run(["mount", "-o", "remount,size=256m", str(small_disk)], check=True)
    done = subprocess.run([*command, "--verify"], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done
    document = json.loads(done.stdout)
    print(f"{document['already_there']} transactions of {TRANSACTIONS} fit")
    assert 0 < document["already_there"] < TRANSACTIONS, "the disk never got full, or nothing was kept"
    assert document["verified"]["transactions"] == TRANSACTIONS
    assert document["verified"]["blobs"] == (TRANSACTIONS if blobs else 0)
    if blobs:
        files = [p for p in (peer / "blobs").rglob("*") if p.is_file() and not p.name.startswith(".")]
        assert len(files) == TRANSACTIONS, "half a file was left"
