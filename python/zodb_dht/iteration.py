"""Transactions and their records in order of tid (IStorageIteration), current records in order of oid.

Transactions are read in pieces of consecutive ones, the records of one piece in the order of the rows. While a piece is
used the next one is read by a thread of the iterator's own, which ends with the iterator.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property

import zope.interface
from ZODB.BaseStorage import DataRecord, TransactionRecord
from ZODB.interfaces import IStorageRecordInformation, IStorageTransactionInformation

from .native import Header, Node
from .peer import here, p64, u64

TRANSACTIONS_AT_ONCE = 200
RECORDS_AT_ONCE = 2000
BYTES_AT_ONCE = 16 << 20
"""A piece has so many transactions or records at most, but one transaction; what exceeds the bytes is read later."""
CURRENT_AT_ONCE = 100

Data = bytes | bool | None


def _of_undo(data: list[Data], older: list[bytes | None]) -> bool:
    """Each record repeats an older revision or is a deletion."""
    return all(
        repeated is not None or record.__class__ is not bytes for record, repeated in zip(data, older, strict=True)
    )


class Repeats:
    """Which older revisions the records of an undo repeat, asked for all of them once one is asked for.

    Whoever asks once will ask for each: what follows is read with the next piece.
    """

    def __init__(self, pieces: Pieces, oids: list[bytes], tid: bytes) -> None:
        self._pieces = pieces
        self._oids = oids
        self._tid = tid

    @cached_property
    def tids(self) -> dict[bytes, bytes | None]:
        self._pieces.repeats = True
        tids: dict[bytes, bytes | None] = {}
        while len(tids) < len(self._oids):
            some = self._oids[len(tids) :][:RECORDS_AT_ONCE]
            data, older = self._pieces.node.load_revisions(_keys(self._tid, some), BYTES_AT_ONCE, True)
            if not _of_undo(data, older):
                return dict.fromkeys(self._oids)
            tids.update(zip(some, older, strict=False))
        return tids


@zope.interface.implementer(IStorageRecordInformation)
class Record(DataRecord):  # type: ignore[misc]
    """One revision of one object; data is None for a deletion.

    data_txn is the older revision whose data an undo copied: where each record of the transaction repeats one, or is a
    deletion. Others do, too, by chance (a document made and deleted leaves a catalog's buckets as they were), and a
    FileStorage that is told searches for it through all transactions behind it.
    """


class LateRecord(Record):
    """Its data_txn is looked for once it is asked for."""

    def __init__(self, oid: bytes, tid: bytes, data: Data, repeats: Repeats) -> None:
        self.oid = oid
        self.tid = tid
        self.data = data
        self._repeats = repeats

    @cached_property
    def data_txn(self) -> bytes | None:
        """Few readers ask, and only they pay for it."""
        return self._repeats.tids[self.oid]


@zope.interface.implementer(IStorageTransactionInformation)
class Transaction(TransactionRecord):  # type: ignore[misc]
    """A committed transaction. Its records are read while they are iterated, as often as wanted."""

    def __init__(self, piece: Piece, index: int) -> None:
        super().__init__(*piece.headers[index][:5])
        self._piece = piece
        self._index = index

    def __iter__(self) -> Iterator[Record]:
        tid = self.tid
        records, found = self._piece.records(self._index), self._piece.repeats(self._index)
        # What is a bool was packed away since the iteration began.
        if found is None:
            repeats = Repeats(self._piece.pieces, self._piece.headers[self._index][-1], tid)
            for oid, data in records:
                if data.__class__ is not bool:
                    yield LateRecord(oid, tid, data, repeats)
        else:
            for (oid, data), older in zip(records, found, strict=True):
                if data.__class__ is not bool:
                    yield Record(oid, tid, data, older)


class Piece:
    """Consecutive transactions, and such of their records as were read and not used yet. One thread at a time."""

    def __init__(self, pieces: Pieces, headers: list[Header]) -> None:
        self.pieces = pieces
        self.node = pieces.node
        self.headers = headers
        self._found: dict[int, list[Data]] = {}  # by index
        self._repeats: dict[int, list[bytes | None]] = {}  # by index, those that were found with the piece

    def read(self, index: int = 0) -> None:
        """Read records of the transaction and of those behind it."""
        headers = self.headers[index:]
        keys = b"".join([_keys(header[0], header[-1][:RECORDS_AT_ONCE]) for header in headers])
        self._found, self._repeats = {}, {}
        if not keys:
            self._found = {behind: [] for behind in range(index, len(self.headers))}
            return
        data, older = self.node.load_revisions(keys, BYTES_AT_ONCE, self.pieces.repeats)
        start = 0
        for behind, header in enumerate(headers, index):
            end = start + len(header[-1])
            if end > len(data) and behind > index:
                break
            self._found[behind] = data[start:end]
            if end <= len(older):
                undo = _of_undo(data[start:end], older[start:end])
                self._repeats[behind] = older[start:end] if undo else [None] * (end - start)
            start = end

    def repeats(self, index: int) -> list[bytes | None] | None:
        """What the records of a transaction repeat, if it was read with them and not asked for yet."""
        return self._repeats.pop(index, None)

    def records(self, index: int) -> Iterator[tuple[bytes, Data]]:
        """(oid, data) of a transaction's records."""
        if index not in self._found:
            self.read(index)
        self.pieces.read_ahead(self)
        tid, *_, oids = self.headers[index]
        found = self._found.pop(index)
        yield from zip(oids, found, strict=False)
        while len(found) < len(oids):  # a large transaction
            oids = oids[len(found) :]
            found, _ = self.node.load_revisions(_keys(tid, oids[:RECORDS_AT_ONCE]), BYTES_AT_ONCE, False)
            yield from zip(oids, found, strict=False)


class Pieces:
    """All pieces of an iteration, in order. next() and read_ahead() are its iterator's to call, from one thread."""

    def __init__(self, node: Node, start: bytes, stop: bytes) -> None:
        self.node = node
        self._pid = os.getpid()
        self.repeats = False  # somebody asks what records repeat
        self._start = start
        self._stop = stop
        self._headers: list[Header] = []  # read, and not in a piece yet
        self._more = True
        self._last: Piece | None = None
        self._ahead: Future[Piece] | None = None
        self._alone = False  # there is no thread to read ahead
        self._thread: ThreadPoolExecutor | None = None  # made by the first read_ahead, whose tasks do not overlap

    def next(self) -> Piece:
        """The next piece; it has no transactions at the end."""
        here(self.node, self._pid)
        ahead, self._ahead = self._ahead, None
        self._last = self._take() if ahead is None else ahead.result()
        return self._last

    def read_ahead(self, piece: Piece) -> None:
        """Begin to read the piece after the newest, whose records are in use."""
        if piece is not self._last or self._ahead is not None or self._alone:
            return
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "zodb_dht iterator")
        try:
            self._ahead = self._thread.submit(self._take_and_read)
        except RuntimeError:  # no thread starts any more: the interpreter ends, or the process has all that it may
            self._alone = True  # for good, since a task may be queued that must not run

    def close(self) -> None:
        """End the thread. Transactions that were handed out can be iterated still."""
        self._last = None
        if self._thread is not None:
            self._thread.shutdown()

    def _take_and_read(self) -> Piece:
        piece = self._take()
        piece.read()
        return piece

    def _take(self) -> Piece:
        if not self._headers and self._more and self._start <= self._stop:
            self._headers = self.node.transactions(self._start, self._stop, TRANSACTIONS_AT_ONCE)
            self._more = len(self._headers) == TRANSACTIONS_AT_ONCE
            if self._more:
                self._start = p64(u64(self._headers[-1][0]) + 1)
        count = records = 0
        for header in self._headers:
            records += len(header[-1])
            if count and records > RECORDS_AT_ONCE:
                break
            count += 1
        piece, self._headers = Piece(self, self._headers[:count]), self._headers[count:]
        return piece


