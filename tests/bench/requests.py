"""The request of more than 10,000 loads: catalog searches and what they found, in a process that has read nothing."""

from __future__ import annotations

import datetime
import time
from collections.abc import Iterator
from typing import Any

import catalog  # noqa: F401 - the classes of the catalog, imported before time is taken
import storages
import transaction

Results = Iterator[tuple[str, float]]


class TimedStorage:
    """Stands before a connection's storage: counts and times load()."""

    def __init__(self, storage: Any) -> None:
        self._storage = storage
        self.loads, self.seconds = 0, 0.0
        load, now = storage.load, time.perf_counter

        def timed(oid: bytes) -> Any:
            start = now()
            try:
                return load(oid)
            finally:
                self.seconds += now() - start
                self.loads += 1

        self.load = timed

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)


class _NoStorage:
    def load(self, oid: bytes) -> Any:
        return None


def timer_cost() -> tuple[float, float]:
    """Seconds that the timer adds to one load: to what it measures itself, and to the request as a whole."""
    best = (1.0, 1.0)
    count = 20_000
    for _ in range(5):
        bare = _NoStorage()
        timed = TimedStorage(bare)
        start = time.perf_counter()
        for _ in range(count):
            bare.load(b"")
        middle = time.perf_counter()
        for _ in range(count):
            timed.load(b"")
        end = time.perf_counter()
        inside = max(0.0, timed.seconds - (middle - start)) / count
        best = min(best, (inside, max(0.0, (end - middle) - (middle - start)) / count))
    return best


def _search(root: Any) -> int:
    """What a user's page asks: words, arguments by name, a listing by title with documents; returns what it found."""
    search, folder = root["catalog"], root["documents"]
    words = search(text="transaction or thread or request")
    found = sum(len(brain.title) > 0 for brain in words)
    facets = search(
        names={"query": ["key", "value"], "operator": "or"},
        kind="FunctionDef",
        modified={"query": datetime.datetime(1990, 1, 1), "range": "min"},
        sort_on="modified",
        sort_order="descending",
    )
    found += sum(brain.lines > 0 for brain in facets)
    listing = search(lines={"query": 1, "range": "min"}, sort_on="title", b_start=0, b_size=LISTED)
    for brain in listing[:LISTED]:
        found += len(folder[brain.getPath()].title) > 0
    return found


LISTED = 8_000  # documents


def catalog_request(spec: storages.Spec) -> Results:
    with storages.opened_db(spec) as db:
        conn = db.open(transaction.TransactionManager())
        inner = conn._storage
        conn._storage = timed = TimedStorage(inner)
        start = time.perf_counter()
        found = _search(conn.root())
        total = time.perf_counter() - start
        conn._storage = inner
        inside, outside = timer_cost()
        yield "catalog-total", total - timed.loads * outside
        yield "catalog-load", timed.seconds - timed.loads * inside
        yield "#loads", timed.loads
        yield "#found", found
        conn.close()
