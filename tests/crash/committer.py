"""The committing process of test_kill.py: `committer.py DIR SEED THREADS`, commits until it is killed.

Says "open", then "begin THREAD N" before each commit and "done THREAD N TID" after it, one write(2) a line. One thread
more writes two objects at once and takes that back, again and again: "undone TID" after each undo.
"""

from __future__ import annotations

import os
import random
import sys
import threading
import time

import transaction
from BTrees.IOBTree import IOBTree
from BTrees.Length import Length
from persistent.mapping import PersistentMapping
from ZODB.DB import DB
from ZODB.POSException import ConflictError
from zodb_dht import DHTStorage
from zodb_dht.undo import undo_id


def say(line: str) -> None:
    os.write(1, line.encode() + b"\n")


def payload(seed: int, thread: int, n: int) -> bytes:
    draw = random.Random(f"{seed} {thread} {n}")
    return draw.randbytes(draw.choice((20, 200, 600, 40_000)))


def run(db: DB, seed: int, thread: int) -> None:
    manager = transaction.TransactionManager()
    conn = db.open(manager)
    while True:
        manager.begin()
        root = conn.root()
        tree = root[f"thread {thread}"]
        n = len(tree)  # goes on where the last process was killed
        tree[n] = PersistentMapping(data=payload(seed, thread, n))
        root["total"].change(1)  # written by all: resolved
        say(f"begin {thread} {n}")
        try:
            manager.commit()
        except ConflictError:
            manager.abort()
            continue
        # The tree's own serial need not be this transaction's: the new bucket entry's is.
        say(f"done {thread} {n} {tree[n]._p_serial.hex()}")


def undo(db: DB, seed: int) -> None:
    manager = transaction.TransactionManager()
    conn = db.open(manager)
    draw = random.Random(f"{seed} undo {time.time_ns()}")
    while True:
        manager.begin()
        left, right = conn.root()["left"], conn.root()["right"]
        left["n"] = right["n"] = draw.randbytes(draw.choice((8, 30_000)))
        manager.commit()
        other = transaction.TransactionManager()
        other.get().note("undo")
        db.undo(undo_id(left._p_serial), other.get())
        other.commit()
        manager.begin()
        left["n"]  # loads it
        say(f"undone {left._p_serial.hex()}")


def main(path: str, seed: int, threads: int) -> None:
    db = DB(DHTStorage(path))
    with db.transaction() as conn:
        root = conn.root()
        if "total" not in root:
            root["total"] = Length()
            for side in ("left", "right"):
                root[side] = PersistentMapping(n=b"")
            for thread in range(threads):
                root[f"thread {thread}"] = IOBTree()
    say("open")
    workers = [threading.Thread(target=run, args=(db, seed, t), daemon=True) for t in range(threads)]
    workers.append(threading.Thread(target=undo, args=(db, seed), daemon=True))
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
