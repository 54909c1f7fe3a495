"""Copying all transactions of another storage, several in flight at once."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from typing import Any

from ZODB.blob import is_blob_record
from ZODB.utils import oid_repr, readable_tid_repr

from .conversion import Progress, Report
from .errors import Unsupported
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
    restore = peer.node.restore
    try:
        for tid, transaction in transactions:
            writes: dict[bytes, bytes | None] = {record.oid: record.data for record in transaction}
            for oid, data in writes.items():
                if data is not None:
                    report.size += len(data)
                    if is_blob_record(data):
                        raise Unsupported(f"oid {oid_repr(oid)} is a blob; this version of zodb_dht has no blobs")
            restore(os.urandom(16), tid, transaction.status, *metadata(transaction), list(writes.items()))
            if writes:
                peer.used_oid(max(writes))
            report.transactions += 1
            report.records += len(writes)
            report.last = tid
            if progress is not None:
                progress("copy", tid)
    except BaseException:
        try:
            peer.node.drain()  # so that the error finds a storage at rest
        except Exception:
            log.debug("drain after a failed copy", exc_info=True)
        raise
    peer.node.drain()
