"""Opening a database in a fresh process: how long, and how much memory, then and after reading a part of it."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path

import items
import storages
import transaction

Results = Iterator[tuple[str, float]]
KB_PER_MB = 1024


def _memory(field: str) -> float:
    """VmRSS or VmHWM of this process, in MB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) / KB_PER_MB
    raise LookupError(f"/proc/self/status has no {field}")


def _import_all(spec: storages.Spec) -> None:
    """What opening imports; only the storage's own part is to be measured."""
    import ZODB.DB

    if spec["kind"] == "filestorage":
        import ZODB.FileStorage  # noqa: F401
    elif spec["kind"] == "zeo":
        import ZEO.ClientStorage  # noqa: F401
    elif spec["kind"] == "neo":
        import neo.client.Storage  # noqa: F401
    elif spec["kind"] == "dht":
        from zodb_dht import DHTStorage  # noqa: F401
    else:
        import relstorage.adapters.postgresql
        import relstorage.adapters.sqlite.adapter
        import relstorage.storage  # noqa: F401


def open_and_read(spec: storages.Spec, objects: int, cache_mb: int, read: int, prefix: str) -> Results:
    """From open_storage() to the root object in hand; then `read` objects, in random order."""
    _import_all(spec)
    before = _memory("VmRSS")
    start = time.perf_counter()
    with storages.opened_db(spec, cache_mb, objects=1000) as db:
        conn = db.open(transaction.TransactionManager())
        conn.root()._p_activate()
        yield f"{prefix}-{objects}", 1e3 * (time.perf_counter() - start)
        if not read:
            return
        yield f"{prefix}-rss-{objects}", _memory("VmRSS") - before
        load = conn._storage.load
        draw = random.Random(5)
        for _ in range(read):
            load(items.oid_of(draw.randrange(objects)))
        yield f"{prefix}-peak-{objects}", _memory("VmHWM") - before
        conn.close()
