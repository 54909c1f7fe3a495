"""Copying a database between storages so that it can be repeated: what is there already is compared, not copied again.

A first copy can be made while the old site runs; the next one brings what was committed since. Tids, metadata and
records stay as they are; memory is bounded by the largest transaction.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from persistent.timestamp import TimeStamp
from ZODB.blob import is_blob_record
from ZODB.interfaces import IBlobStorageRestoreable, IStorageIteration, IStorageRestoreable
from ZODB.POSException import Unsupported
from ZODB.utils import maxtid, oid_repr, z64

from . import filestorage
from .errors import DHTError, Mismatch, NotAPrefix, OptionError, POSKeyError, Unreadable

log = logging.getLogger(__name__)

Progress = Callable[[str, bytes], object]
"""Called for each transaction with what is done to it ("compare", "copy", "verify") and its tid."""


@dataclasses.dataclass
class Report:
    """What a copy, or a verification, went through."""

    already_there: int = 0  # transactions
    transactions: int = 0
    records: int = 0
    size: int = 0  # bytes of all records
    blobs: int = 0  # files
    without_file: int = 0  # revisions of blobs that the source has no file for
    last: bytes = z64


def rising(transactions: Iterable[Any]) -> Iterator[tuple[bytes, Any]]:
    """Each transaction with the tid that its copy gets: its own, unless a clock was set back in between. Unreadable."""
    last, iterator = z64, iter(transactions)
    while True:
        try:
            transaction = next(iterator)
        except StopIteration:
            return
        except DHTError:
            raise
        except Exception as e:
            text = f"after transaction 0x{last.hex()} the source can't be read: {e or type(e).__name__}"
            raise Unreadable(text, tid=last) from e
        tid: bytes = transaction.tid
        if tid <= last:  # as ZODB.BaseStorage.copy mends it
            tid = TimeStamp(last).laterThan(TimeStamp(last)).raw()
            log.warning("the source's tid 0x%s does not rise: copied as 0x%s", transaction.tid.hex(), tid.hex())
        last = tid
        yield tid, transaction


def missing(source: Any, destination: Any, report: Report, progress: Progress) -> Iterator[tuple[bytes, Any]]:
    """What source has after destination's last transaction. NotAPrefix unless destination is a beginning of source.

    All tids up to there are compared, and the last transaction with its records.
    """
    last, end = destination.lastTransaction(), source.lastTransaction()
    copies = closing(destination.iterator()) if last != z64 else iter(())
    tid, begun = z64, False
    for tid, original in rising(closing(source.iterator())):
        if tid > last:
            if not begun:
                _at_end(copies)
                begun = True
            yield tid, original
            continue
        copy = next(copies, None)
        if copy is None or copy.tid != tid:
            raise NotAPrefix(
                f"the source has transaction 0x{tid.hex()} where the destination has"
                f" {'nothing' if copy is None else '0x' + copy.tid.hex()}: it is no copy of this source, or one of both"
                " was packed",
                tid=tid,
            )
        if tid == last:  # now: a FileStorage's records can't be read any more once its iterator has ended
            try:
                _compare(tid, source, original, destination, copy)
            except Mismatch as e:
                raise NotAPrefix(f"the last transaction of both differs: {e}", tid=last) from None
        report.already_there += 1
        progress("compare", tid)
    if not begun:
        _at_end(copies)
    if tid < end and not filestorage.uncommitted(source, end):
        raise Unreadable(f"the source ends at 0x{tid.hex()}, before its last transaction 0x{end.hex()}", tid=tid)


def _at_end(copies: Iterator[Any]) -> None:
    more = next(copies, None)
    if more is not None:
        raise NotAPrefix(
            f"the destination has transaction 0x{more.tid.hex()}, which the source has not: it was written to by"
            " something else, or the source was packed or put back",
            tid=more.tid,
        )


def closing(iterator: Any) -> Iterator[Any]:
    """Iterate, and close what holds a file open or an iterator on a server."""
    try:
        # Not "yield from", which crashes CPython on the iterator of RelStorage 4.3.
        for transaction in iterator:  # noqa: UP028
            yield transaction
    finally:
        close = getattr(iterator, "close", None)
        if close is not None:
            close()


def check_source(source: Any) -> None:
    """OptionError unless it can be iterated."""
    if not IStorageIteration.providedBy(source):
        raise OptionError(f"{source.getName()}: its transactions can't be iterated")


def check_destination(destination: Any) -> None:
    """OptionError unless it keeps the tids of what it is given."""
    if not IStorageRestoreable.providedBy(destination) or not IStorageIteration.providedBy(destination):
        raise OptionError(f"{destination.getName()}: it can't take transactions with the tids that they have")


def restore(
    source: Any, transactions: Iterable[tuple[bytes, Any]], destination: Any, report: Report, progress: Progress
) -> None:
    """Commit each transaction to any IStorageRestoreable, one by one, as ZODB's own copy does.

    Without the hint prev_txn, for which a FileStorage goes through the older transaction from its beginning, for each
    record: behind a rebuild of a catalog, of a million records, each that repeats one of them takes most of a second.
    """
    for tid, transaction in transactions:
        destination.tpc_begin(transaction, tid, transaction.status)
        try:
            for record in transaction:
                filename = None
                if is_blob_record(record.data):
                    filename = _copy_of_blob(source, destination, record, report)
                if filename is None:
                    destination.restore(record.oid, tid, record.data, "", None, transaction)
                else:
                    destination.restoreBlob(record.oid, tid, record.data, filename, None, transaction)
                report.records += 1
                report.size += len(record.data or b"")
            destination.tpc_vote(transaction)
            destination.tpc_finish(transaction)
        except BaseException:
            destination.tpc_abort(transaction)
            raise
        report.transactions += 1
        report.last = tid
        progress("copy", tid)


def blob_file(storage: Any, oid: bytes, tid: bytes, *, whole: bool = False) -> str | None:
    """The file of a blob's revision; None if it was lost, or never there. OptionError: storage keeps no blobs.

    whole: a storage that knows a hash of the file reads it to its end first; Corrupt.
    """
    load_blob = getattr(storage, "loadBlob", None)
    if whole:
        load_blob = getattr(storage, "verify_blob", load_blob)
    try:
        if load_blob is not None:
            return str(load_blob(oid, tid))
    except POSKeyError:
        return None
    except (TypeError, Unsupported):  # of a FileStorage, a ClientStorage that was opened without a directory
        log.debug("loadBlob of %s", oid_repr(oid), exc_info=True)
    raise OptionError(
        f"oid {oid_repr(oid)} is a blob, and {_name(storage)} was opened without a directory of blobs"
        " (--blob-dir of a Data.fs, blob-dir in a ZConfig file)"
    )


def _name(storage: Any) -> str:
    get_name = getattr(storage, "getName", None)
    return "the source" if get_name is None else str(get_name())


def _copy_of_blob(source: Any, destination: Any, record: Any, report: Report) -> str | None:
    """A copy of the file of a blob's record, on destination's disk and its to take; None if there is none."""
    original = blob_file(source, record.oid, record.tid)
    if original is None:
        missing_file(record.oid, record.tid, report)
        return None
    if not IBlobStorageRestoreable.providedBy(destination):
        blob_file(destination, record.oid, record.tid)  # says what it lacks
        raise OptionError(f"oid {oid_repr(record.oid)} is a blob: {destination.getName()} can't take it with its tid")
    handle, name = tempfile.mkstemp(dir=destination.temporaryDirectory())
    copy = str(name)
    try:
        with open(handle, "wb") as to, open(original, "rb") as of:
            shutil.copyfileobj(of, to, 1 << 20)
            to.flush()
            os.fsync(to.fileno())  # a FileStorage syncs its transaction, not the file: a loss of power would empty it
    except BaseException:
        os.remove(copy)
        raise
    report.blobs += 1
    return copy


def missing_file(oid: bytes, tid: bytes, report: Report) -> None:
    """A blob's revision is copied without a file: said at the end, since it may be a wrong directory."""
    report.without_file += 1
    log.warning("the source has no file for the blob %s at 0x%s", oid_repr(oid), tid.hex())


