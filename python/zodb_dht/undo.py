"""Undo as FileStorage means it: what a transaction's objects become when it is taken back.

Everything here reads; the result is written by the transaction that undoes, and its vote checks it like any write.
"""

from __future__ import annotations

import binascii
from base64 import decodebytes, encodebytes
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from persistent.timestamp import TimeStamp
from ZODB._compat import loads
from ZODB.ConflictResolution import tryToResolveConflict
from ZODB.POSException import ConflictError, MultipleUndoErrors, UndoError
from ZODB.utils import z64

from .native import Header, Node, Revision
from .peer import p64, u64

TRANSACTIONS_AT_ONCE = 200
RECORDS_AT_ONCE = 1000

Filter = Callable[[dict[str, Any]], object]
Transform = Callable[[bytes], bytes]


class Base:
    """What tryToResolveConflict asks of a storage: the state that both sides started from, a wrapper's transforms."""

    def __init__(self, data: bytes, transform: Transform, untransform: Transform) -> None:
        self._data = data
        self._crs_transform_record_data = transform
        self._crs_untransform_record_data = untransform

    def loadSerial(self, oid: bytes, serial: bytes) -> bytes:
        return self._data


def undo_id(tid: bytes) -> bytes:
    """What undoLog names a transaction by: it travels through an HTML form."""
    return encodebytes(tid).rstrip()


def log(node: Node, first: int, last: int, wanted: Filter | None) -> list[dict[str, Any]]:
    """The slice first:last of the undoable transactions that are wanted, newest first."""
    if last < 0:
        last = first - last
    found: list[dict[str, Any]] = []
    if last <= 0:
        return found
    at = 0
    for header in _newest_first(node, min(last, TRANSACTIONS_AT_ONCE)):
        tid, status, user, description, extension, _ = header
        if status == "p":
            break  # packed: this one and all before it
        if status != " ":
            continue
        entry: dict[str, Any] = {
            "id": undo_id(tid),
            "time": TimeStamp(tid).timeTime(),
            "user_name": user,
            "description": description,
        }
        entry.update(_extension(extension))
        if wanted is not None and not wanted(entry):
            continue
        if at >= first:
            found.append(entry)
        at += 1
        if at >= last:
            break
    return found


def matching(specification: dict[str, Any] | None) -> Filter | None:
    """undoInfo's filter: descriptions that have everything in specification."""
    if not specification:
        return None
    items = list(specification.items())
    return lambda entry: all(entry.get(key) == value for key, value in items)


def _extension(pickle: bytes) -> dict[str, Any]:
    if not pickle:
        return {}
    try:
        return dict(loads(pickle))
    except Exception:  # as FileStorage: a class that is gone must not hide the transactions
        return {}


def _newest_first(node: Node, at_once: int) -> Iterator[Header]:
    stop = node.last_tid()
    while stop > z64:
        headers = node.transactions_backwards(z64, stop, at_once)
        yield from headers
        if len(headers) < at_once:
            return
        stop = p64(u64(headers[-1][0]) - 1)
        at_once = TRANSACTIONS_AT_ONCE


def find(node: Node, transaction_id: bytes) -> tuple[bytes, list[bytes]]:
    """(tid, oids) of what an id of undoLog names; UndoError."""
    try:
        tid = decodebytes(transaction_id + b"\n")
    except (TypeError, binascii.Error):
        tid = b""
    headers = node.transactions(tid, tid, 1) if len(tid) == 8 else []
    if not headers:
        raise UndoError("Invalid transaction id")
    if headers[0][1] != " ":
        raise UndoError("non-undoable transaction")
    return tid, headers[0][5]


def undone(
    oid: bytes,
    tid: bytes,
    states: tuple[Revision | None, Revision | None],
    current: bytes | None,
    serial: bytes,
    transform: Transform,
    untransform: Transform,
) -> bytes | None:
    """The object's data without tid's change, None if it then does not exist; UndoError.

    states are its revisions of before tid and of tid; current is its data at serial, or what the same transaction
    writes so far.
    """
    before, done = states
    if current == (done[0] if done else None):
        return before[0] if before else None
    if current is None or done is None:
        raise UndoError("Can't undo a change to an object that was deleted or brought back", oid)
    if before is None:
        raise UndoError("Can't undo an add transaction followed by conflicting transactions.", oid)
    try:
        base = Base(done[0], transform, untransform)
        data: bytes = tryToResolveConflict(base, oid, serial, tid, before[0], current)
    except ConflictError:
        raise UndoError("Some data were modified by a later transaction", oid) from None
    return data


def states(node: Node, oids: Sequence[bytes], tid: bytes) -> Iterator[tuple[Revision | None, Revision | None]]:
    """For each of oids, which tid wrote, its revision of before tid and of tid; None where it did not exist."""
    return zip(node.load_many(oids, p64(u64(tid) - 1)), node.load_many(oids, tid), strict=True)


def chunks(oids: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    return (oids[i : i + RECORDS_AT_ONCE] for i in range(0, len(oids), RECORDS_AT_ONCE))


def refuse(failures: list[tuple[bytes, UndoError]]) -> None:
    """UndoError about every object that can't be undone, if there is one."""
    if failures:
        # Its text takes a pair in this order, its __init__ in the other one.
        errors = MultipleUndoErrors([(oid, error._reason) for oid, error in failures])
        errors._oid, errors._reason = errors._errs[0]
        raise errors
