"""Two-phase commit: a transaction in progress is an object of its phase, with the methods that are legal in it.

    Begun --vote--> Voted --finish--> (gone)
      any failure of vote or finish --> Failed; abort is legal in each

Nothing is locked by tpc_begin: transactions of several threads overlap, found by the transaction object. The core
reserves what a transaction writes at its vote, and the log's Apply decides.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import partial
from threading import get_ident
from typing import Any

from ZODB.blob import is_blob_record
from ZODB.ConflictResolution import tryToResolveConflict
from ZODB.Connection import TransactionMetaData
from ZODB.POSException import UndoError
from ZODB.utils import maxtid, z64

from . import undo
from .errors import ConflictError, POSKeyError, ReadConflictError, TooLarge, WrongPhase
from .native import Conflict
from .peer import Peer, p64, u64
from .undo import Transform

Write = tuple[bytes, bytes, "bytes | None"]


Callback = Callable[[bytes], object]


Resolver = Callable[[bytes, bytes, bytes, bytes, bytes], bytes]
"""(oid, committed serial, base, data, committed data) -> the data to store; ConflictError."""


class Phase:
    """A transaction in a phase; what a subclass does not override is not legal in it."""

    name = ""

    def __init__(self, peer: Peer, transaction: Any, txn_id: bytes) -> None:
        self.peer = peer
        self.transaction = transaction  # also keeps its id() from being given to another
        self.txn_id = txn_id

    def _illegal(self, what: str) -> WrongPhase:
        return WrongPhase(f"{what}: the transaction is {self.name}")

    def store(self, oid: bytes, serial: bytes, data: bytes) -> None:
        raise self._illegal("store")

    def restore(self, oid: bytes, data: bytes | None) -> None:
        raise self._illegal("restore")

    def stage_blob(self, oid: bytes, filename: str) -> None:
        raise self._illegal("storeBlob")

    def delete(self, oid: bytes, serial: bytes) -> None:
        raise self._illegal("deleteObject")

    def undo(self, transaction_id: bytes, transform: Transform, untransform: Transform) -> list[bytes]:
        raise self._illegal("undo")

    def check(self, oid: bytes, serial: bytes) -> None:
        raise self._illegal("checkCurrentSerialInTransaction")

    def vote(self, transform: Transform, untransform: Transform) -> tuple[Phase, list[bytes]]:
        raise self._illegal("tpc_vote")

    def finish(self, func: Callback | None) -> bytes:
        raise self._illegal("tpc_finish")

    def abort(self) -> None:
        """Forget the transaction; legal in every phase."""
        self.peer.node.abort(self.txn_id)


class Begun(Phase):
    """It collects what shall be written and what was read."""

    name = "not voted yet"

    def __init__(self, peer: Peer, transaction: Any, snapshot: bytes = z64) -> None:
        super().__init__(peer, transaction, os.urandom(16))
        self.snapshot = snapshot
        # By oid: (oid, base, data), None for a deletion.
        self.writes: dict[bytes, Write] = {}
        self.reads: dict[bytes, bytes] = {}  # serial by oid
        self.forced: set[bytes] = set()  # restored, so written over whatever is current
        self.blobs = False  # the core has staged a file for it
        self.asked = False  # the core may have reserved something for it
        self.resolve: Resolver | None = None  # in place of ZODB's own conflict resolution
        # By oid: the write that undos were computed on, None for what is committed; and the tids undone, in order.
        self.undos: dict[bytes, tuple[Write | None, list[bytes]]] = {}
        self.undone: list[bytes] = []  # what undo was called with

    def store(self, oid: bytes, serial: bytes, data: bytes) -> None:
        if serial == z64:
            self.peer.used_oid(oid)
        self._write(oid, serial, data)

    def _write(self, oid: bytes, serial: bytes, data: bytes | None) -> None:
        self.forced.discard(oid)
        self.undos.pop(oid, None)
        self.writes[oid] = (oid, serial, data)

    def restore(self, oid: bytes, data: bytes | None) -> None:
        self.peer.used_oid(oid)
        self._write(oid, z64, data)
        self.forced.add(oid)

    def stage_blob(self, oid: bytes, filename: str) -> None:
        """The file is what the store before brought."""
        self.blobs = True
        self.peer.node.stage_blob(self._staged_as(), oid, filename, False)

    def _staged_as(self) -> bytes:
        """The id by which the core finds the staged files."""
        return self.txn_id

    def delete(self, oid: bytes, serial: bytes) -> None:
        self._write(oid, serial, None)

    def undo(self, transaction_id: bytes, transform: Transform, untransform: Transform) -> list[bytes]:
        node = self.peer.node
        tid, oids = undo.find(node, transaction_id)
        writes: dict[bytes, Write] = {}
        failures: list[tuple[bytes, UndoError]] = []
        for some in undo.chunks(oids):
            for oid, states, found in zip(
                some, undo.states(node, some, tid), node.load_many(some, maxtid), strict=True
            ):
                data, serial = found or (None, z64)
                if pending := self.writes.get(oid):
                    _, serial, data = pending
                try:
                    writes[oid] = (oid, serial, undo.undone(oid, tid, states, data, serial, transform, untransform))
                except UndoError as e:
                    failures.append((oid, e))
        undo.refuse(failures)  # all or nothing: the transaction is as it was
        self.undone.append(transaction_id)
        for oid, write in writes.items():
            self.undos.setdefault(oid, (self.writes.get(oid), []))[1].append(tid)
            self.writes[oid] = write
            self._undo_blob(oid, tid, write[2], untransform)
        return oids

    def _undo_blob(self, oid: bytes, tid: bytes, data: bytes | None, untransform: Transform) -> None:
        """A blob takes the file of the revision before tid, too, as in FileStorage."""
        if data is None or not is_blob_record(untransform(data)):
            return
        (before,) = self.peer.node.load_many([oid], p64(u64(tid) - 1))
        if before is None:
            return
        try:
            filename = self.peer.node.blob_file(oid, before[1], True)  # wrong bytes must not get a CID that fits them
        except POSKeyError:  # it was never written to
            return
        self.blobs = True
        self.peer.node.stage_blob(self._staged_as(), oid, filename, True)

    def check(self, oid: bytes, serial: bytes) -> None:
        self.reads[oid] = serial

    def abort(self) -> None:
        if self.asked:  # else the core has not heard of it, but for its blobs
            super().abort()
        if self.blobs:
            self.peer.node.abort(self._staged_as())

    def vote(self, transform: Transform, untransform: Transform) -> tuple[Phase, list[bytes]]:
        return Voted(self), self._reserve(transform, untransform)

    def _reserve(self, transform: Transform, untransform: Transform) -> list[bytes]:
        """Let the core reserve everything; returns the oids whose conflicts were resolved."""
        conflicts = self._ask()
        if not conflicts:
            return []
        resolved = []
        failures: list[tuple[bytes, UndoError]] = []
        for conflict in conflicts:
            oid, committed = conflict[0], conflict[2]
            try:
                data = self._merged(conflict, transform, untransform)
            except UndoError as e:
                failures.append((oid, e))
                continue
            if data is not self.writes[oid][2]:
                resolved.append(oid)
            self.writes[oid] = (oid, committed, data)
        undo.refuse(failures)
        # The conflicting objects are reserved, too: a second disagreement means that the reservations were lost.
        for oid, base, committed, _, _ in self._ask():
            raise ConflictError(oid=oid, serials=(committed, base), data=self.writes[oid][2])
        return resolved

    def _unknown(self, oid: bytes) -> bool:
        """No revision of the object was ever here, not even a deletion."""
        try:
            return not self.peer.node.history(oid, 1)
        except POSKeyError:
            return True

    def _merged(self, conflict: Conflict, transform: Transform, untransform: Transform) -> bytes | None:
        """What to write in place of a write whose object was changed meanwhile; ConflictError, UndoError."""
        oid, base, committed, committed_data, base_data = conflict
        stored, tids = self.undos.get(oid, (self.writes[oid], []))
        if stored is None:
            data = committed_data if committed != z64 else None
        elif oid in self.forced or (committed == z64 and self.peer.overlay and self._unknown(oid)):
            data = stored[2]  # the latter is of a DemoStorage's base: as FileStorage, take it as it is
        else:
            data = _resolve(
                oid, base, committed, stored[2], committed_data, base_data, transform, untransform, self.resolve
            )
        for tid in tids:  # undone again, on what is current now and reserved
            (states,) = undo.states(self.peer.node, [oid], tid)
            data = undo.undone(oid, tid, states, data, committed, transform, untransform)
        return data

    def _seen(self) -> bytes:
        """The oldest state that its writes may refer to; an undo's is the one before what it undoes.

        UndoError if that was packed. Where a pack comes later, Apply refuses the transaction by what it declares here.
        """
        before = [p64(u64(undo.find(self.peer.node, name)[0]) - 1) for name in self.undone]
        if self.snapshot != z64:
            return min([*before, self.snapshot])
        if before and self.writes.keys() <= self.undos.keys():
            return min(before)
        return self.snapshot  # what else it writes was made of a state that nobody knows

    def _ask(self) -> list[Conflict]:
        self.asked = True  # first: a signal's handler may raise behind the answer
        try:
            return self.peer.node.vote(
                self.txn_id,
                self._seen(),
                # ZODB's clock: an application's tests may have set it. Before 1970 it is no use: tids rise without it.
                max(0, int(time.time() * 1e9)),
                *within_limits(metadata(self.transaction)),
                list(self.writes.values()),
                list(self.reads.items()),
            )
        except ReadConflictError as e:
            if e.oid in self.reads and e.serials is None:
                e.serials = (z64, self.reads[e.oid])
            raise


class Voted(Phase):
    """The core has everything and promised that it can be committed."""

    name = "voted"

    def __init__(self, begun: Begun) -> None:
        super().__init__(begun.peer, begun.transaction, begun.txn_id)

    def finish(self, func: Callback | None) -> bytes:
        peer, node = self.peer, self.peer.node
        # One that a callback commits is seen after what that is told of: to wait for it would be to wait for ourselves.
        nested = peer.announcer == get_ident()
        if func is None and not nested:
            return node.finish(self.txn_id, False)
        # What is committed here is published whatever comes, else nobody would see what is committed later. A signal's
        # handler may raise between any two calls: within extend() there is no place for it.
        held: list[bytes] = []
        with peer.head:
            try:
                held.extend(map(node.finish, (self.txn_id,), (True,)))
                if not nested:
                    peer.announced, peer.announcer = held[0], get_ident()
                if func is not None:
                    func(held[0])
            finally:
                for tid in held:
                    node.publish(tid)
                if not nested:
                    peer.announced, peer.announcer = None, 0
        return held[0]


class Failed(Phase):
    """Its vote or finish raised; what is left is to abort it."""

    name = "failed, abort it"

    def __init__(self, before: Phase) -> None:
        super().__init__(before.peer, before.transaction, before.txn_id)
        self._before = before

    def abort(self) -> None:
        self._before.abort()


def _resolve(
    oid: bytes,
    base: bytes,
    committed: bytes,
    data: bytes | None,
    committed_data: bytes,
    base_data: bytes | None,
    transform: Transform,
    untransform: Transform,
    resolve: Resolver | None,
) -> bytes:
    """The data to store in place of `data`; ConflictError."""
    if data is None:
        raise ConflictError(oid=oid, serials=(committed, base))
    if base == z64 or committed == z64 or base_data is None:
        # Created twice, or gone, or its base was packed: without three states there is nothing to resolve, and
        # tryToResolveConflict would log a traceback for it.
        error = ConflictError(oid=oid, serials=(committed, base), data=untransform(data))
        error.data = data
        raise error
    if resolve is None:
        resolve = partial(tryToResolveConflict, undo.Base(base_data, transform, untransform))
    try:
        return resolve(oid, committed, base, data, committed_data)
    except ConflictError as e:
        e.data = data  # for a ZEO server that leaves conflicts to its clients
        raise


MAX_METADATA = 65535
"""Bytes of each: what a Data.fs has room for. A longer one could not be exported, and FileStorage refuses it, too."""


def within_limits(fields: tuple[bytes, bytes, bytes]) -> tuple[bytes, bytes, bytes]:
    """The same fields; TooLarge names one that is too long."""
    for name, field in zip(("user", "description", "extension"), fields, strict=True):
        if len(field) > MAX_METADATA:
            raise TooLarge(f"the transaction's {name} has {len(field)} bytes; the limit is {MAX_METADATA}")
    return fields


def metadata(transaction: Any) -> tuple[bytes, bytes, bytes]:
    """(user, description, extension pickle) of an IStorageTransactionMetaData."""
    user, description = transaction.user, transaction.description
    if isinstance(user, str):
        user = user.encode()
    if isinstance(description, str):
        description = description.encode()
    extension = getattr(transaction, "extension_bytes", None)
    if extension is None:  # records of MappingStorage know the mapping only
        extension = TransactionMetaData(extension=dict(transaction.extension)).extension_bytes
    return user, description, extension