def verify(source: Any, destination: Any, progress: Progress, copied_after: bytes = maxtid) -> tuple[Report, str]:
    """Compare destination's transactions, their metadata and all bytes of records and blobs, with source's; Mismatch.

    A peer's blobs are compared with their CIDs, too: Corrupt. The status of what was just now copied is compared, of
    transactions after copied_after: earlier ones may be marked as packed in one of both since.

    Returns what was compared and a sha-256 over it: equal for equal histories, whatever storages hold them. What source
    has committed since the copy is not looked at.
    """
    report, digest = Report(), hashlib.sha256()
    last = destination.lastTransaction()
    originals = rising(closing(source.iterator()))
    for copy in closing(destination.iterator(None, last)):
        tid, original = next(originals, (None, None))
        if original is None or tid != copy.tid:
            found = "ends" if tid is None else f"has 0x{tid.hex()}"
            raise Mismatch(f"the destination has transaction 0x{copy.tid.hex()} where the source {found}", tid=copy.tid)
        if copy.tid > copied_after and original.status != copy.status:
            what = f"status {copy.status!r} instead of {original.status!r}"
            raise Mismatch(f"transaction 0x{copy.tid.hex()}: the destination has {what}", tid=copy.tid)
        for oid, data, content in _compare(copy.tid, source, original, destination, copy):
            digest.update(copy.tid + oid + (b"-" if data is None else hashlib.sha256(data).digest()) + content)
            report.blobs += len(content) > 0
            report.records += 1
            report.size += len(data or b"")
        report.transactions += 1
        report.last = copy.tid
        progress("verify", copy.tid)
    following, _ = next(originals, (None, None))
    if following is not None and following <= last:
        raise Mismatch(f"the destination lacks transaction 0x{following.hex()}", tid=following)
    return report, digest.hexdigest()


