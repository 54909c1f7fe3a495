"""Transactions and their records in order of tid (IStorageIteration), current records in order of oid."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import zope.interface
from ZODB.BaseStorage import DataRecord, TransactionRecord
from ZODB.interfaces import IStorageRecordInformation, IStorageTransactionInformation

from .native import Node
from .peer import p64, u64

TRANSACTIONS_AT_ONCE = 200
RECORDS_AT_ONCE = 1000
CURRENT_AT_ONCE = 100


class Repeats:
    """Which older revisions the records of one transaction repeat, asked for all of them once one is asked for."""

    def __init__(self, node: Node, oids: list[bytes], tid: bytes) -> None:
        self._node = node
        self._oids = oids
        self._tid = tid

    @cached_property
    def tids(self) -> dict[bytes, bytes | None]:
        return dict(zip(self._oids, self._node.repeats(self._oids, self._tid), strict=True))


@zope.interface.implementer(IStorageRecordInformation)
class Record(DataRecord):  # type: ignore[misc]
    """One revision of one object; data is None for a deletion."""

    def __init__(self, oid: bytes, tid: bytes, data: bytes | None, repeats: Repeats) -> None:
        self.oid = oid
        self.tid = tid
        self.data = data
        self._repeats = repeats

    @cached_property
    def data_txn(self) -> bytes | None:
        """The older revision whose data an undo copied. Few readers ask, and only they pay for it."""
        return self._repeats.tids[self.oid]


@zope.interface.implementer(IStorageTransactionInformation)
class Transaction(TransactionRecord):  # type: ignore[misc]
    """A committed transaction. Its records are read while they are iterated, as often as wanted."""

    def __init__(
        self,
        node: Node,
        tid: bytes,
        status: str,
        user: bytes,
        description: bytes,
        extension: bytes,
        oids: list[bytes],
    ) -> None:
        super().__init__(tid, status, user, description, extension)
        self._node = node
        self._oids = oids

    def __iter__(self) -> Iterator[Record]:
        for start in range(0, len(self._oids), RECORDS_AT_ONCE):
            oids = self._oids[start : start + RECORDS_AT_ONCE]
            repeats = Repeats(self._node, oids, self.tid)
            # This transaction wrote each of them, so what is newest at its tid is its own revision, or a deletion.
            for oid, found in zip(oids, self._node.load_many(oids, self.tid), strict=True):
                yield Record(oid, self.tid, found[0] if found else None, repeats)


def transactions(node: Node, start: bytes | None, stop: bytes | None) -> Iterator[Transaction]:
    """Those with start <= tid <= stop that are committed now; what is committed later is not seen."""
    last = node.last_tid()
    return _transactions(node, start or p64(0), last if stop is None else min(stop, last))


def _transactions(node: Node, start: bytes, stop: bytes) -> Iterator[Transaction]:
    while start <= stop:
        headers = node.transactions(start, stop, TRANSACTIONS_AT_ONCE)
        for header in headers:
            yield Transaction(node, *header)
        if len(headers) < TRANSACTIONS_AT_ONCE:
            return
        start = p64(u64(headers[-1][0]) + 1)


class Cursor(bytes):
    """The oid that record_iternext goes on at, with what was read ahead from there; one that lost it reads anew."""

    ahead: list[tuple[bytes, bytes, bytes]]  # in reverse order


def record_iternext(node: Node, start: bytes | None) -> tuple[bytes, bytes, bytes, bytes | None]:
    """The first current record from start on, and where the one behind it is; ValueError."""
    ahead = start.ahead if isinstance(start, Cursor) else None
    if not ahead:
        ahead = _current(node, p64(0) if start is None else start)
    if not ahead:
        raise ValueError("there is no object with this oid or a larger one")
    oid, tid, data = ahead[-1]
    rest = ahead[:-1]
    if not rest and oid != b"\xff" * 8:
        rest = _current(node, p64(u64(oid) + 1))
    if not rest:
        return oid, tid, data, None
    following = Cursor(rest[-1][0])
    following.ahead = rest
    return oid, tid, data, following


def _current(node: Node, start: bytes) -> list[tuple[bytes, bytes, bytes]]:
    records = node.current(start, CURRENT_AT_ONCE)
    records.reverse()
    return records
