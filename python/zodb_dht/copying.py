"""Copying all transactions of another storage, several in flight at once."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from typing import Any

from ZODB.blob import is_blob_record
from ZODB.utils import oid_repr, readable_tid_repr

from .conversion import Progress, Report, blob_file, missing_file
from .errors import DHTError, Unreadable, Usage
from .filestorage import Complaints
from .peer import Peer
from .restoring import check_rises
from .tpc import metadata

log = logging.getLogger(__name__)


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
    waiting: _Copy | None = None  # the core reads its blobs while the next one's are fetched
    copying: _Copy | None = None
    complaints = Complaints()
    last = peer.node.last_tid()
    try:
        with complaints:
            for tid, transaction in transactions:
                complaints.check(f"before transaction 0x{tid.hex()}")
                check_rises(tid, last)
                copying = _Copy(last, tid, transaction, peer, complaints)
                last = tid
                copying.stage(source, report)
                ready, waiting = waiting, None
                if ready is not None:
                    ready.restore(report, progress)
                waiting, copying = copying, None
            ready, waiting = waiting, None
            if ready is not None:
                ready.restore(report, progress)
            complaints.check(f"after transaction 0x{report.last.hex()}")
    except BaseException as e:
        try:
            if copying is not None:
                copying.abort()
            if waiting is not None:  # it was read whole, before what failed
                waiting.restore(report, progress)
            peer.node.drain()  # so that the error finds a storage at rest
        except Exception:
            log.debug("drain after a failed copy", exc_info=True)
        if isinstance(e, Unreadable) and complaints.heard:  # where in its file
            raise Unreadable(f"{e}: {complaints.heard[0]}", tid=e.tid) from e
        raise
    peer.node.drain()


class _Copy:
    """One transaction on its way to the core, which queues it."""

    def __init__(self, last: bytes, tid: bytes, transaction: Any, peer: Peer, complaints: Complaints) -> None:
        """last: the tid before it. Unreadable."""
        self._tid = tid
        self._peer = peer
        self._id = os.urandom(16)
        self._transaction = transaction
        self._where = f"transaction 0x{tid.hex()}"
        self._writes: dict[bytes, bytes | None] = {}
        own, count = transaction.tid, 1
        try:
            for record in transaction:
                # One below is that of a transaction whose tid was mended by a copy, after a clock had been set back.
                if record.tid != own and record.tid > last:
                    raise Unreadable(
                        f"transaction 0x{own.hex()}, record {count}, oid {oid_repr(record.oid)}: the record says that"
                        f" it is of transaction 0x{record.tid.hex()}: the source is damaged",
                        tid=own,
                    )
                self._writes[record.oid] = record.data
                count += 1
        except DHTError:
            raise
        except Exception as e:
            raise Unreadable(f"{self._where}, record {count}: {e or type(e).__name__}", tid=tid) from e
        complaints.check(f"{self._where}, record {count}")
        self._staged = False
        self._blobs = 0

    def stage(self, source: Any, report: Report) -> None:
        """Hand the files of the transaction's blobs over."""
        for oid, data in self._writes.items():
            if data is None or not is_blob_record(data):
                continue
            filename = blob_file(source, oid, self._transaction.tid)
            if filename is None:
                missing_file(oid, self._transaction.tid, report)
                continue
            self._staged = True
            self._peer.node.stage_blob(self._id, oid, os.path.abspath(filename), True)
            self._blobs += 1

    def restore(self, report: Report, progress: Progress | None) -> None:
        """Queue it. An error takes the files back, too."""
        transaction, writes = self._transaction, self._writes
        try:
            self._peer.node.restore(
                self._id, self._tid, transaction.status, *metadata(transaction), list(writes.items())
            )
        except BaseException as e:
            self.abort()
            if isinstance(e, Usage):  # no oid or tid
                raise Unreadable(f"{self._where}: {e}", tid=self._tid) from e
            raise
        self._staged = False
        if writes:
            self._peer.used_oid(max(writes))
        report.transactions += 1
        report.records += len(writes)
        report.blobs += self._blobs
        report.size += sum(len(data) for data in writes.values() if data is not None)
        report.last = self._tid
        if progress is not None:
            progress("copy", self._tid)

    def abort(self) -> None:
        """Take the files back if it never got as far as the log."""
        if self._staged:
            self._peer.node.abort(self._id)
