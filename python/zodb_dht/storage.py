"""DHTStorage: the root storage that an application opens and a ZODB.DB is made of."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import zope.interface
from ZODB.interfaces import (
    IBlobStorage,
    IBlobStorageRestoreable,
    IMultiCommitStorage,
    IMVCCStorage,
    IPrefetchStorage,
    IStorageIteration,
    IStorageRestoreable,
    ReadVerifyingStorage,
)
from ZODB.utils import maxtid

from . import copying, iteration
from .blobs import Blobs
from .config import Settings
from .errors import Closed, ReadOnlyError, Unsupported
from .native import Revision, RevisionAndNext, open_node
from .peer import Peer, p64, u64
from .view import PREFETCH_AT_ONCE, DHTView


@zope.interface.implementer(
    IBlobStorage,
    IBlobStorageRestoreable,
    IMultiCommitStorage,
    IMVCCStorage,
    IPrefetchStorage,
    IStorageIteration,
    IStorageRestoreable,
    ReadVerifyingStorage,
)
class DHTStorage(Blobs):
    """A ZODB storage on a peer directory. Any thread; connections read through the views of new_instance().

    The root itself reads the newest state, tools and wrappers ask it. The options are documented in config.py and, with
    the same names, in component.xml.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        create: bool = Settings.create,
        read_only: bool = Settings.read_only,
        cache_size: int | str = Settings.cache_size,
        max_object_size: int | str = Settings.max_object_size,
        vote_wait: float | str = Settings.vote_wait,
        lease: float | str = Settings.lease,
        finish_timeout: float | str = Settings.finish_timeout,
        blob_dir: str | os.PathLike[str] | None = Settings.blob_dir,
        name: str | None = Settings.name,
    ) -> None:
        settings = Settings.of(
            {
                "path": path,
                "create": create,
                "read-only": read_only,
                "cache-size": cache_size,
                "max-object-size": max_object_size,
                "vote-wait": vote_wait,
                "lease": lease,
                "finish-timeout": finish_timeout,
                "blob-dir": blob_dir,
                "name": name,
            }
        )
        super().__init__(settings)
        self._open: Peer | None = Peer(open_node(settings), settings.path)
        self.fshelper = self._open.fshelper

    @classmethod
    def from_settings(cls, settings: Settings) -> DHTStorage:
        """What ZConfig and zodburi open."""
        return cls(**{f: getattr(settings, f) for f in settings.__dataclass_fields__})

    def new_client(self) -> DHTStorage:
        """Another root on the same open peer, for a second ZODB.DB in this process; closed by itself."""
        peer = self._peer.share()
        client = DHTStorage.__new__(DHTStorage)
        Blobs.__init__(client, self._settings)
        client._open = peer
        client.fshelper = peer.fshelper
        return client

    @property
    def _peer(self) -> Peer:
        peer = self._open
        if peer is None:
            raise Closed(f"{self._settings.path}: the storage was closed")
        return peer

    def close(self) -> None:
        """Close the peer, or give it up if another root uses it. Closing twice is no error."""
        for phase in list(self._phases.values()):
            self.tpc_abort(phase.transaction)
        peer, self._open = self._open, None
        if peer is not None:
            peer.close()

    def load(self, oid: bytes, version: str = "") -> Revision:
        """The newest revision. Not IMVCCStorage's snapshot: that is the views'."""
        if version:
            raise Unsupported("versions are not supported")
        return self._load_current(oid)[:2]

    def loadBefore(self, oid: bytes, tid: bytes) -> RevisionAndNext | None:
        peer = self._peer
        if tid != maxtid:
            return peer.node.load_before(oid, tid)
        with peer.head:
            return peer.node.load_before(oid, tid)

    def prefetch(self, oids: Iterable[bytes], tid: bytes) -> None:
        view = self._peer.node.view(p64(u64(tid) - 1))
        oids = iter(oids)
        while some := list(islice(oids, PREFETCH_AT_ONCE)):
            view.prefetch(some)

    def new_instance(self) -> DHTView:
        """A view for one connection."""
        self._peer  # noqa: B018 - Closed
        return DHTView(self)

    def release(self) -> None:
        """The root holds no snapshot."""

    def poll_invalidations(self) -> list[bytes]:
        """The root always reads the newest state, so nothing that it returned is a cached snapshot."""
        return []

    def sync(self, force: bool = True) -> None:
        """The peer is in this process: lastTransaction is all that it has acknowledged."""

    def iterator(self, start: bytes | None = None, stop: bytes | None = None) -> Iterator[iteration.Transaction]:
        return iteration.transactions(self._peer.node, start, stop)

    def copyTransactionsFrom(self, other: Any, verbose: bool | int = False) -> None:
        """Copy each transaction of other with its tid. They are queued, so that there is one fsync for many. Files of
        blobs are linked where that is possible, else copied; other's stay as they are."""
        if self._read_only:
            raise ReadOnlyError
        copying.copy_transactions(other, self._peer, bool(verbose))

    def outcome(self, txn_id: bytes) -> tuple[str, bytes] | None:
        """What became of InDoubt.txn: ("committed", tid), ("refused", z64), or None while it is unknown."""
        return self._peer.node.outcome(txn_id)
