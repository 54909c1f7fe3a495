"""Durable commits through transaction.commit(): how long one takes, how many several writers make, fsyncs of each."""

from __future__ import annotations

import contextlib
import os
import random
import threading
import time
from collections.abc import Iterator
from typing import Any

import items
import storages
import transaction

Results = Iterator[tuple[str, float]]
MILLI = 1e3
BODY = 330
MARK = "/zodb-dht-bench-mark"
"""os.access() of this path, which does not exist, shows in a system call trace where measured commits begin and end."""


def _open(db: Any, numbers: range) -> tuple[Any, transaction.TransactionManager, list[Any]]:
    """A connection and some of its objects, read already."""
    manager = transaction.TransactionManager()
    conn = db.open(manager)
    objects = [conn.get(items.oid_of(n)) for n in numbers]
    for ob in objects:
        ob._p_activate()
    return conn, manager, objects


def _commits(manager: transaction.TransactionManager, objects: list[Any], each: int, count: int) -> list[float]:
    """The seconds of each of `count` commits that modify `each` objects."""
    draw = random.Random(each)
    bodies = [draw.randbytes(BODY) for _ in range(64)]
    taken = []
    for n in range(count):
        manager.begin()
        for k in range(each):
            ob = objects[(n * each + k) % len(objects)]
            ob.body = bodies[(n + k) % 64]
        start = time.perf_counter()
        manager.commit()
        taken.append(time.perf_counter() - start)
    return taken


def _percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def sizes(spec: storages.Spec, objects: int, counts: dict[str, int]) -> Results:
    """One writer; counts: objects a commit -> commits."""
    with storages.opened_db(spec) as db:
        conn, manager, obs = _open(db, range(min(objects, 2000)))
        for each, count in counts.items():
            _commits(manager, obs, int(each), max(3, count // 10))  # code paths and files warm up
            taken = _commits(manager, obs, int(each), count)
            yield f"commit-{each}-p50", MILLI * _percentile(taken, 0.50)
            yield f"commit-{each}-p99", MILLI * _percentile(taken, 0.99)
        conn.close()


def writers(spec: storages.Spec, objects: int, threads: list[int], seconds: float) -> Results:
    """Commits a second by several threads, each with a connection and objects of its own, one object a commit."""
    with storages.opened_db(spec) as db:
        for n in threads:
            yield f"commits-{n}t", _rate(db, objects, n, seconds)


def _rate(db: Any, objects: int, threads: int, seconds: float) -> float:
    share = min(50, objects // threads)
    begun = threading.Barrier(threads + 1)
    stop = threading.Event()
    done = [0] * threads
    failures: list[BaseException] = []

    def run(number: int) -> None:
        try:
            conn, manager, obs = _open(db, range(number * share, (number + 1) * share))
            bodies = [random.Random(number).randbytes(BODY) for _ in range(16)]
            begun.wait()
            count = 0
            while not stop.is_set():
                manager.begin()
                obs[count % share].body = bodies[count % 16]
                manager.commit()
                count += 1
            done[number] = count
            conn.close()
        except BaseException as error:
            failures.append(error)
            begun.abort()

    workers = [threading.Thread(target=run, args=(n,)) for n in range(threads)]
    for w in workers:
        w.start()
    with contextlib.suppress(threading.BrokenBarrierError):  # the failure that broke it is raised below
        begun.wait()
    start = time.perf_counter()
    stop.wait(seconds)
    stop.set()
    for w in workers:
        w.join()
    elapsed = time.perf_counter() - start
    if failures:
        raise failures[0]
    return sum(done) / elapsed


def syncs(spec: storages.Spec, objects: int, count: int) -> Results:
    """Commits between two marks; the driver counts the fsyncs that strace saw there."""
    with storages.opened_db(spec) as db:
        conn, manager, obs = _open(db, range(min(objects, 200)))
        _commits(manager, obs, 1, 20)
        os.access(MARK, os.F_OK)
        _commits(manager, obs, 1, count)
        os.access(MARK, os.F_OK)
        yield "#commits", count
        conn.close()


def forever(spec: storages.Spec, objects: int, count: int) -> Results:
    """Commits, says so after `count`, and goes on until it is killed."""
    with storages.opened_db(spec) as db:
        _, manager, obs = _open(db, range(min(objects, 200)))
        _commits(manager, obs, 1, count)
        yield "#committed", count
        while True:
            _commits(manager, obs, 1, 100)
