"""Copying all transactions of another storage, several in flight at once."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable
from typing import Any

from ZODB.blob import is_blob_record
from ZODB.utils import oid_repr, readable_tid_repr

from .conversion import Complaints, Progress, Report
from .errors import DHTError, POSKeyError, Unreadable, Unsupported, Usage
from .peer import Peer
from .tpc import metadata

log = logging.getLogger(__name__)

LoadBlob = Callable[[bytes, bytes], str]


def print_transaction(what: str, tid: bytes) -> None:
    """The progress of a verbose copyTransactionsFrom."""
    print(what, readable_tid_repr(tid))


def copy_transactions(
    source: Any,
    transactions: Iterable[tuple[bytes, Any]],
    peer: Peer,
    report: Report,
    progress: Progress | None = None,
) -> None:
    """Restore each transaction of source with the tid beside it. All are durable on return.

    They are queued in the core, in bounded memory, so that there is one fsync for many. Files of blobs are linked, or
    copied where that can't be, so that the source's stay as they are. After an error those before it are there, each
    whole.
    """
    load_blob: LoadBlob | None = getattr(source, "loadBlob", None)
    waiting: _Copy | None = None  # the core reads its blobs while the next one's are fetched
    copying: _Copy | None = None
    try:
        with Complaints() as complaints:
            for tid, transaction in transactions:
                complaints.check(f"before transaction 0x{tid.hex()}")
                copying = _Copy(tid, transaction, peer, complaints)
                copying.stage(load_blob)
                if waiting is not None:
                    whole, waiting = waiting, None
                    whole.restore(report, progress)
                waiting, copying = copying, None
            if waiting is not None:
                waiting.restore(report, progress)
            complaints.check(f"after transaction 0x{report.last.hex()}")
    except BaseException as e:
        try:
            if waiting is not None and isinstance(e, Unreadable):  # it came before what can't be read
                whole, waiting = waiting, None
                whole.restore(report, progress)
            for copy in (waiting, copying):
                if copy is not None:
                    copy.abort()
            peer.node.drain()  # so that the error finds a storage at rest
        except Exception:
            log.debug("drain after a failed copy", exc_info=True)
        raise
    peer.node.drain()


class _Copy:
    """One transaction on its way to the core, which queues it."""

    def __init__(self, tid: bytes, transaction: Any, peer: Peer, complaints: Complaints) -> None:
        self._tid = tid
        self._peer = peer
        self._id = os.urandom(16)
        self._transaction = transaction
        self._where = f"transaction 0x{tid.hex()}"
        try:
            self._writes: dict[bytes, bytes | None] = {record.oid: record.data for record in transaction}
        except DHTError:
            raise
        except Exception as e:
            raise Unreadable(f"{self._where}: {e or type(e).__name__}", tid=tid) from e
        complaints.check(self._where)
        self._staged = False

    def stage(self, load_blob: LoadBlob | None) -> None:
        """Hand the files of the transaction's blobs over."""
        for oid, data in self._writes.items():
            if data is None or not is_blob_record(data):
                continue
            if load_blob is None:
                raise Unsupported(f"oid {oid_repr(oid)} is a blob, and the source is no blob storage")
            try:
                filename = load_blob(oid, self._transaction.tid)
            except POSKeyError:  # a blob that was created and never written to, or a file that was lost
                log.warning("the source has no file for the blob %s at %s", oid_repr(oid), self._transaction.tid.hex())
                continue
            self._staged = True
            self._peer.node.stage_blob(self._id, oid, os.path.abspath(filename), True)

    def restore(self, report: Report, progress: Progress | None) -> None:
        transaction, writes = self._transaction, self._writes
        try:
            self._peer.node.restore(
                self._id, self._tid, transaction.status, *metadata(transaction), list(writes.items())
            )
        except Usage as e:  # no oid or tid
            raise Unreadable(f"{self._where}: {e}", tid=self._tid) from e
        self._staged = False
        if writes:
            self._peer.used_oid(max(writes))
        report.transactions += 1
        report.records += len(writes)
        report.size += sum(len(data) for data in writes.values() if data is not None)
        report.last = self._tid
        if progress is not None:
            progress("copy", self._tid)

    def abort(self) -> None:
        """Take the files back if it never got as far as the log."""
        if self._staged:
            self._peer.node.abort(self._id)
