"""The reading half of IStorage that does not depend on a snapshot, alike for the root and its views."""

from __future__ import annotations

import json
from typing import Any

from persistent.timestamp import TimeStamp
from ZODB._compat import loads
from ZODB.utils import maxtid

from . import iteration, undo
from .config import Settings
from .errors import POSKeyError
from .native import RevisionAndNext
from .writer import Writer


class Reader(Writer):
    """What IStorage asks about the newest state and about history, and general information."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._walk = iteration.Walk()

    def getName(self) -> str:
        return self._settings.name or self._settings.path

    def sortKey(self) -> str:
        # "!" sorts before digits and letters, so before other resource managers: a commit that is refused at the last
        # moment, or whose outcome is unknown, then keeps them from finishing.
        return f"!zodb_dht:{self._settings.path}"

    def isReadOnly(self) -> bool:
        return self._read_only

    def _stats(self) -> dict[str, Any]:
        stats: dict[str, Any] = json.loads(self._peer.node.stats())
        return stats

    def getSize(self) -> int:
        """Bytes on disk, without the files of blobs."""
        return int(self._stats()["disk_size"])

    def __len__(self) -> int:
        return int(self._stats()["objects"])

    def __bool__(self) -> bool:
        return True  # an empty storage is a storage

    def lastTransaction(self) -> bytes:
        peer = self._peer
        with peer.head:
            return peer.node.last_tid()

    def history(self, oid: bytes, size: int = 1) -> list[dict[str, Any]]:
        entries: list[dict[str, Any]] = []
        found = self._peer.node.history(oid, max(size, 1))  # POSKeyError whatever size is
        for tid, length, user, description, extension in found[: max(size, 0)]:
            entry: dict[str, Any] = loads(extension) if extension else {}
            entry.update(
                time=TimeStamp(tid).timeTime(),
                tid=tid,
                serial=tid,
                user_name=user,
                description=description,
                size=length,
            )
            entries.append(entry)
        return entries

    def undoLog(self, first: int = 0, last: int = -20, filter: undo.Filter | None = None) -> list[dict[str, Any]]:
        return undo.log(self._peer.node, first, last, filter)

    def undoInfo(
        self, first: int = 0, last: int = -20, specification: dict[str, Any] | None = None
    ) -> list[dict[str, Any]]:
        return self.undoLog(first, last, undo.matching(specification))

    def record_iternext(self, next: bytes | None = None) -> tuple[bytes, bytes, bytes, bytes | None]:
        """(oid, tid, data, next) of the object at or behind `next` in order of oid; ValueError if there is none."""
        return self._walk.next(self._peer.node, next)

    def loadSerial(self, oid: bytes, serial: bytes) -> bytes:
        return self._peer.node.load_serial(oid, serial)

    def getTid(self, oid: bytes) -> bytes:
        return self._load_current(oid)[1]

    def _load_current(self, oid: bytes) -> RevisionAndNext:
        peer = self._peer
        with peer.head:
            found = peer.node.load_before(oid, maxtid)
        if found is None:
            raise POSKeyError(oid)
        return found
