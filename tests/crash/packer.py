"""The process of test_kill_pack.py: `packer.py DIR`, commits in one thread and packs in another until it is killed.

Says "open", then "phase NAME" at each step of a pack, and "begin N", "done N" around each commit, one write(2) a line.
"""

from __future__ import annotations

import os
import random
import sys
import threading
import time
from typing import Any

import transaction
from persistent.mapping import PersistentMapping
from ZODB.blob import Blob
from ZODB.DB import DB
from ZODB.serialize import referencesf
from zodb_dht import DHTStorage, packing

KEPT = 30


def say(line: str) -> None:
    os.write(1, line.encode() + b"\n")


def payload(n: int) -> bytes:
    return random.Random(n).randbytes(600)


def commits(db: Any) -> None:
    """Object n holds payload(n); the KEPT newest ones are linked, each with a child and a blob of its own."""
    manager = transaction.TransactionManager()
    conn = db.open(manager)
    while True:
        manager.begin()
        root = conn.root()
        n = root["next"]
        root["next"] = n + 1
        root[n] = PersistentMapping(data=payload(n), child=PersistentMapping(data=payload(n)), file=Blob(payload(n)))
        if n - KEPT in root:
            del root[n - KEPT]
        say(f"begin {n}")
        manager.commit()
        say(f"done {n}")


def main(path: str) -> None:
    db = DB(DHTStorage(path))
    with db.transaction() as conn:
        conn.root().setdefault("next", 0)
    say("open")
    threading.Thread(target=commits, args=(db,), daemon=True).start()
    while True:
        packing.pack(
            db.storage._peer.node,
            packing.tid_of(time.time()),
            referencesf,
            lambda phase, done, total: say(f"phase {phase}"),
        )


if __name__ == "__main__":
    main(sys.argv[1])
