"""Copying all transactions of another storage, several in flight at once."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from typing import Any

from ZODB.blob import is_blob_record
from ZODB.utils import oid_repr, readable_tid_repr

from .conversion import Complaints, Progress, Report
from .errors import DHTError, Unreadable, Unsupported, Usage
from .peer import Peer
from .tpc import metadata

log = logging.getLogger(__name__)


def print_transaction(what: str, tid: bytes) -> None:
    """The progress of a verbose copyTransactionsFrom."""
    print(what, readable_tid_repr(tid))


def copy_transactions(
    transactions: Iterable[tuple[bytes, Any]], peer: Peer, report: Report, progress: Progress | None = None
) -> None:
    """Restore each transaction with the tid beside it. All are durable on return.

    They are queued in the core, in bounded memory, so that there is one fsync for many. After an error those before it
    are there, each whole.
    """
    try:
        with Complaints() as complaints:
            for tid, transaction in transactions:
                complaints.check(f"before transaction 0x{tid.hex()}")
                _copy(tid, transaction, peer, report, complaints)
                if progress is not None:
                    progress("copy", tid)
            complaints.check(f"after transaction 0x{report.last.hex()}")
    except BaseException:
        try:
            peer.node.drain()  # so that the error finds a storage at rest
        except Exception:
            log.debug("drain after a failed copy", exc_info=True)
        raise
    peer.node.drain()


def _copy(tid: bytes, transaction: Any, peer: Peer, report: Report, complaints: Complaints) -> None:
    """Hand one transaction to the core, which queues it. Unreadable: it was not."""
    where = f"transaction 0x{tid.hex()}"
    try:
        writes: dict[bytes, bytes | None] = {record.oid: record.data for record in transaction}
    except DHTError:
        raise
    except Exception as e:
        raise Unreadable(f"{where}: {e or type(e).__name__}", tid=tid) from e
    complaints.check(where)
    for oid, data in writes.items():
        if data is not None:
            report.size += len(data)
            if is_blob_record(data):
                raise Unsupported(f"oid {oid_repr(oid)} is a blob; this version of zodb_dht has no blobs")
    try:
        peer.node.restore(os.urandom(16), tid, transaction.status, *metadata(transaction), list(writes.items()))
    except Usage as e:  # no oid or tid
        raise Unreadable(f"{where}: {e}", tid=tid) from e
    if writes:
        peer.used_oid(max(writes))
    report.transactions += 1
    report.records += len(writes)
    report.last = tid
