"""Copying all transactions of another storage, several in flight at once."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import Any

from persistent.timestamp import TimeStamp
from ZODB.blob import is_blob_record
from ZODB.utils import oid_repr, readable_tid_repr, z64

from .errors import POSKeyError, Unsupported
from .peer import Peer
from .tpc import metadata

log = logging.getLogger(__name__)


def copy_transactions(source: Any, peer: Peer, verbose: bool = False) -> int:
    """Restore each transaction of source.iterator() with its tid; returns how many. All are durable on return.

    Files of blobs are linked, or copied where that can't be, so that the source's stay as they are. After an error
    those before it are there, each whole.
    """
    count = 0
    last: bytes = z64
    waiting: _Copy | None = None  # the core reads its blobs while the next one's are fetched
    copying: _Copy | None = None
    try:
        for transaction in source.iterator():
            copying = _Copy(transaction, last, peer)
            last = copying.tid
            copying.stage(source)
            if waiting is not None:
                waiting.restore(verbose)
            waiting, copying = copying, None
            count += 1
        if waiting is not None:
            waiting.restore(verbose)
    except BaseException:
        try:
            for copy in (waiting, copying):
                if copy is not None:
                    copy.abort()
            peer.node.drain()  # so that the error finds a storage at rest
        except Exception:
            log.debug("drain after a failed copy", exc_info=True)
        raise
    peer.node.drain()
    return count


class _Copy:
    """One transaction on its way to the core, which queues it."""

    def __init__(self, transaction: Any, last: bytes, peer: Peer) -> None:
        self._peer = peer
        self._id = os.urandom(16)
        self._transaction = transaction
        self._writes: dict[bytes, bytes | None] = {record.oid: record.data for record in transaction}
        self._staged = False
        self.tid: bytes = transaction.tid
        if self.tid <= last:
            # A clock was set back while the source was written; ZODB.BaseStorage.copy mends it the same way.
            self.tid = TimeStamp(last).laterThan(TimeStamp(last)).raw()
            log.warning("the source's tid %s does not rise: copied as %s", transaction.tid.hex(), self.tid.hex())

    def stage(self, source: Any) -> None:
        """Hand the files of the transaction's blobs over."""
        for oid, data in self._writes.items():
            if data is None or not is_blob_record(data):
                continue
            load: Callable[[bytes, bytes], str] | None = getattr(source, "loadBlob", None)
            if load is None:
                raise Unsupported(f"oid {oid_repr(oid)} is a blob, and the source is no blob storage")
            try:
                filename = load(oid, self._transaction.tid)
            except POSKeyError:  # a blob that was created and never written to, or a file that was lost
                log.warning("the source has no file for the blob %s at %s", oid_repr(oid), self._transaction.tid.hex())
                continue
            self._staged = True
            self._peer.node.stage_blob(self._id, oid, os.path.abspath(filename), True)

    def restore(self, verbose: bool) -> None:
        transaction, writes = self._transaction, self._writes
        self._peer.node.restore(self._id, self.tid, transaction.status, *metadata(transaction), list(writes.items()))
        self._staged = False
        if writes:
            self._peer.used_oid(max(writes))
        if verbose:
            print(readable_tid_repr(self.tid), len(writes), "objects")

    def abort(self) -> None:
        """Take the files back if it never got as far as the log."""
        if self._staged:
            self._peer.node.abort(self._id)
