"""DHTStorage: the root storage that an application opens and a ZODB.DB is made of."""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import zope.interface
from ZODB.interfaces import (
    IBlobStorage,
    IBlobStorageRestoreable,
    IExternalGC,
    IMultiCommitStorage,
    IPrefetchStorage,
    IStorageCurrentRecordIteration,
    IStorageIteration,
    IStorageRestoreable,
    IStorageUndoable,
    ReadVerifyingStorage,
)
from ZODB.utils import maxtid

from . import copying, iteration
from .blobs import Blobs
from .config import BY_KEYWORD, Settings
from .conversion import Report, rising
from .errors import Closed, ReadOnlyError, Unsupported, Usage
from .native import Revision, RevisionAndNext, open_node
from .peer import Peer, p64, u64
from .view import PREFETCH_AT_ONCE


@zope.interface.implementer(
    IBlobStorage,
    IBlobStorageRestoreable,
    IExternalGC,
    IMultiCommitStorage,
    IPrefetchStorage,
    IStorageCurrentRecordIteration,
    IStorageIteration,
    IStorageRestoreable,
    IStorageUndoable,
    ReadVerifyingStorage,
)
class DHTStorage(Blobs):
    """A ZODB storage on a peer directory, opened as one of its two kinds. Any thread.

    MVCCStorage gives each connection a view of its own; SharedStorage (`shared=True`) stands below wrappers and servers
    that know nothing of views. Either reads the newest state itself. The options are documented in config.py and, with
    the same names, in component.xml.
    """

    _open: Peer | None = None  # an open storage has one of its own

    def __new__(cls, *args: Any, shared: bool = Settings.shared, **options: Any) -> DHTStorage:
        kind: type[DHTStorage] = cls
        if cls is DHTStorage:
            from .mvcc import MVCCStorage
            from .shared import SharedStorage

            shared = Settings.shared if shared is None else shared
            kind = SharedStorage if BY_KEYWORD["shared"].read(shared) else MVCCStorage
        return object.__new__(kind)

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        create: bool = Settings.create,
        read_only: bool = Settings.read_only,
        shared: bool = Settings.shared,
        cache_size: int | str = Settings.cache_size,
        max_object_size: int | str = Settings.max_object_size,
        vote_wait: float | str = Settings.vote_wait,
        lease: float | str = Settings.lease,
        finish_timeout: float | str = Settings.finish_timeout,
        pack_gc: bool = Settings.pack_gc,
        pack_wait: float | str = Settings.pack_wait,
        blob_dir: str | os.PathLike[str] | None = Settings.blob_dir,
        name: str | None = Settings.name,
    ) -> None:
        settings = Settings.of(
            {
                "path": path,
                "create": create,
                "read-only": read_only,
                "shared": shared,
                "cache-size": cache_size,
                "max-object-size": max_object_size,
                "vote-wait": vote_wait,
                "lease": lease,
                "finish-timeout": finish_timeout,
                "pack-gc": pack_gc,
                "pack-wait": pack_wait,
                "blob-dir": blob_dir,
                "name": name,
            }
        )
        super().__init__(settings)
        self._open = peer = Peer(open_node(settings), settings.path)
        self.fshelper = peer.fshelper
        self._opened(peer)

    # What calling the class takes; __new__ hides it from help().
    __signature__ = inspect.Signature(list(inspect.signature(__init__).parameters.values())[1:])

    @classmethod
    def from_settings(cls, settings: Settings) -> DHTStorage:
        """What ZConfig and zodburi open."""
        return cls(**{f: getattr(settings, f) for f in settings.__dataclass_fields__})

    def new_client(self) -> DHTStorage:
        """Another root on the same open peer, for a second ZODB.DB in this process; closed by itself."""
        peer = self._peer.share()
        client = object.__new__(type(self))
        Blobs.__init__(client, self._settings)
        client._open = peer
        client.fshelper = peer.fshelper
        client._opened(peer)
        return client

    def _opened(self, peer: Peer) -> None:
        """This storage is on the peer now."""

    @property
    def _peer(self) -> Peer:
        peer = self._open
        if peer is None:
            raise Closed(f"{self._settings.path}: the storage was closed")
        return peer

    def close(self) -> None:
        """Close the peer, or give it up if another root uses it. Closing twice is no error."""
        try:
            for phase in list(self._phases.values()):
                self.tpc_abort(phase.transaction)
        finally:  # whatever an abort says
            peer: Peer | None = self.__dict__.pop("_open", None)  # in one step: several threads may close
            if peer is not None:
                peer.close()

    def load(self, oid: bytes, version: str = "") -> Revision:
        """The newest revision. Not IMVCCStorage's snapshot: that is the views'."""
        if version:
            raise Unsupported("versions are not supported")
        return self._load_current(oid)[:2]

    def loadBefore(self, oid: bytes, tid: bytes) -> RevisionAndNext | None:
        peer = self._peer
        announced = peer.announced
        if tid != maxtid and (announced is None or tid <= announced):
            return peer.node.load_before(oid, tid)
        with peer.head:
            return peer.node.load_before(oid, tid)

    def prefetch(self, oids: Iterable[bytes], tid: bytes) -> None:
        view = self._peer.node.view(p64(u64(tid) - 1))
        oids = iter(oids)
        while some := list(islice(oids, PREFETCH_AT_ONCE)):
            view.prefetch(some)

    def iterator(self, start: bytes | None = None, stop: bytes | None = None) -> Iterator[iteration.Transaction]:
        return iteration.transactions(self._peer.node, start, stop)

    def copyTransactionsFrom(
        self, other: Any, verbose: bool | int = False, *, workers: int = 1, start_tid: bytes | None = None
    ) -> None:
        """Copy each transaction of other, from start_tid on, with its tid; all are durable on return.

        They are queued, so that there is one fsync for many. workers is what zodb-convert asks for: any number is
        taken, since the core hashes, logs and applies in threads of its own while other is read. Files of blobs are
        linked where that is possible, else copied; other's stay as they are.
        """
        if self._read_only:
            raise ReadOnlyError
        if workers < 1:
            raise Usage(f"workers: {workers} is less than 1")
        transactions = other.iterator() if start_tid is None else other.iterator(start_tid)
        progress = copying.print_transaction if verbose else None
        copying.copy_transactions(other, rising(transactions), self._peer, Report(), progress)

    def outcome(self, txn_id: bytes) -> tuple[str, bytes] | None:
        """What became of InDoubt.txn: ("committed", tid), ("refused", z64), or None while it is unknown."""
        return self._peer.node.outcome(txn_id)
