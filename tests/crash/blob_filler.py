"""The process of test_blobs_full_disk.py: `blob_filler.py DIR FILES` stores blobs until the disk is full, and lives on.

FILES is a directory on another disk, where the blobs are written first: so it is the storage that meets the full disk.
The last line is a JSON object: what was acknowledged, what the errors said, and what was left in the blob directory.
"""

from __future__ import annotations

import json
import os
import random
import sys
from typing import Any

from ZODB.Connection import TransactionMetaData
from ZODB.utils import p64, z64
from zodb_dht import DHTStorage

SIZE = 900_000
ENOUGH = 200  # blobs: far more than the disk of the test holds


def content(n: int) -> bytes:
    return random.Random(n).randbytes(SIZE)


def store(storage: Any, n: int, directory: str) -> bytes:
    path = os.path.join(directory, "file")
    with open(path, "wb") as f:
        f.write(content(n))
    txn = TransactionMetaData()
    storage.tpc_begin(txn)
    try:
        storage.storeBlob(p64(n + 1), z64, b"record", path, "", txn)
        storage.tpc_vote(txn)
        tid: bytes = storage.tpc_finish(txn)
    except BaseException:
        storage.tpc_abort(txn)
        raise
    return tid


def main(path: str, directory: str) -> None:
    storage = DHTStorage(path)
    acknowledged: dict[int, str] = {}
    failed: list[str] = []
    for n in range(ENOUGH):
        try:
            acknowledged[n] = store(storage, n, directory).hex()
        except Exception as error:
            failed.append(f"{type(error).__name__}: {error}")
            if len(failed) == 3:
                break
    readable = []
    for n, tid in acknowledged.items():
        with storage.openCommittedBlobFile(p64(n + 1), bytes.fromhex(tid)) as f:
            if f.read() == content(n):
                readable.append(n)
    base = storage.fshelper.base_dir
    left = [*os.listdir(os.path.join(base, "tmp")), *os.listdir(os.path.join(base, "staged"))]
    try:
        storage.close()
        closing = ""
    except Exception as error:
        closing = f"{type(error).__name__}: {error}"
    told = {"acknowledged": acknowledged, "readable": readable, "failed": failed, "left": left, "closing": closing}
    print(json.dumps(told))


if __name__ == "__main__":
    main(*sys.argv[1:])
