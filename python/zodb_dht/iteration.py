"""Transactions and their records in order of tid (IStorageIteration), current records in order of oid."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import zope.interface
from ZODB.BaseStorage import DataRecord, TransactionRecord
from ZODB.interfaces import IStorageRecordInformation, IStorageTransactionInformation

from .native import Header, Node
from .peer import p64, u64

TRANSACTIONS_AT_ONCE = 200
RECORDS_AT_ONCE = 2000
BYTES_AT_ONCE = 16 << 20
"""Records are read ahead, in the order of the rows rather than one by one: up to so many, or of so much data."""
CURRENT_AT_ONCE = 100

Data = bytes | bool | None


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

    def __init__(self, window: Window, index: int) -> None:
        super().__init__(*window.headers[index][:5])
        self._window = window
        self._index = index

    def __iter__(self) -> Iterator[Record]:
        tid = self.tid
        repeats = Repeats(self._window.node, self._window.headers[self._index][-1], tid)
        for oid, data in self._window.records(self._index):
            if not isinstance(data, bool):  # else packed away since the iteration began
                yield Record(oid, tid, data, repeats)


class Window:
    """Consecutive transactions, and the records of some that were read ahead. One thread at a time, as an iterator."""

    def __init__(self, node: Node, headers: list[Header]) -> None:
        self.node = node
        self.headers = headers
        self._ahead: dict[int, list[Data]] = {}  # by index; whole transactions

    def records(self, index: int) -> Iterator[tuple[bytes, Data]]:
        """(oid, data) of a transaction's records."""
        oids = self.headers[index][-1]
        found = self._ahead.pop(index, None)
        if found is None:
            found = self._read(index)
        yield from zip(oids, found, strict=False)
        while len(found) < len(oids):  # a large transaction
            oids = oids[len(found) :]
            keys = _keys(self.headers[index][0], oids[:RECORDS_AT_ONCE])
            found = self.node.load_revisions(keys, BYTES_AT_ONCE)
            yield from zip(oids, found, strict=False)

    def _read(self, index: int) -> list[Data]:
        """Records of the transaction, the first ones if it is large, else also those of the ones behind it."""
        self._ahead.clear()
        keys, count, last = [], 0, index
        for header in self.headers[index:]:
            oids = header[-1][: RECORDS_AT_ONCE - count]
            keys.append(_keys(header[0], oids))
            count += len(oids)
            if count == RECORDS_AT_ONCE:
                break
            last += 1
        found = self.node.load_revisions(b"".join(keys), BYTES_AT_ONCE) if count else []
        own = len(self.headers[index][-1])
        start = own
        for behind in range(index + 1, min(last + 1, len(self.headers))):
            stop = start + len(self.headers[behind][-1])
            if stop > len(found):
                break
            self._ahead[behind] = found[start:stop]
            start = stop
        return found[:own]


def _keys(tid: bytes, oids: list[bytes]) -> bytes:
    return b"".join([oid + tid for oid in oids])


def transactions(node: Node, start: bytes | None, stop: bytes | None) -> Iterator[Transaction]:
    """Those with start <= tid <= stop that are committed now; what is committed later is not seen."""
    last = node.last_tid()
    return _transactions(node, start or p64(0), last if stop is None else min(stop, last))


def _transactions(node: Node, start: bytes, stop: bytes) -> Iterator[Transaction]:
    while start <= stop:
        headers = node.transactions(start, stop, TRANSACTIONS_AT_ONCE)
        window = Window(node, headers)
        for index in range(len(headers)):
            yield Transaction(window, index)
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
