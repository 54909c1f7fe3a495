"""Transactions and their records in the order of their tids: IStorageIteration."""

from __future__ import annotations

from collections.abc import Iterator

import zope.interface
from ZODB.BaseStorage import DataRecord, TransactionRecord
from ZODB.interfaces import IStorageRecordInformation, IStorageTransactionInformation

from . import packing
from .native import Node
from .peer import p64, u64

TRANSACTIONS_AT_ONCE = 200
RECORDS_AT_ONCE = 1000


@zope.interface.implementer(IStorageRecordInformation)
class Record(DataRecord):  # type: ignore[misc]
    """One revision of one object; data is None for a deletion."""


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
            found_all = self._node.load_many(oids, self.tid)
            packed = packing.horizon(self._node) if None in found_all else self.tid
            # This transaction wrote each of them, so what is newest at its tid is its own revision, or a deletion.
            for oid, found in zip(oids, found_all, strict=True):
                if found is None and self.tid <= packed:
                    continue  # a pack took it since the transaction was read: no deletion is left of what is packed
                yield Record(oid, self.tid, found[0] if found else None, None)


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
