"""Copies by copyTransactionsFrom: the measured ones, and those that make the databases of the others."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any

import items
import storages

Results = Iterator[tuple[str, float]]


def fill(spec: storages.Spec, objects: int, per_transaction: int = items.PER_TRANSACTION) -> Results:
    """A database of `objects` items, and the pages that it is made of in the page cache."""
    with storages.opened(spec) as storage:
        storage.copyTransactionsFrom(items.ItemSource(objects, per_transaction))
        yield "#objects", objects


def _source(path: str) -> Any:
    from ZODB.FileStorage import FileStorage

    return FileStorage(os.path.join(path, "Data.fs"), read_only=True)


def import_all(spec: storages.Spec, source: str, prefix: str = "import") -> Results:
    """A FileStorage into an empty storage; the second figure includes closing, as a one-off copy does."""
    other = _source(source)
    with open(os.path.join(source, "Data.fs"), "rb") as f:  # in the page cache, whoever comes first
        while f.read(1 << 24):
            pass
    storage = storages.open_storage(spec)
    start = time.perf_counter()
    storage.copyTransactionsFrom(other)
    copied = time.perf_counter()
    storage.close()
    closed = time.perf_counter()
    other.close()
    yield prefix, copied - start
    yield f"{prefix}-closed", closed - start


def export_all(spec: storages.Spec, target: str, prefix: str) -> Results:
    """A storage into a new FileStorage; the second figure includes closing both."""
    from ZODB.FileStorage import FileStorage

    os.makedirs(target)
    storage = storages.open_storage(spec)
    other = FileStorage(os.path.join(target, "Data.fs"))
    start = time.perf_counter()
    other.copyTransactionsFrom(storage)
    copied = time.perf_counter()
    other.close()
    storage.close()
    closed = time.perf_counter()
    yield prefix, copied - start
    yield f"{prefix}-closed", closed - start


def count(spec: storages.Spec, source: str) -> Results:
    """How many objects and records the catalog has."""
    other = _source(source)
    yield "#objects", len(other)
    yield "#records", sum(1 for txn in other.iterator() for _ in txn)
    other.close()
