"""A directory that is put in the place of one in use, as by a restore, keeps all its files; so does the old one."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest
from ZODB.Connection import TransactionMetaData
from ZODB.utils import p64, z64
from zodb_dht import DHTStorage
from zodb_dht.errors import Broken, DHTError, InDoubt

# Commits objects 100..199 to argv[1], says so, and waits to be told to write 200..249.
OTHER = """
import os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_replaced import put
from zodb_dht import DHTStorage
storage = DHTStorage(sys.argv[1])
for k in range(100, 200):
    put(storage, k, 20_000)
print("there", flush=True)
sys.stdin.readline()
for k in range(200, 250):
    put(storage, k, 100)
os._exit(0)  # as a crash: what it has is in its logs
"""


def put(storage: DHTStorage, k: int, size: int, blob: Path | None = None) -> bytes:
    txn = TransactionMetaData()
    storage.tpc_begin(txn)
    try:
        if blob is None:
            storage.store(p64(k), z64, b"%d " % k + bytes(size), "", txn)
        else:
            storage.storeBlob(p64(k), z64, b"blob", str(blob), "", txn)
        storage.tpc_vote(txn)
        tid: bytes = storage.tpc_finish(txn)
    except BaseException:
        storage.tpc_abort(txn)
        raise
    return tid


def holds(path: Path, oids: Iterable[int]) -> None:
    """A copy is looked at: a broken peer keeps its directory's locks until its process ends."""
    copy = path.with_name(f"copy of {path.name}")
    shutil.copytree(path, copy)
    done = subprocess.run(
        [sys.executable, "-m", "zodb_dht.cli", "verify", str(copy)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done
    storage = DHTStorage(copy)
    for k in oids:
        assert storage.load(p64(k))[0].startswith(b"%d " % k)
    storage.close()


def test_another_directory_in_the_place_of_one_in_use_is_left_alone(tmp_path: Path) -> None:
    path, away = tmp_path / "peer", tmp_path / "away"
    storage = DHTStorage(path)
    mine = [k for k in range(20) if put(storage, k, 20_000)]
    path.rename(away)
    command = [sys.executable, "-c", OTHER, str(path), str(Path(__file__).parent)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdin is not None
        assert other.stdout.readline() == "there\n"
        blob = tmp_path / "file"
        blob.write_bytes(b"content")
        with pytest.raises(DHTError, match="it was moved, removed or replaced"):
            put(storage, 999, 0, blob)
        with pytest.raises((InDoubt, Broken), match="it was moved, removed or replaced"):
            for k in range(1000, 1400):  # until the log is full
                put(storage, k, 100_000)
                mine.append(k)
        storage.close()
        other.stdin.write("\n")
    assert other.returncode == 0
    holds(path, range(100, 250))
    holds(away, mine)


def test_a_close_leaves_another_directory_alone(tmp_path: Path) -> None:
    """Nothing was written to the first one that it would have to make a file for, but a close flushes it."""
    path, away = tmp_path / "peer", tmp_path / "away"
    storage = DHTStorage(path)
    put(storage, 1, 100)
    path.rename(away)
    command = [sys.executable, "-c", OTHER, str(path), str(Path(__file__).parent)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdin is not None
        assert other.stdout.readline() == "there\n"
        storage.close()
        other.stdin.write("\n")
    holds(path, range(100, 250))
    holds(away, [1])
