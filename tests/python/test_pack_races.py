"""Commits, old snapshots and objects that are linked anew, while packs with garbage collection go on and on."""

from __future__ import annotations

import random
import threading
import time
from typing import Any

import transaction
from BTrees.check import check
from BTrees.OOBTree import OOBTree
from persistent.mapping import PersistentMapping
from ZODB.DB import DB
from ZODB.POSException import ConflictError
from ZODB.serialize import referencesf

from .conftest import Opener

SECONDS = 6
SHELVES = 6
NAMES = 40


def _move(root: Any, draw: random.Random) -> None:
    """Take things out of a shelf: drop some, link others elsewhere; put new ones in."""
    source, target = (root[f"shelf{n}"] for n in draw.sample(range(SHELVES), 2))
    names = list(source)
    for name in draw.sample(names, min(3, len(names))):
        thing = source[name]
        del source[name]
        if draw.random() < 0.5:
            target[name] = thing
    target[f"{draw.randrange(NAMES)}"] = PersistentMapping(inner=PersistentMapping(text="x" * draw.randrange(200)))


def _relink(conn: Any, draw: random.Random, unlinked: threading.Event) -> None:
    """Link what this snapshot reaches, after others had the time to unlink it and a pack to collect it."""
    root = conn.root()
    shelf = root[f"shelf{draw.randrange(SHELVES)}"]
    names = list(shelf)
    if not names:
        return
    name = draw.choice(names)
    thing = shelf[name]
    unlinked.wait(draw.random() * 0.2)
    root["found"][name] = thing
    assert len(thing["inner"]["text"]) < 200


def _drop_found(conn: Any) -> None:
    found = conn.root()["found"]
    for name in list(found)[: len(found) // 2]:
        del found[name]


def test_nothing_that_is_linked_is_ever_collected(open_storage: Opener) -> None:
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")
    storage = open_storage(pack_wait=0.02)  # readers are cut off all the time
    db = DB(storage, pool_size=20)
    with db.transaction() as conn:
        for n in range(SHELVES):
            conn.root()[f"shelf{n}"] = OOBTree()
        conn.root()["found"] = OOBTree()
    end = threading.Event()
    failures: list[BaseException] = []
    counts = {"commits": 0, "conflicts": 0, "packs": 0}

    def work(number: int) -> None:
        draw = random.Random(f"{seed} {number}")
        manager = transaction.TransactionManager(explicit=True)
        conn = db.open(manager)
        while not end.is_set():
            manager.begin()
            try:
                if number % 3 == 0:
                    _relink(conn, draw, end)
                elif draw.random() < 0.1:
                    _drop_found(conn)
                else:
                    _move(conn.root(), draw)
                if draw.random() < 0.3:
                    conn.cacheMinimize()
                manager.commit()
                counts["commits"] += 1
            except ConflictError:
                manager.abort()
                counts["conflicts"] += 1
        conn.close()

    def pack() -> None:
        while not end.is_set():
            storage.pack(time.time(), referencesf)
            counts["packs"] += 1

    def guarded(run: Any, *args: Any) -> None:
        try:
            run(*args)
        except BaseException as error:
            failures.append(error)
            end.set()

    threads = [threading.Thread(target=guarded, args=(work, n)) for n in range(6)]
    threads.append(threading.Thread(target=guarded, args=(pack,)))
    for thread in threads:
        thread.start()
    end.wait(SECONDS)
    end.set()
    for thread in threads:
        thread.join()
    print(counts)
    if failures:
        raise failures[0]
    assert counts["packs"] and counts["commits"] > counts["packs"]

    storage.pack(time.time(), referencesf)
    with db.transaction() as conn:
        conn.cacheMinimize()
        reached = {conn.root()._p_oid}
        for name, tree in conn.root().items():
            check(tree)
            tree._check()
            for thing in tree.values():
                reached |= {thing._p_oid, thing["inner"]._p_oid}
                assert set(thing["inner"]["text"]) <= {"x"}, name
        assert len(storage) >= len(reached)
    db.close()
