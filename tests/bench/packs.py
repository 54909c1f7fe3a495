"""Pack with garbage collection: of a catalog a fifth of which is garbage and old revisions, while somebody commits."""

from __future__ import annotations

import os
import resource
import shutil
import threading
import time
from collections.abc import Iterator
from typing import Any

import storages
import transaction
from persistent.mapping import PersistentMapping
from ZODB.DB import DB
from ZODB.FileStorage import FileStorage
from ZODB.serialize import referencesf

Results = Iterator[tuple[str, float]]
PER_TRANSACTION = 100
COPIES = "copies"


def _copy(conn: Any, value: Any) -> Any:
    """A copy of a tree of persistent objects, with oids of its own."""
    exported = conn.exportFile(value._p_oid)
    exported.seek(0)
    return conn.importFile(exported)


def soil(spec: storages.Spec, source: str, share: int = 5, times: int = 1) -> Results:
    """The catalog at `source`, `times` over: every share'th document is gone, and the rest has a history."""
    os.makedirs(spec["path"])
    shutil.copy(os.path.join(source, "Data.fs"), os.path.join(spec["path"], "Data.fs"))
    db = DB(FileStorage(os.path.join(spec["path"], "Data.fs")), cache_size=1_000_000)
    manager = transaction.TransactionManager()
    conn = db.open(manager)
    root = conn.root()
    for n in range(times - 1):
        root[f"{COPIES}{n}"] = PersistentMapping(
            documents=_copy(conn, root["documents"]), catalog=_copy(conn, root["catalog"])
        )
        manager.commit()
    sites = [root, *(root[f"{COPIES}{n}"] for n in range(times - 1))]
    for site in sites:
        paths = list(site["documents"])[::share]
        for start in range(0, len(paths), PER_TRANSACTION):
            for path in paths[start : start + PER_TRANSACTION]:
                site["catalog"].uncatalog_object(path)
                del site["documents"][path]
            manager.commit()
    root["commits"] = PersistentMapping()
    manager.commit()
    yield "#objects", len(db.storage)
    yield "#records", sum(1 for txn in db.storage.iterator() for _ in txn)
    conn.close()
    db.close()


class Committer(threading.Thread):
    """Commits one object again and again until it is stopped."""

    def __init__(self, db: Any) -> None:
        super().__init__()
        self._db = db
        self._end = threading.Event()
        self.times: list[float] = []

    def run(self) -> None:
        manager = transaction.TransactionManager()
        conn = self._db.open(manager)
        while not self._end.wait(0.001):
            start = time.perf_counter()
            manager.begin()
            conn.root()["commits"]["at"] = start
            manager.commit()
            self.times.append(time.perf_counter() - start)
        conn.close()

    def stop(self) -> None:
        self._end.set()
        self.join()


def _disk(path: str) -> int:
    return sum(os.path.getsize(os.path.join(where, name)) for where, _, names in os.walk(path) for name in names)


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def pack(spec: storages.Spec, source: str, commits: bool) -> Results:
    """Pack what was imported before, in this process: a storage of this path that is empty is filled first."""
    with storages.opened(spec) as storage:
        if not len(storage):
            other = FileStorage(os.path.join(source, "Data.fs"), read_only=True)
            storage.copyTransactionsFrom(other)
            other.close()
            yield "#filled", len(storage)
            return
    before = _disk(spec["path"])
    with storages.opened_db(spec) as db:
        memory = _peak()
        committer = Committer(db)
        if commits:
            committer.start()
        start = time.perf_counter()
        db.storage.pack(time.time(), referencesf)
        elapsed = time.perf_counter() - start
        committer.stop() if commits else None
        yield "pack", elapsed
        yield "pack-memory", _peak() - memory
        yield "#objects", len(db.storage)
        if commits:
            times = sorted(committer.times)
            yield "#commits", len(times)
            yield "commit-p99", times[len(times) * 99 // 100]
    for old in ("Data.fs.old",):  # what FileStorage keeps of before
        if os.path.exists(os.path.join(spec["path"], old)):
            os.remove(os.path.join(spec["path"], old))
    yield "size-before", before
    yield "size-after", _disk(spec["path"])