def _keys(tid: bytes, oids: list[bytes]) -> bytes:
    return b"".join([oid + tid for oid in oids])


def transactions(node: Node, start: bytes | None, stop: bytes | None) -> Iterator[Transaction]:
    """Those with start <= tid <= stop that are committed now; what is committed later is not seen."""
    last = node.last_tid()
    return _transactions(Pieces(node, start or p64(0), last if stop is None else min(stop, last)))


def _transactions(pieces: Pieces) -> Iterator[Transaction]:
    try:
        while (piece := pieces.next()).headers:
            for index in range(len(piece.headers)):
                yield Transaction(piece, index)
    finally:
        pieces.close()


class Walk:
    """What record_iternext read ahead for the newest walk over a storage. Any thread; who lost it reads anew.

    A walk is known by the bytes object that it was told to go on at, not by equal ones, which may come much later. A
    subclass of bytes could carry what was read, but no ZEO server can send it.
    """

    def __init__(self) -> None:
        # (where it goes on, what was read from there in reverse order); replaced in one step.
        self._ahead: tuple[bytes, list[tuple[bytes, bytes, bytes]]] | None = None

    def next(self, node: Node, start: bytes | None) -> tuple[bytes, bytes, bytes, bytes | None]:
        """The first current record from start on, and where the one behind it is; ValueError."""
        kept = self._ahead
        if kept is not None and start is kept[0]:
            ahead, at_once = kept[1], CURRENT_AT_ONCE
        else:
            at_once = 2  # this one, and where the next one is
            ahead = _current(node, p64(0) if start is None else start, at_once)
        if not ahead:
            raise ValueError("there is no object with this oid or a larger one")
        oid, tid, data = ahead[-1]
        rest = ahead[:-1]
        if not rest and oid != b"\xff" * 8:
            rest = _current(node, p64(u64(oid) + 1), at_once)
        if not rest:
            self._ahead = None
            return oid, tid, data, None
        following = rest[-1][0]
        self._ahead = (following, rest)
        return oid, tid, data, following


def _current(node: Node, start: bytes, at_once: int) -> list[tuple[bytes, bytes, bytes]]:
    records = node.current(start, at_once)
    records.reverse()
    return records
