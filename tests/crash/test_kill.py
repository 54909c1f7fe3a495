"""kill -9 of a Zope-like process: what transaction.commit() returned for is there after reopening.

The Go test beside this one does the same against the core; this one goes through the whole of Python.
ZODB_DHT_SOAK_ROUNDS sets the rounds of both, ZODB_DHT_SEED replays the draws.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from committer import payload
from ZODB.DB import DB
from ZODB.utils import maxtid

HERE = Path(__file__).parent
ROUNDS = int(os.environ.get("ZODB_DHT_SOAK_ROUNDS", "120")) // 3
THREADS = 3


@dataclass
class Heard:
    """What the committing processes of one directory said."""

    begun: set[tuple[int, int]] = field(default_factory=set)
    done: dict[tuple[int, int], bytes] = field(default_factory=dict)
    undone: set[bytes] = field(default_factory=set)

    def hear(self, line: str) -> None:
        words = line.split()
        if words[0] == "begin":
            self.begun.add((int(words[1]), int(words[2])))
        elif words[0] == "done":
            self.done[int(words[1]), int(words[2])] = bytes.fromhex(words[3])
        elif words[0] == "undone":
            self.undone.add(bytes.fromhex(words[1]))


def kill_while_committing(path: Path, seed: int, draw: random.Random, heard: Heard) -> None:
    lines, delay = draw.randrange(200), draw.random() * 0.005
    with subprocess.Popen(
        [sys.executable, str(HERE / "committer.py"), str(path), str(seed), str(THREADS)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdout is not None and child.stderr is not None
        for count, line in enumerate(child.stdout):
            heard.hear(line)
            if count == lines:
                threading.Timer(delay, child.kill).start()
        error = child.stderr.read()
    assert child.returncode == -9, f"the committing process ended by itself: {error}"


def check(path: Path, seed: int, heard: Heard) -> int:
    """Returns how many commits were there, though nobody was told."""
    from zodb_dht import DHTStorage

    db = DB(DHTStorage(str(path)))
    untold = 0
    try:
        with db.transaction() as conn:
            root = conn.root()
            total = 0
            for thread in range(THREADS):
                tree = root[f"thread {thread}"]
                for n, record in tree.items():
                    assert record["data"] == payload(seed, thread, n)
                    told = heard.done.get((thread, n))
                    if told is None:
                        assert (thread, n) in heard.begun, f"thread {thread} never began {n}"
                        untold += 1
                        continue
                    loaded = db.storage.loadBefore(record._p_oid, maxtid)
                    assert loaded is not None and loaded[1] == told, f"thread {thread}, {n}: tid {loaded} not {told!r}"
                total += len(tree)
                missing = [key for key in heard.done if key[0] == thread and key[1] not in tree]
                assert not missing, f"LOST, though acknowledged: {missing}"
            assert root["total"]() == total, "a transaction is there in part"
            check_undos(db, root["left"]._p_oid, root["right"]._p_oid, heard.undone)
    finally:
        db.close()
    return untold


def check_undos(db: DB, left: bytes, right: bytes, undone: set[bytes]) -> None:
    """Each undo is there whole or not at all, and those that were acknowledged are there."""
    history = db.storage.history(left, 1 << 30)
    tids = [entry["tid"] for entry in history]
    assert tids == [entry["tid"] for entry in db.storage.history(right, 1 << 30)], "a transaction is there in part"
    assert undone <= set(tids), f"LOST undos, though acknowledged: {undone - set(tids)}"
    for n, entry in enumerate(history):
        if entry["description"] == b"undo":
            for oid in (left, right):
                assert db.storage.loadSerial(oid, tids[n]) == db.storage.loadSerial(oid, tids[n + 2])


def test_nothing_that_commit_returned_for_is_lost(tmp_path: Path) -> None:
    seed = int(os.environ.get("ZODB_DHT_SEED", time.time_ns()))
    print(f"replay the draws with ZODB_DHT_SEED={seed}")
    draw, heard, untold = random.Random(seed), Heard(), 0
    for _ in range(ROUNDS):
        kill_while_committing(tmp_path / "peer", seed, draw, heard)
        untold = check(tmp_path / "peer", seed, heard)
    acknowledged = f"{len(heard.done)} acknowledged commits and {len(heard.undone)} undos"
    print(f"{ROUNDS} rounds: {acknowledged} found, {untold} commits that nobody was told of")
    assert heard.done and heard.undone, "no commit, or no undo, in any round: nothing was shown"
