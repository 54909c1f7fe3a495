"""The process of test_kill_undo.py: `undoer.py DIR POINT`, writes and undoes until it is killed at POINT of an undo.

Says "written N TID" after each transaction that writes N everywhere, "undoing N" before and "undone N" after its undo,
one write(2) a line.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from typing import Any

import transaction
from persistent.mapping import PersistentMapping
from ZODB.blob import Blob
from ZODB.Connection import TransactionMetaData
from ZODB.DB import DB
from zodb_dht import DHTStorage
from zodb_dht.undo import undo_id

POINTS = ("undone", "voted", "finished", "anywhere")
UNDOS = 3
"""So many are done before one is killed."""


def say(line: str) -> None:
    os.write(1, line.encode() + b"\n")


def content(n: int) -> bytes:
    return random.Random(n).randbytes(random.Random(n).choice((10, 3000, 400_000)))


def die(*_: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def undo(storage: Any, tid: bytes, point: str) -> None:
    txn = TransactionMetaData()
    storage.tpc_begin(txn)
    storage.undo(undo_id(tid), txn)
    if point == "undone":
        die()
    storage.tpc_vote(txn)
    if point == "voted":
        die()
    storage.tpc_finish(txn, die if point == "finished" else None)


def main(path: str, point: str) -> None:
    db = DB(DHTStorage(path))
    manager = transaction.TransactionManager()
    conn = db.open(manager)
    root = conn.root()
    if "blob" not in root:
        root["n"] = PersistentMapping(n=0)
        root["blob"] = Blob(content(0))
        manager.commit()
    say("open")
    for turn in range(1_000_000):
        manager.begin()
        n = time.time_ns()
        root["n"]["n"] = n
        with root["blob"].open("w") as f:
            f.write(content(n))
        manager.commit()
        tid = root["n"]._p_serial
        say(f"written {n} {tid.hex()}")
        say(f"undoing {n}")
        undo(db.storage, tid, point if turn == UNDOS else "")
        say(f"undone {n}")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
