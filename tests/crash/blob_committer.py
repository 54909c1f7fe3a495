"""The process of test_blobs_kill.py: `blob_committer.py DIR SEED POINT [BLOBS]`, stores blobs until it is killed.

POINT says where it kills itself after a few commits, or "anywhere": then the parent does. Says "open", "begin N" before
each transaction and "done N TID" after it, one write(2) a line.
"""

from __future__ import annotations

import os
import random
import signal
import sys
from typing import Any

from ZODB.Connection import TransactionMetaData
from ZODB.utils import p64, z64
from zodb_dht import DHTStorage

POINTS = ("temporary", "staged", "voted", "finished", "conflicting")


def say(line: str) -> None:
    os.write(1, line.encode() + b"\n")


def content(seed: int, n: int) -> bytes:
    draw = random.Random(f"{seed} {n}")
    return draw.randbytes(draw.choice((0, 10, 3000, 700_000, 3_000_000)))


def die(*_: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def transaction(storage: DHTStorage, seed: int, n: int, point: str) -> None:
    """Two blobs, at the oids 2n+1 and 2n+2; killed at point."""
    path = os.path.join(storage.temporaryDirectory(), "file")
    txn = TransactionMetaData(extension={"n": n})
    storage.tpc_begin(txn)
    for oid in (2 * n + 1, 2 * n + 2):
        with open(path, "wb") as f:
            f.write(content(seed, oid))
        if point == "temporary":
            die()
        base = p64(1) if point == "conflicting" else z64
        storage.storeBlob(p64(oid), base, b"record %d" % oid, path, "", txn)
    if point == "staged":
        die()
    try:
        storage.tpc_vote(txn)
    finally:
        if point in ("voted", "conflicting"):
            die()
    say(f"begin {n}")
    tid = storage.tpc_finish(txn, die if point == "finished" else None)
    say(f"done {n} {tid.hex()}")


def main(path: str, seed: int, point: str, blob_dir: str | None = None) -> None:
    storage = DHTStorage(path, blob_dir=blob_dir)
    say("open")
    first = n = len(list(storage.iterator()))
    while True:
        transaction(storage, seed, n, point if n == first + 2 else "")
        n += 1


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), *sys.argv[3:])
