"""Databases of like objects: what they are made of, and a source from which any storage imports them."""

from __future__ import annotations

import io
import random
from collections.abc import Iterator
from typing import Any, ClassVar

from persistent import Persistent
from persistent.mapping import PersistentMapping
from persistent.TimeStamp import TimeStamp
from ZODB._compat import PersistentPickler
from ZODB.utils import p64, z64

PER_TRANSACTION = 100
FIRST_OID = 1  # 0 is the root's
_BODY = 330  # random bytes: with the rest of the state a record of about 500 B that hardly compresses


class Item(Persistent):
    """An object as applications keep them by the thousand."""

    def __init__(self, number: int, body: bytes) -> None:
        self.__setstate__(item_state(number, body))


def item_state(number: int, body: bytes) -> dict[str, Any]:
    return {
        "number": number,
        "title": f"item {number:08d}",
        "creator": f"user {number % 97}",
        "modified": 1_700_000_000.5 + number,
        "subject": ("storage", f"subject {number % 31}"),
        "body": body,
    }


def record(cls: type, state: Any) -> bytes:
    """A data record as ZODB's ObjectWriter makes it: pickles of class and state."""
    out = io.BytesIO()
    pickler = PersistentPickler(lambda _obj: None, out, 3)
    pickler.dump(cls)
    pickler.dump(state)
    return out.getvalue()


def oid_of(number: int) -> bytes:
    return p64(FIRST_OID + number)


class SourceRecord:
    """One record of a transaction to copy, as IStorageIteration yields it."""

    __slots__ = ("data", "oid", "tid")
    version = ""
    data_txn = None

    def __init__(self, oid: bytes, tid: bytes, data: bytes) -> None:
        self.oid, self.tid, self.data = oid, tid, data


class SourceTransaction:
    """One transaction to copy."""

    status = " "
    user = b""
    description = b"items"
    extension: ClassVar[dict[str, Any]] = {}
    extension_bytes = b""

    def __init__(self, tid: bytes, records: list[SourceRecord]) -> None:
        self.tid, self._records = tid, records
        self._data: dict[Any, Any] = {}

    def __iter__(self) -> Iterator[SourceRecord]:
        return iter(self._records)

    # RelStorage hands the transaction itself to tpc_begin, which keeps its own data on it.
    def data(self, ob: Any) -> Any:
        return self._data[id(ob)]

    def set_data(self, ob: Any, ob_data: Any) -> None:
        self._data[id(ob)] = ob_data


class Transactions:
    """An iterator that knows its length, which RelStorage asks for."""

    def __init__(self, count: int, seed: int, per_transaction: int) -> None:
        self._count, self._per_transaction = count, per_transaction
        self._made = self._make(random.Random(seed))

    def __len__(self) -> int:
        return 1 + -(-self._count // self._per_transaction)

    def __iter__(self) -> Iterator[SourceTransaction]:
        return self._made

    def __next__(self) -> SourceTransaction:
        return next(self._made)

    def close(self) -> None:
        self._made.close()

    def _make(self, draw: random.Random) -> Any:
        tid = TimeStamp(2024, 1, 1, 0, 0, 0.0)
        yield SourceTransaction(tid.raw(), [SourceRecord(z64, tid.raw(), record(PersistentMapping, {"data": {}}))])
        for start in range(0, self._count, self._per_transaction):
            tid = tid.laterThan(tid)
            raw = tid.raw()
            numbers = range(start, min(start + self._per_transaction, self._count))
            yield SourceTransaction(
                raw,
                [SourceRecord(oid_of(n), raw, record(Item, item_state(n, draw.randbytes(_BODY)))) for n in numbers],
            )


class ItemSource:
    """A storage, as far as copyTransactionsFrom asks, that holds `count` items."""

    def __init__(self, count: int, per_transaction: int = PER_TRANSACTION, seed: int = 1) -> None:
        self._count, self._per_transaction, self._seed = count, per_transaction, seed

    def iterator(self, start: bytes | None = None, stop: bytes | None = None) -> Transactions:
        return Transactions(self._count, self._seed, self._per_transaction)

    def __len__(self) -> int:
        return self._count

    def getName(self) -> str:
        return f"{self._count} items"
