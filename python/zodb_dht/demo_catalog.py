"""The demo's application: a Products.ZCatalog over the documents, requests to it, and edits by several threads."""

from __future__ import annotations

import datetime
import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import transaction
from BTrees.IOBTree import IOBTree
from BTrees.Length import Length
from BTrees.OIBTree import OIBTree
from BTrees.OOBTree import OOBTree
from Products.PluginIndexes.DateIndex.DateIndex import DateIndex
from Products.PluginIndexes.FieldIndex.FieldIndex import FieldIndex
from Products.PluginIndexes.KeywordIndex.KeywordIndex import KeywordIndex
from Products.PluginIndexes.PathIndex.PathIndex import PathIndex
from Products.ZCatalog.ZCatalog import ZCatalog
from Products.ZCTextIndex.Lexicon import CaseNormalizer, Splitter, StopWordRemover
from Products.ZCTextIndex.OkapiIndex import OkapiIndex
from Products.ZCTextIndex.ZCTextIndex import PLexicon, ZCTextIndex
from ZODB.DB import DB
from ZODB.POSException import ConflictError

from .demo_documents import Document, Source

COLUMNS = ("title", "kind", "distribution", "lines", "modified")
MAX_ATTEMPTS = 1000  # of one edit: reached only if a storage starves a thread


def create(db: Any) -> None:
    """An empty catalog and folder, and what the threads write to."""
    with db.transaction(note="catalog") as conn:
        root = conn.root()
        root["documents"] = OOBTree()
        root["counters"], root["edits"], root["journal"] = OIBTree(), Length(), IOBTree()
        catalog = root["catalog"] = ZCatalog("catalog")
        catalog.lexicon = PLexicon("lexicon", "", Splitter(), CaseNormalizer(), StopWordRemover())
        for index in (
            FieldIndex("title"),
            FieldIndex("kind"),
            FieldIndex("distribution"),
            FieldIndex("lines"),
            FieldIndex("edition"),
            KeywordIndex("names"),
            DateIndex("modified"),
            PathIndex("path"),
            ZCTextIndex("text", caller=catalog, index_factory=OkapiIndex, lexicon_id="lexicon"),
        ):
            catalog._catalog.addIndex(index.getId(), index)
        for name in COLUMNS:
            catalog._catalog.addColumn(name)


def add(db: Any, sources: Sequence[Source]) -> None:
    """Catalogs some documents in one transaction."""
    with db.transaction(note=f"{len(sources)} documents") as conn:
        documents, catalog = conn.root()["documents"], conn.root()["catalog"]
        for source in sources:
            documents[source.path] = document = Document(source)
            catalog.catalog_object(document, source.path)


# A request gets catalog and folder, and answers what it found, in order.
Request = Callable[[Any, Any], list[str]]


def words(catalog: Any, _documents: Any) -> list[str]:
    """A page of search results by words, best first."""
    found = catalog(text="transaction or thread or request")
    return [f"{brain.getPath()} {brain.title} {brain.lines}" for brain in found]


def facets(catalog: Any, _documents: Any) -> list[str]:
    """Methods that take arguments of these names, in one distribution, newest first."""
    found = catalog(
        names={"query": ["key", "value"], "operator": "or"},
        path="/stdlib",
        kind="function",
        modified={"query": datetime.datetime(1990, 1, 1), "range": "min"},
        sort_on="modified",
        sort_order="descending",
    )
    return [f"{brain.getPath()} {brain.modified}" for brain in found]


def listing(catalog: Any, documents: Any) -> list[str]:
    """Everything, by title, each document loaded: what a sitemap or an export does."""
    found = catalog(lines={"query": 0, "range": "min"}, sort_on="title")
    return [f"{brain.title} {len(documents[brain.getPath()].text)}" for brain in found]


REQUESTS: tuple[tuple[str, Request], ...] = (("words", words), ("facets", facets), ("listing", listing))


@dataclass
class Answer:
    """A request's answer and what it took."""

    found: list[str]
    loads: int
    total_s: float
    load_s: float


class TimedStorage:
    """Stands before one connection's storage while a request runs: counts and times load()."""

    def __init__(self, storage: Any) -> None:
        self._storage = storage
        self.loads, self.load_s = 0, 0.0

    def load(self, oid: bytes) -> tuple[bytes, bytes]:
        start = time.perf_counter()
        try:
            result: tuple[bytes, bytes] = self._storage.load(oid)
            return result
        finally:
            self.load_s += time.perf_counter() - start
            self.loads += 1

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)


def ask(db: Any, request: Request) -> Answer:
    """Runs one request on a connection that holds no object yet."""
    conn = db.open(transaction.TransactionManager())
    inner = conn._storage
    conn._storage = timed = TimedStorage(inner)
    try:
        start = time.perf_counter()
        root = conn.root()
        found = request(root["catalog"], root["documents"])
        return Answer(found, timed.loads, time.perf_counter() - start, timed.load_s)
    finally:
        conn.transaction_manager.abort()
        conn._storage = inner
        conn.close()


class Editors:
    """Threads that edit documents at the same time. What they count must come out exactly."""

    def __init__(self, db: Any, paths: Sequence[str], threads: int, edits: int, seed: int) -> None:
        self._db, self._paths, self._edits, self._seed = db, paths, edits, seed
        self._lock = threading.Lock()  # guards the two below; never held while a transaction runs
        self.retries = 0
        self.failures: list[BaseException] = []
        self._threads = [threading.Thread(target=self._run, args=(n,)) for n in range(threads)]

    def run(self) -> None:
        """Returns when all have ended; raises what any of them could not do."""
        for thread in self._threads:
            thread.start()
        for thread in self._threads:
            thread.join()
        if self.failures:
            raise self.failures[0]

    def _run(self, number: int) -> None:
        draw = random.Random(self._seed * 1000 + number)
        manager = transaction.TransactionManager()
        conn = self._db.open(manager)
        retries = 0
        try:
            for n in range(self._edits):
                path, key = draw.choice(self._paths), (self._seed << 20) + (number << 14) + n
                retries += self._edit(conn, manager, path, key)
        except BaseException as error:
            with self._lock:
                self.failures.append(error)
        finally:
            manager.abort()
            conn.close()
            with self._lock:
                self.retries += retries

    def _edit(self, conn: Any, manager: transaction.TransactionManager, path: str, key: int) -> int:
        """One transaction, repeated on conflicts as a publisher does; returns how often."""
        for attempt in range(MAX_ATTEMPTS):
            manager.begin()
            try:
                root = conn.root()
                document = root["documents"][path]
                document.edition += 1
                root["catalog"].catalog_object(document, path, idxs=["edition"], update_metadata=0)
                counters = root["counters"]
                package = path.split("/")[2]
                counters[package] = counters.get(package, 0) + 1  # two edits of one key are never resolved
                root["edits"].change(1)  # resolved by adding
                root["journal"][key] = 1  # resolved by merging buckets
                manager.commit()
                return attempt
            except ConflictError:
                manager.abort()
        raise RuntimeError(f"an edit of {path} conflicted {MAX_ATTEMPTS} times")


def open_db(storage: Any) -> Any:
    return DB(storage, cache_size=400_000)
