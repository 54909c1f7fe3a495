"""SharedStorage: one storage under what wraps it, with the invalidations that MVCCAdapter and a ZEO server live by."""

from __future__ import annotations

import logging
import threading
from typing import Any

from ZODB.utils import z64

from .peer import Peer, p64, u64
from .storage import DHTStorage
from .tpc import Callback

log = logging.getLogger(__name__)

TOLD_AT_ONCE = 1000
"""Transactions read in one call while others' commits are told."""


class SharedStorage(DHTStorage):
    """What DHTStorage opens with `shared`: a plain IStorage, whose wrapper (registerDB) keeps the snapshots.

    Each transaction T is announced under `_lock`, in the log's order: its records can be loaded, then the wrapper hears
    of it (by tpc_finish's callback if it is this storage's own, else by invalidate), then lastTransaction is T. So no
    reader that asks for lastTransaction, or for what is current, meets T before its wrapper did. Commits of one process
    follow one another.
    """

    _wrapper: Any = None

    def _opened(self, peer: Peer) -> None:
        peer.overlay = True
        with peer.head:
            self._told = peer.node.last_tid()  # Invariant: only rises, under _lock; lastTransaction's answer
            peer.watchers.append(self._tell)

    @property
    def _lock(self) -> threading.RLock:
        """The order of announcements. DemoStorage takes it for its own; never held while a callback waits."""
        return self._peer.head

    def close(self) -> None:
        peer = self._open
        if peer is not None:
            with peer.head:
                if self._tell in peer.watchers:
                    peer.watchers.remove(self._tell)
        super().close()

    def registerDB(self, wrapper: Any) -> None:
        super().registerDB(wrapper)
        with self._lock:
            self._wrapper = wrapper

    def lastTransaction(self) -> bytes:
        with self._lock:
            self._tell()
            return self._told

    def lastInvalidations(self, size: int) -> list[tuple[bytes, list[bytes]]]:
        """(tid, oids) of the newest `size` transactions, oldest first."""
        with self._lock:
            self._tell()
            recent = self._peer.node.transactions_backwards(z64, self._told, max(size, 0))
        return [(header[0], header[-1]) for header in reversed(recent)]

    def tpc_finish(self, transaction: Any, func: Callback | None = None) -> bytes:
        def announce(tid: bytes) -> None:
            self._tell(p64(u64(tid) - 1))  # what others committed before it
            if func is not None:
                func(tid)
            self._told = tid

        peer = self._peer
        with peer.head:
            tid = super().tpc_finish(transaction, announce)
            for watcher in list(peer.watchers):
                watcher()
        return tid

    def _tell(self, upto: bytes | None = None) -> None:
        """Tell the wrapper of all transactions after the last told one that are not its own. REQUIRES: _lock."""
        peer = self._peer
        node = peer.node
        last = node.last_tid() if upto is None else upto
        while self._told < last:
            headers = node.transactions(p64(u64(self._told) + 1), last, TOLD_AT_ONCE)
            for header in headers:
                self._invalidate(header[0], header[-1])
                self._told = header[0]
            if len(headers) < TOLD_AT_ONCE:
                break
        # Below a commit that waits for its callback the last tid is no transaction's; else a pack took it away since.
        if upto is None and peer.announced is None:
            self._told = max(self._told, last)

    def _invalidate(self, tid: bytes, oids: list[bytes]) -> None:
        wrapper = self._wrapper
        if wrapper is None:
            return
        try:
            _hand_on(wrapper, tid, oids)
        except Exception:
            # A wrapper that has none around it yet has nobody to tell. Whoever committed is not to blame, and nobody
            # may go on with what is out of date.
            log.warning("%r did not take an invalidation: it forgets everything", wrapper, exc_info=True)
            try:
                wrapper.invalidateCache()
            except Exception:
                log.exception("%r can't forget either", wrapper)


def _hand_on(wrapper: Any, tid: bytes, oids: list[bytes]) -> None:
    """Tell wrapper, or past it whoever is around it: HexStorage hands on a version, which MVCCAdapter does not take.

    Not by invalidateCache: that tells MVCCAdapter no tid, and a connection that polls at this moment forgets everything
    at the tid before, and hears no more of this one.
    """
    while True:
        try:
            wrapper.invalidate(tid, oids)
        except TypeError:
            around = getattr(wrapper, "__dict__", {}).get("db")
            if around is None:
                raise
            wrapper = around
        else:
            return