def _compare(
    tid: bytes, source: Any, original: Any, destination: Any, copy: Any
) -> list[tuple[bytes, bytes | None, bytes]]:
    """(oid, data, hash of its blob's file or b"") of all records, equal in both, in order of the oids; Mismatch."""
    for name in ("user", "description"):
        if _bytes(getattr(original, name)) != _bytes(getattr(copy, name)):
            raise Mismatch(f"transaction 0x{tid.hex()}: another {name}", tid=tid)
    # Bytes first: an extension may hold what can't be unpickled here. A server sends the mapping, pickled anew.
    if getattr(original, "extension_bytes", None) != getattr(copy, "extension_bytes", b"") and dict(
        original.extension
    ) != dict(copy.extension):
        raise Mismatch(f"transaction 0x{tid.hex()}: another extension", tid=tid)
    # An oid that was written twice has its last data.
    want: dict[bytes, bytes | None] = {record.oid: record.data for record in original}
    have: dict[bytes, bytes | None] = {record.oid: record.data for record in copy}
    for oid in want.keys() | have.keys():
        if oid not in have or oid not in want:
            where = "the source" if oid in have else "the destination"
            raise Mismatch(f"transaction 0x{tid.hex()}: {where} lacks oid {oid_repr(oid)}", oid=oid, tid=tid)
        if want[oid] != have[oid]:
            raise Mismatch(f"transaction 0x{tid.hex()}: oid {oid_repr(oid)} has other data", oid=oid, tid=tid)
    found = []
    for oid, data in sorted(have.items()):
        content = b""
        if data is not None and is_blob_record(data):
            content = hash_of(blob_file(destination, oid, tid, whole=True))
            if content != hash_of(blob_file(source, oid, original.tid, whole=True)):
                raise Mismatch(
                    f"transaction 0x{tid.hex()}: the blob {oid_repr(oid)} has another file", oid=oid, tid=tid
                )
        found.append((oid, data, content))
    return found


def hash_of(filename: str | None) -> bytes:
    if filename is None:
        return b""
    found = hashlib.sha256()
    with open(filename, "rb") as f:
        while some := f.read(1 << 20):
            found.update(some)
    return found.digest()


def _bytes(text: bytes | str) -> bytes:
    return text.encode() if isinstance(text, str) else text
