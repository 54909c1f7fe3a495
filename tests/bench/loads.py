"""Loads: through what a connection reads from (its `_storage`), and with unpickling through the connection itself."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from typing import Any

import items
import storages
import transaction

Results = Iterator[tuple[str, float]]
MICRO = 1e6
PREFETCH = 1000  # objects a call


def shuffled(objects: int, count: int, seed: int) -> list[bytes]:
    return [items.oid_of(n) for n in random.Random(seed).sample(range(objects), count)]


def _load_all(load: Any, oids: list[bytes]) -> float:
    """Seconds."""
    start = time.perf_counter()
    for oid in oids:
        load(oid)
    return time.perf_counter() - start


def _connections(db: Any, count: int) -> list[Any]:
    return [db.open(transaction.TransactionManager()) for _ in range(count)]


def _in_threads(db: Any, oids: list[bytes], threads: int) -> float:
    """Seconds for a load, with `threads` threads that each load everything in an order of their own."""
    conns = _connections(db, threads)
    orders = []
    for n in range(threads):
        order = oids[:]
        random.Random(n).shuffle(order)
        orders.append(order)
    barrier = threading.Barrier(threads + 1)
    failures: list[BaseException] = []

    def run(load: Any, order: list[bytes]) -> None:
        try:
            barrier.wait()
            for oid in order:
                load(oid)
        except BaseException as error:
            failures.append(error)

    workers = [threading.Thread(target=run, args=(c._storage.load, o)) for c, o in zip(conns, orders, strict=True)]
    for w in workers:
        w.start()
    barrier.wait()
    start = time.perf_counter()
    for w in workers:
        w.join()
    seconds = time.perf_counter() - start
    for conn in conns:
        conn.close()
    if failures:
        raise failures[0]
    return seconds / (threads * len(oids))


def warm(spec: storages.Spec, objects: int, threads: list[int]) -> Results:
    """Loads of what has been read before, with all caches warm, then load + setstate into an empty object cache."""
    oids = shuffled(objects, objects, seed=7)
    with storages.opened_db(spec, objects=2 * objects) as db:
        conn = db.open(transaction.TransactionManager())
        for start in range(0, objects, PREFETCH):
            conn.prefetch(oids[start : start + PREFETCH])
            _load_all(conn._storage.load, oids[start : start + PREFETCH])
        _load_all(conn._storage.load, oids)
        for n in threads:
            yield f"warm-{objects}-{n}t", MICRO * _in_threads(db, oids, n)
        ghosts = [conn.get(oid) for oid in oids]
        for ghost in ghosts:
            if ghost._p_changed is not None:
                raise AssertionError("an object is not a ghost before it is measured")
        start_time = time.perf_counter()
        for ghost in ghosts:
            ghost._p_activate()
        yield f"setstate-{objects}", MICRO * (time.perf_counter() - start_time) / objects
        conn.close()


def cold(spec: storages.Spec, objects: int, count: int, prefetch: bool) -> Results:
    """The first loads of a process. The files are in the page cache: they were read by an earlier one."""
    oids = shuffled(objects, count, seed=11)
    with storages.opened_db(spec) as db:
        conn = db.open(transaction.TransactionManager())
        load = conn._storage.load
        if not prefetch:
            yield f"cold-{objects}", MICRO * _load_all(load, oids) / count
        else:
            start_time = time.perf_counter()
            for start in range(0, count, PREFETCH):
                chunk = oids[start : start + PREFETCH]
                conn.prefetch(chunk)
                for oid in chunk:
                    load(oid)
            yield f"cold-prefetch-{objects}", MICRO * (time.perf_counter() - start_time) / count
        conn.close()
