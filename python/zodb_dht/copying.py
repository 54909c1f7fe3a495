"""Copying all transactions of another storage, several in flight at once."""

from __future__ import annotations

import logging
import os
from typing import Any

from persistent.timestamp import TimeStamp
from ZODB.blob import is_blob_record
from ZODB.utils import oid_repr, readable_tid_repr, z64

from .errors import Unsupported
from .peer import Peer
from .tpc import metadata

log = logging.getLogger(__name__)


def copy_transactions(source: Any, peer: Peer, verbose: bool = False) -> int:
    """Restore each transaction of source.iterator() with its tid; returns how many. All are durable on return.

    After an error those before it are there, each whole.
    """
    count = 0
    try:
        last = z64
        for transaction in source.iterator():
            last = _copy(transaction, last, peer, verbose)
            count += 1
    except BaseException:
        try:
            peer.node.drain()  # so that the error finds a storage at rest
        except Exception:
            log.debug("drain after a failed copy", exc_info=True)
        raise
    peer.node.drain()
    return count


def _copy(transaction: Any, last: bytes, peer: Peer, verbose: bool) -> bytes:
    """Hand one transaction to the core, which queues it; returns its tid."""
    writes: dict[bytes, bytes | None] = {record.oid: record.data for record in transaction}
    for oid, data in writes.items():
        if data is not None and is_blob_record(data):
            raise Unsupported(f"oid {oid_repr(oid)} is a blob; this version of zodb_dht has no blobs")
    tid: bytes = transaction.tid
    if tid <= last:  # a clock was set back while the source was written; ZODB.BaseStorage.copy mends it the same way
        tid = TimeStamp(last).laterThan(TimeStamp(last)).raw()
        log.warning("the source's tid %s does not rise: copied as %s", transaction.tid.hex(), tid.hex())
    peer.node.restore(os.urandom(16), tid, transaction.status, *metadata(transaction), list(writes.items()))
    if writes:
        peer.used_oid(max(writes))
    if verbose:
        print(readable_tid_repr(tid), len(writes), "objects")
    return tid
