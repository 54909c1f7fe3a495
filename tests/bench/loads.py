"""Loads: through what a connection reads from (its `_storage`), and with unpickling through the connection itself."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
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


def _at_once(runs: Sequence[tuple[Callable[[Any, list[bytes]], None], Any, list[bytes]]]) -> float:
    """Seconds until all are done, each in a thread of its own if there are several."""
    if len(runs) == 1:
        start = time.perf_counter()
        runs[0][0](*runs[0][1:])
        return time.perf_counter() - start
    barrier = threading.Barrier(len(runs) + 1)
    failures: list[BaseException] = []

    def work(run: Callable[[Any, list[bytes]], None], conn: Any, oids: list[bytes]) -> None:
        try:
            barrier.wait()
            run(conn, oids)
        except BaseException as error:
            failures.append(error)

    workers = [threading.Thread(target=work, args=run) for run in runs]
    for w in workers:
        w.start()
    barrier.wait()
    start = time.perf_counter()
    for w in workers:
        w.join()
    seconds = time.perf_counter() - start
    if failures:
        raise failures[0]
    return seconds


def _in_threads(db: Any, oids: list[bytes], threads: int) -> float:
    """Seconds for a load, with `threads` threads that each load everything in an order of their own."""
    conns = _connections(db, threads)
    runs = []
    for n, conn in enumerate(conns):
        order = oids[:]
        random.Random(n).shuffle(order)
        runs.append((_loads, conn, order))
    seconds = _at_once(runs)
    for conn in conns:
        conn.close()
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


def cold(spec: storages.Spec, objects: int, count: int, how: str, threads: int, metric: str) -> Results:
    """The first `count` loads of a process, in random order. The files are in the page cache: an earlier one read them.

    how: load, prefetch (some are asked for at once before), setstate (with unpickling). Threads share the objects.
    """
    oids = shuffled(objects, count, seed=11)
    with storages.opened_db(spec, objects=2 * count) as db:
        conns = _connections(db, threads)
        shares = [oids[n::threads] for n in range(threads)]
        run = {"load": _loads, "prefetch": _prefetches, "setstate": _states}[how]
        yield metric, MICRO * _at_once([(run, conn, share) for conn, share in zip(conns, shares, strict=True)]) / count
        for conn in conns:
            conn.close()


def _loads(conn: Any, oids: list[bytes]) -> None:
    _load_all(conn._storage.load, oids)


def _prefetches(conn: Any, oids: list[bytes]) -> None:
    for start in range(0, len(oids), PREFETCH):
        chunk = oids[start : start + PREFETCH]
        conn.prefetch(chunk)
        _load_all(conn._storage.load, chunk)


def _states(conn: Any, oids: list[bytes]) -> None:
    for oid in oids:
        conn.get(oid)._p_activate()
