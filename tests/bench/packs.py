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


def soil(spec: storages.Spec, source: str, objects: int, share: int = 5) -> Results:
    """The catalog at `source`, copied up to about `objects`: a share of its documents is gone."""
    os.makedirs(spec["path"])
    shutil.copy(os.path.join(source, "Data.fs"), os.path.join(spec["path"], "Data.fs"))
    db = DB(FileStorage(os.path.join(spec["path"], "Data.fs")), cache_size=1_000_000)
    manager = transaction.TransactionManager()
    conn = db.open(manager)
    root = conn.root()
    times = max(1, round(objects / len(db.storage)))
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


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def pack(spec: storages.Spec, prefix: str, commits: bool, cache_mb: int) -> Results:
    """Pack what is there, with garbage collection, in this process; with commits, a thread of it commits meanwhile."""
    with storages.opened_db(spec, cache_mb, objects=1000) as db:
        memory = _peak()
        committer = Committer(db)
        if commits:
            committer.start()
        start = time.perf_counter()
        db.storage.pack(time.time(), referencesf)
        elapsed = time.perf_counter() - start
        if spec["kind"] == "filestorage":  # it keeps a copy of before
            os.remove(os.path.join(spec["path"], "Data.fs.old"))
        if not commits:
            yield f"{prefix}-time", elapsed
            yield f"{prefix}-memory", _peak() - memory
            yield f"#{prefix}-objects", len(db.storage)
            return
        committer.stop()
        times = sorted(committer.times)
        yield f"{prefix}-busy-time", elapsed
        yield f"#{prefix}-busy-commits", len(times)
        yield f"{prefix}-busy-p99", 1e3 * times[len(times) * 99 // 100]
