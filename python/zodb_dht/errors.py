"""What can go wrong, each kind a class of its own, and the table that gives each code of the native core its class.

A caller may act on the class: `transaction` repeats what is a TransientError and nothing else, so that a class whose
outcome is unknown (InDoubt) never is one. All of them pickle: they cross process borders in ZEO and multiprocessing.
"""

from __future__ import annotations

import os
from typing import Any

from transaction.interfaces import TransientError
from ZODB.POSException import (
    ConflictError,
    POSKeyError,
    ReadConflictError,
    ReadOnlyError,
    StorageError,
    StorageTransactionError,
    TransactionTooLargeError,
    Unsupported,
)

__all__ = [
    "CODES",
    "BlobChanged",
    "Broken",
    "Busy",
    "Closed",
    "ConflictError",
    "Corrupt",
    "DHTError",
    "Failed",
    "InDoubt",
    "InUse",
    "Mismatch",
    "NewerFormat",
    "NotAPeerDirectory",
    "NotAPrefix",
    "OptionError",
    "POSKeyError",
    "Packing",
    "PermissionDenied",
    "ReadConflictError",
    "ReadOnlyError",
    "Regressed",
    "StorageTransactionError",
    "TooLarge",
    "TooOld",
    "Unavailable",
    "Unreadable",
    "Unsupported",
    "Usage",
    "VoteLost",
    "WrongPhase",
    "WrongProcess",
    "WrongType",
    "make_error",
]


class DHTError(StorageError):  # type: ignore[misc]
    """Base of the errors that ZODB has no class for. `details` is what the core said besides the message."""

    def __init__(self, message: str, **details: Any) -> None:
        super().__init__(message)
        self.message = message  # a ZEO server sends an error's attributes, if it has any, in place of its arguments
        self.details = details

    @property
    def oid(self) -> bytes | None:
        """The object concerned, if it is one."""
        return self.details.get("oid")

    @property
    def tid(self) -> bytes | None:
        """The transaction or revision concerned, if it is one."""
        return self.details.get("tid")


class Unavailable(DHTError, TransientError):  # type: ignore[misc]
    """No majority, or no holder of the bytes, answered in time. Nothing was written; a repetition may succeed."""


class Busy(Unavailable):
    """Another transaction held an object longer than `vote-wait`. Nothing was written; repeat."""


class VoteLost(DHTError, TransientError):  # type: ignore[misc]
    """The reservations of a voted transaction ended before its finish. It is definitely not committed; repeat."""


class TooOld(VoteLost):
    """The transaction was voted so long ago that its outcome is no longer told apart; it was refused. Repeat."""


class InDoubt(DHTError):
    """The outcome of a commit is unknown: it may or may not be in the log. Never repeat blindly: look `txn` up."""

    @property
    def txn(self) -> bytes | None:
        """The transaction's id, for DHTStorage.outcome()."""
        return self.details.get("txn")


class Corrupt(DHTError):
    """Bytes on disk are not those that were written; other records stay readable."""

    @property
    def cid(self) -> str | None:
        """The content address that the record's or blob's bytes should have; None where that is lost, too."""
        cid = self.details.get("cid")
        return cid.decode() if cid else None

    @property
    def tid(self) -> bytes | None:
        """The revision; None where that is lost, too."""
        tid = self.details.get("tid")
        return tid if tid and any(tid) else None

    @property
    def file(self) -> str | None:
        """The file, where the damage can't be given to one record."""
        file = self.details.get("file")
        return os.fsdecode(file) if file else None


class Broken(DHTError):
    """The peer met an error it must not go on after (a failed write, a panic). Close it, look at the cause, reopen."""


class Closed(DHTError):
    """The storage was closed."""


class WrongProcess(DHTError):
    """A storage was opened before this process was forked off, so it can use and open none. Fork earlier, or spawn."""


class InUse(DHTError):
    """The peer directory is open already: in another process, or in this one."""

    @property
    def pid(self) -> int | None:
        """The process that has it; None or 0 if it did not say."""
        return self.details.get("pid")


class NewerFormat(DHTError):
    """A newer program wrote the peer directory; nothing in it was touched."""


class Failed(DHTError):
    """An operation failed for a reason that has no class here; the text has it. The peer goes on."""


class Packing(DHTError):
    """Another pack of this database is under way."""


class NotAPeerDirectory(DHTError):
    """The path is a file, a directory of something else, or nothing, with `create` off or `read_only` on."""


class PermissionDenied(DHTError):
    """The operating system refused access to the peer directory, or to a file of the peer or of a blob."""


class Usage(DHTError, ValueError):
    """A value that can't be meant."""


class OptionError(Usage):
    """A misspelt option, or one out of its range; the text names it."""


class WrongType(Usage, TypeError):
    """A value of the wrong type, such as record data that is not bytes."""


class BlobChanged(Usage):
    """A blob's file was written to after storeBlob, which it belongs to the storage from. Nothing was committed."""


class TooLarge(DHTError, TransactionTooLargeError):  # type: ignore[misc]
    """An object or a transaction over the limit."""


class WrongPhase(StorageTransactionError):  # type: ignore[misc]
    """A call that is not legal in the transaction's phase, such as store after tpc_vote. It changed nothing."""


class Regressed(DHTError):
    """A restored transaction's tid does not rise above the last one."""


class NotAPrefix(DHTError):
    """The destination of a copy has a history that is no beginning of the source's. Nothing was written."""


class Unreadable(DHTError):
    """The source of a copy is damaged, or can't be read; what comes before that was copied. The text says where."""


class Mismatch(DHTError):
    """A copy differs from its source; the text says where."""


CODES: dict[str, Any] = {
    "not_found": POSKeyError,
    # The object exists, but not at the reader's snapshot: as with ZODB's own adapter a repetition helps.
    "no_revision": ReadConflictError,
    # Below the position that the database was packed to, at a snapshot that is older.
    "packed": ReadConflictError,
    "behind": ReadConflictError,
    "packing": Packing,
    "conflict": ConflictError,
    "read_conflict": ReadConflictError,
    "unavailable": Unavailable,
    "busy": Busy,
    "vote_lost": VoteLost,
    "in_doubt": InDoubt,
    "corrupt": Corrupt,
    "broken": Broken,
    "closed": Closed,
    "wrong_process": WrongProcess,
    "read_only": ReadOnlyError,
    "in_use": InUse,
    "newer_format": NewerFormat,
    "not_a_directory": NotAPeerDirectory,
    "no_peer": NotAPeerDirectory,
    "permission": PermissionDenied,
    "usage": Usage,
    "too_large": TooLarge,
    "too_old": TooOld,
    "blob_changed": BlobChanged,
    "regressed": Regressed,
    "interrupted": Unavailable,
    "failed": Failed,
}


def make_error(code: str, message: str, details: dict[str, Any]) -> Exception:
    """The exception for an error of the core; the core calls this and raises what it returns."""
    cls = CODES.get(code, Broken)
    error: Any
    if issubclass(cls, POSKeyError):
        error = cls(details.get("oid") or message)
    elif issubclass(cls, ConflictError):
        serials = (details["committed"], details["serial"]) if {"committed", "serial"} <= details.keys() else None
        error = cls(message, oid=details.get("oid"), serials=serials)
        error.data = None  # ZEO asks each for it, ZODB gives it to none
    elif issubclass(cls, DHTError):
        error = cls(message if code in CODES else f"{code}: {message}", **details)
    else:
        error = cls(message)
    made: Exception = error
    return made
