"""Copies from and to a storage that keeps current records only, as RelStorage does without history.

Such a storage is no beginning of anything: its older transactions lose records, and vanish, as objects are written
again. So its transactions are looked for among those of the peer, which keeps all that it was given.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

from ZODB.blob import is_blob_record
from ZODB.utils import oid_repr, z64

from .conversion import Progress, Report, blob_file, closing, hash_of, rising
from .errors import Mismatch, NotAPrefix, POSKeyError
from .peer import p64, u64


def keeps_history(storage: Any) -> bool:
    """RelStorage says so; ZODB has no word for it."""
    return bool(getattr(storage, "keep_history", True))


def missing(source: Any, destination: Any, report: Report, progress: Progress) -> Iterator[tuple[bytes, Any]]:
    """What source has after destination's last transaction; one of both is free of history.

    NotAPrefix unless all that this one has up to there is in the other one, too.
    """
    last = destination.lastTransaction()
    begun = last == z64
    for tid, original, copy in _side_by_side(source, destination, last):
        if copy is None and tid > last:
            if not begun and not report.already_there:
                raise NotAPrefix(
                    f"the source has no transaction up to 0x{last.hex()}, the destination's last", tid=last
                )
            begun = True
            yield tid, original
            continue
        if original is None and keeps_history(source):
            raise NotAPrefix(f"the destination has transaction 0x{tid.hex()}, which the source has not", tid=tid)
        if copy is None and keeps_history(destination):
            raise NotAPrefix(f"the source has transaction 0x{tid.hex()}, which the destination has not", tid=tid)
        if original is not None and copy is not None:
            report.already_there += 1
            progress("compare", tid)
    if not begun and not report.already_there:
        raise NotAPrefix("no transaction of the destination is in the source", tid=last)


def verify(source: Any, destination: Any, progress: Progress) -> tuple[Report, str]:
    """Compare the records and blobs that are current in the peer with those of the other; Mismatch, Corrupt.

    Returns what was compared and a sha-256 over it. Metadata is not looked at: the other keeps none.
    """
    report, digest = Report(), hashlib.sha256()
    last = destination.lastTransaction()
    peer, other = (source, destination) if keeps_history(source) else (destination, source)
    for tid, original, copy in _side_by_side(source, destination, last):
        if tid > last:
            break
        whole, current = (original, copy) if peer is source else (copy, original)
        records = {record.oid: record.data for record in whole or ()}
        kept = {record.oid: record.data for record in current or ()}
        for oid in sorted(records.keys() | kept.keys()):
            expected = _current(peer, oid, last) == tid
            where = f"transaction 0x{tid.hex()}: oid {oid_repr(oid)}"
            if (oid in kept) != expected:
                what = "is missing, but current" if expected else "is there, but not current in the peer"
                raise Mismatch(f"{where} {what}", oid=oid, tid=tid)
            if not expected:
                continue
            data = records.get(oid)
            if data is None or data != kept[oid]:
                raise Mismatch(f"{where} has other data", oid=oid, tid=tid)
            content = b""
            if is_blob_record(data):
                content = hash_of(blob_file(peer, oid, tid, whole=True))
                if content != hash_of(blob_file(other, oid, tid, whole=True)):
                    raise Mismatch(f"{where} is a blob with another file", oid=oid, tid=tid)
            digest.update(tid + oid + hashlib.sha256(data).digest() + content)
            report.records += 1
            report.size += len(data)
            report.blobs += len(content) > 0
        report.transactions += bool(kept)
        report.last = tid
        progress("verify", tid)
    return report, digest.hexdigest()


def _side_by_side(source: Any, destination: Any, last: bytes) -> Iterator[tuple[bytes, Any, Any]]:
    """(tid, the source's transaction or None, the destination's or None) in order of tid; after last the source's."""
    copies = closing(destination.iterator(None, last)) if last != z64 else iter(())
    copy = next(copies, None)
    for tid, original in rising(closing(source.iterator())):
        while copy is not None and copy.tid < tid:
            yield copy.tid, None, copy
            copy = next(copies, None)
        if copy is not None and copy.tid == tid:
            yield tid, original, copy
            copy = next(copies, None)
        else:
            yield tid, original, None
    while copy is not None:
        yield copy.tid, None, copy
        copy = next(copies, None)


def _current(peer: Any, oid: bytes, last: bytes) -> bytes | None:
    """The tid of the object's revision at last."""
    try:
        found = peer.loadBefore(oid, p64(u64(last) + 1))
    except POSKeyError:
        return None
    return found[1] if found is not None else None
