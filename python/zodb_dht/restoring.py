"""Transactions that keep the tid they have elsewhere: copies."""

from __future__ import annotations

import os
from typing import Any

from ZODB.utils import readable_tid_repr

from .errors import Regressed
from .peer import Peer
from .tpc import Begun, Callback, Phase, Voted, metadata
from .undo import Transform


def check_rises(tid: bytes, last: bytes) -> None:
    """Regressed unless a transaction with this tid may follow the last one."""
    if tid <= last:
        mine, theirs = readable_tid_repr(tid), readable_tid_repr(last)
        raise Regressed(f"tid {mine} does not rise above the last transaction's, {theirs}", tid=tid)


class Restoring(Begun):
    """A transaction that keeps the tid it has elsewhere: what it restores is not compared with what is current."""

    def __init__(self, peer: Peer, transaction: Any, tid: bytes, status: str) -> None:
        super().__init__(peer, transaction)
        self.tid = tid
        self.status = status
        self.copies: list[tuple[bytes, bytes | None]] = []
        # Names the copy; txn_id names the reservation of what is stored beside it, which is given back.
        self.copy_id = os.urandom(16)

    def _staged_as(self) -> bytes:
        return self.copy_id

    def restore(self, oid: bytes, data: bytes | None) -> None:
        self.peer.used_oid(oid)
        self.copies.append((oid, data))

    def vote(self, transform: Transform, untransform: Transform) -> tuple[Phase, list[bytes]]:
        check_rises(self.tid, self.peer.node.last_tid())
        resolved: list[bytes] = []
        if self.writes or self.reads:  # stored with a tid given: reserved like any other, until they are copied
            resolved = self._reserve(transform, untransform)
        return RestoreVoted(self), resolved


class RestoreVoted(Voted):
    """A copy of a transaction that is ready to be written."""

    def __init__(self, begun: Restoring) -> None:
        super().__init__(begun)
        self.tid = begun.tid
        self.status = begun.status
        self.copy_id = begun.copy_id
        self.blobs = begun.blobs
        self.copies = begun.copies + [(oid, data) for oid, _, data in begun.writes.values()]
        self.reserved = bool(begun.writes or begun.reads)

    def finish(self, func: Callback | None) -> bytes:
        node = self.peer.node
        with self.peer.head:
            node.restore(self.copy_id, self.tid, self.status, *metadata(self.transaction), self.copies)
            node.drain()
            if func is not None:
                func(self.tid)
        self.abort()
        return self.tid

    def abort(self) -> None:
        if self.reserved:
            super().abort()
        if self.blobs:
            self.peer.node.abort(self.copy_id)
