"""The writing half of IStorage, alike for the root and its views: transactions in progress and their phases."""

from __future__ import annotations

import contextlib
from typing import Any

from ZODB.ConflictResolution import ConflictResolvingStorage
from ZODB.utils import maxtid, oid_repr, z64

from . import packing
from .config import Settings
from .errors import (
    Broken,
    Closed,
    ConflictError,
    ReadOnlyError,
    StorageTransactionError,
    TooLarge,
    Unsupported,
    Usage,
    WrongPhase,
    WrongType,
)
from .peer import Peer
from .restoring import Restoring
from .tpc import Begun, Callback, Failed, Phase


class Writer(ConflictResolvingStorage):  # type: ignore[misc]
    """Transactions in progress, by the transaction object. Each is used by one thread at a time; they overlap.

    ConflictResolvingStorage brings registerDB and the transforms that a wrapper sets by it.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._read_only = settings.read_only
        # By id(); each phase keeps its transaction alive, so that no id means two. A dict's own steps are atomic.
        self._phases: dict[int, Phase] = {}

    @property
    def _peer(self) -> Peer:
        """The open peer; Closed."""
        raise NotImplementedError

    def getTid(self, oid: bytes) -> bytes:
        """The serial of the current revision; POSKeyError."""
        raise NotImplementedError

    def _snapshot(self) -> bytes:
        """What a transaction that begins now has seen; z64 if that is not known."""
        return z64  # type: ignore[no-any-return]

    def _committed(self, tid: bytes) -> None:
        """This storage's own tpc_finish returned tid."""

    def _phase(self, transaction: Any, what: str) -> Phase:
        if self._read_only:
            raise ReadOnlyError
        phase = self._phases.get(id(transaction))
        if phase is None:
            self._peer  # noqa: B018 - Closed, with which the transactions under way ended
            raise StorageTransactionError(f"{what}: not a transaction that tpc_begin was called with")
        return phase

    def new_oid(self) -> bytes:
        if self._read_only:
            raise ReadOnlyError
        return self._peer.new_oid()

    def store(self, oid: bytes, serial: bytes | None, data: bytes, version: str, transaction: Any) -> None:
        phase = self._phase(transaction, "store")
        if version:
            raise Unsupported("versions are not supported")
        self._check_data(oid, data)
        phase.store(oid, _serial(serial), data)

    def restore(
        self,
        oid: bytes,
        serial: bytes | None,
        data: bytes | None,
        version: str,
        prev_txn: bytes | None,
        transaction: Any,
    ) -> None:
        phase = self._phase(transaction, "restore")
        if version:
            raise Unsupported("versions are not supported")
        self._check_data(oid, b"" if data is None else data)
        phase.restore(oid, data)

    def checkCurrentSerialInTransaction(self, oid: bytes, serial: bytes, transaction: Any) -> None:
        self._phase(transaction, "checkCurrentSerialInTransaction").check(_oid(oid), _serial(serial))

    def tpc_begin(self, transaction: Any, tid: bytes | None = None, status: str = " ") -> None:
        if self._read_only:
            raise ReadOnlyError
        if id(transaction) in self._phases:
            raise StorageTransactionError("tpc_begin: this transaction has begun already")
        peer = self._peer
        begun = (
            Begun(peer, transaction, self._snapshot())
            if tid is None
            else Restoring(peer, transaction, _tid(tid), _status(status))
        )
        begun.resolve = vars(self).get("tryToResolveConflict")  # a ZEO server puts its own there
        self._phases[id(transaction)] = begun

    def tpc_vote(self, transaction: Any) -> list[bytes] | None:
        phase = self._phase(transaction, "tpc_vote")
        try:
            voted, resolved = phase.vote(self._crs_transform_record_data, self._crs_untransform_record_data)
        except WrongPhase:
            raise  # the call was wrong, not the transaction
        except BaseException:
            self._phases[id(transaction)] = Failed(phase)
            raise
        self._phases[id(transaction)] = voted
        return resolved or None

    def tpc_finish(self, transaction: Any, func: Callback | None = None) -> bytes:
        phase = self._phase(transaction, "tpc_finish")
        try:
            tid = phase.finish(func)
        except WrongPhase:
            raise
        except BaseException:
            self._phases[id(transaction)] = Failed(phase)
            raise
        del self._phases[id(transaction)]
        self._committed(tid)
        return tid

    def tpc_abort(self, transaction: Any) -> None:
        phase = self._phases.get(id(transaction))
        if phase is None:
            return  # not ours: ignored, says IStorage
        with contextlib.suppress(Closed, Broken):  # then its reservations went with the peer, or are nothing any more
            phase.abort()
        self._phases.pop(id(transaction), None)  # last: an abort that a signal's handler ended can be repeated

    def tpc_transaction(self) -> Any:
        """The transaction in progress, if it is the only one."""
        phases = list(self._phases.values())
        return phases[0].transaction if len(phases) == 1 else None

    def supportsUndo(self) -> bool:
        return True

    def undo(self, transaction_id: bytes, transaction: Any) -> tuple[None, list[bytes]]:
        """Take back what a transaction of undoLog did; (None, oids), as the tid is not known before tpc_finish.

        It reads only. If an object changes before the vote, the vote computes the undo again; UndoError from either.
        """
        phase = self._phase(transaction, "undo")
        return None, phase.undo(transaction_id, self._crs_transform_record_data, self._crs_untransform_record_data)

    def deleteObject(self, oid: bytes, oldserial: bytes, transaction: Any) -> None:
        """For an external garbage collector: write a deletion. POSKeyError, ConflictError."""
        phase = self._phase(transaction, "deleteObject")
        serial = self.getTid(_oid(oid))
        if serial != _serial(oldserial):
            raise ConflictError(oid=oid, serials=(serial, oldserial))
        phase.delete(oid, serial)

    def pack(self, pack_time: float, referencesf: packing.References | None, gc: bool | None = None) -> None:
        """Delete what is superseded at pack_time (seconds since the epoch) and, unless gc is off, what no root reaches.

        Returns when it is deleted and the files have shrunk. Packing: another pack is under way.
        """
        if self._read_only:
            raise ReadOnlyError
        if gc is None:
            gc = self._settings.pack_gc
        packing.pack(self._peer.node, packing.tid_of(pack_time), referencesf if gc else None)

    def _check_data(self, oid: bytes, data: bytes) -> None:
        _oid(oid)
        if not isinstance(data, bytes):
            raise WrongType(f"store: the data of oid {oid_repr(oid)} is {type(data).__name__}, not bytes", oid=oid)
        if len(data) > self._settings.max_object_size:
            limit = self._settings.max_object_size
            text = f"store: oid {oid_repr(oid)} has {len(data)} bytes, max-object-size is {limit}"
            raise TooLarge(text, oid=oid, size=len(data), limit=limit)


def _oid(oid: bytes) -> bytes:
    if not isinstance(oid, bytes) or len(oid) != 8:
        raise Usage(f"an oid has 8 bytes: {oid!r}")
    return oid


def _serial(serial: bytes | str | None) -> bytes:
    # A text: ZODB's and ZEO's own tests send it. Bytes are not compared with it: python -bb makes that an error.
    if serial is None or (isinstance(serial, str) and serial == "\0" * 8):
        return z64  # type: ignore[no-any-return]
    if not isinstance(serial, bytes) or len(serial) != 8:
        raise Usage(f"a serial has 8 bytes: {serial!r}")
    return serial


def _tid(tid: bytes) -> bytes:
    given = _serial(tid)
    if given >= maxtid:
        raise Usage(f"a tid is below maxtid: {tid!r}")
    return given


def _status(status: str) -> str:
    if not isinstance(status, str) or len(status) != 1 or status > "\xff":
        raise Usage(f"a status has one character: {status!r}")
    return status
