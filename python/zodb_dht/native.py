"""The native core as Python sees it, and the one place that loads it.

The types are Protocols: the embedded node of zodb_dht._core is their first implementation, a client of a serving
process will be the second. `_core.pyi` documents each method.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from .errors import make_error

if TYPE_CHECKING:
    from .config import Settings

Revision = tuple[bytes, bytes]
"""(data, tid)"""
RevisionAndNext = tuple[bytes, bytes, bytes | None]
"""(data, tid, the tid of the revision after it or None)"""
Header = tuple[bytes, str, bytes, bytes, bytes, list[bytes]]
"""(tid, status, user, description, extension, oids)"""
Conflict = tuple[bytes, bytes, bytes, bytes, bytes | None]
"""(oid, base, committed serial, committed data, base data)"""


class View(Protocol):
    """A reader at one snapshot: one thread at a time, like the connection it serves."""

    @property
    def at(self) -> bytes: ...
    def load(self, oid: bytes, /) -> Revision: ...
    def load_before(self, oid: bytes, before: bytes, /) -> RevisionAndNext | None: ...
    def prefetch(self, oids: Sequence[bytes], /) -> None: ...
    def advance(self, own: Sequence[bytes], /) -> list[bytes] | None: ...


class Node(Protocol):
    """One open peer directory. Any thread; each call ends by its deadline; every one but close fails after close."""

    def view(self, at: bytes | None = None, /) -> View: ...
    def load_before(self, oid: bytes, before: bytes, /) -> RevisionAndNext | None: ...
    def load_serial(self, oid: bytes, tid: bytes, /) -> bytes: ...
    def load_many(self, oids: Sequence[bytes], at: bytes, /) -> list[Revision | None]: ...
    def history(self, oid: bytes, size: int, /) -> list[tuple[bytes, int, bytes, bytes, bytes]]: ...
    def transactions(self, start: bytes, stop: bytes, limit: int, /) -> list[Header]: ...
    def last_tid(self) -> bytes: ...
    def stats(self) -> str: ...
    def new_oids(self, count: int, /) -> int: ...
    def vote(
        self,
        txn_id: bytes,
        user: bytes,
        description: bytes,
        extension: bytes,
        writes: Sequence[tuple[bytes, bytes, bytes]],
        reads: Sequence[tuple[bytes, bytes]],
        /,
    ) -> list[Conflict]: ...
    def finish(self, txn_id: bytes, hold: bool, /) -> bytes: ...
    def publish(self, tid: bytes, /) -> None: ...
    def abort(self, txn_id: bytes, /) -> None: ...
    def restore(
        self,
        txn_id: bytes,
        tid: bytes,
        status: str,
        user: bytes,
        description: bytes,
        extension: bytes,
        writes: Sequence[tuple[bytes, bytes | None]],
        /,
    ) -> None: ...
    def drain(self) -> None: ...
    def outcome(self, txn_id: bytes, /) -> tuple[str, bytes] | None: ...
    def stage_blob(self, txn_id: bytes, oid: bytes, path: str, keep: bool, /) -> None: ...
    def blob_file(self, oid: bytes, tid: bytes, /) -> str: ...
    def close(self) -> None: ...


def open_node(settings: Settings) -> Node:
    """Open a peer directory in this process."""
    from . import _core  # only here: a fork after the Go runtime has started hangs the child

    _core.set_error_factory(make_error)
    return _core.open(settings.path, settings.to_json())
