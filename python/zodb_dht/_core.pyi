"""The native surface: one open peer directory and the views on it.

Exceptions are made by the callable that `set_error_factory` got: factory(code, message, details), where code is one of
the names in zodb_dht.errors.CODES and details a dict of bytes/int values (oid, tid, serial, txn, pid ...).
"""

from collections.abc import Callable, Sequence
from typing import Any, final

def set_error_factory(factory: Callable[[str, str, dict[str, Any]], BaseException]) -> None:
    """For all nodes of this interpreter."""

def version() -> str:
    """The package's, that this library was built for."""

def open(path: str, settings: str) -> Node:
    """Open a peer directory; settings is a JSON object. Releases the GIL."""

@final
class Node:
    """One open peer directory. Any thread. Every method but close raises Closed after close().

    What reads the disk or waits releases the GIL; what waits for others looks for signals each 50 ms, but for finish().
    An oid, a tid, a serial: 8 bytes.
    """

    def view(self, at: bytes | None = None) -> View:
        """A reader; at fixes its snapshot for good, else it follows advance()."""
    def load_before(self, oid: bytes, before: bytes) -> tuple[bytes, bytes, bytes | None] | None:
        """(data, tid, the next tid or None) of the newest revision before a tid; None if there is none so early.

        POSKeyError: there is no such object, or it was deleted then."""
    def load_serial(self, oid: bytes, tid: bytes) -> bytes:
        """The data that tid wrote; POSKeyError. It sees what is committed and not published yet, too."""
    def load_many(self, oids: Sequence[bytes], at: bytes) -> list[tuple[bytes, bytes] | None]:
        """(data, tid) for each; None where there is none at or before `at`."""
    def load_revisions(
        self, keys: bytes, limit: int, repeats: bool
    ) -> tuple[list[bytes | bool | None], list[bytes | None]]:
        """keys: oid and tid of each -> data, None for a deletion, False where there is none; of the first ones, at
        least one, if all of them are more than limit bytes. With repeats, of each of these,
        the newest older revision with the same data, too."""
    def history(self, oid: bytes, size: int) -> list[tuple[bytes, int, bytes, bytes, bytes]]:
        """(tid, size, user, description, extension pickle), newest first."""
    def transactions(
        self, start: bytes, stop: bytes, limit: int
    ) -> list[tuple[bytes, str, bytes, bytes, bytes, list[bytes]]]:
        """(tid, status, user, description, extension pickle, oids), oldest first, at most limit."""
    def transactions_backwards(
        self, start: bytes, stop: bytes, limit: int
    ) -> list[tuple[bytes, str, bytes, bytes, bytes, list[bytes]]]:
        """As transactions(), newest first."""
    def current(self, start: bytes, limit: int) -> list[tuple[bytes, bytes, bytes]]:
        """(oid, tid, data) of what exists now, from oid start on: at most limit, and about 4 MiB; none: no more."""
    def last_tid(self) -> bytes:
        """The newest transaction that readers see. It only rises."""
    def blob_dir(self) -> str:
        """Where the files of blobs are."""
    def stats(self) -> str:
        """A JSON object: objects, records, data_size, disk_size, last_tid, applied, digest, next_oid, horizon."""
    def new_oids(self, count: int) -> int:
        """The first of count consecutive oids."""
    def vote(
        self,
        txn_id: bytes,
        snapshot: bytes,
        now: int,
        user: bytes,
        description: bytes,
        extension: bytes,
        writes: Sequence[tuple[bytes, bytes, bytes | None]],
        reads: Sequence[tuple[bytes, bytes]],
    ) -> list[tuple[bytes, bytes, bytes, bytes, bytes | None]]:
        """writes (oid, base, data | None for a deletion), reads (oid, serial) -> conflicts (oid, base, committed,
        committed data, base data).

        snapshot is what the transaction saw, z64 if it declares none; now the client's clock, in ns, 0: the core's."""
    def finish(self, txn_id: bytes, hold: bool) -> bytes:
        """Commit what was voted: its tid, durable. With hold readers see it from publish() on, or when its lease ends.

        InDoubt after finish-timeout."""
    def publish(self, tid: bytes) -> None:
        """End the hold on tid: readers see it as soon as nothing before it is held."""
    def abort(self, txn_id: bytes) -> None:
        """Forget a transaction, its reservations and staged files; unknown ones are no error."""
    def restore(
        self,
        txn_id: bytes,
        tid: bytes,
        status: str,
        user: bytes,
        description: bytes,
        extension: bytes,
        writes: Sequence[tuple[bytes, bytes | None]],
    ) -> None:
        """Queue a copy of a transaction: (oid, data | None for a deletion). Durable after drain()."""
    def drain(self) -> None:
        """Wait until all that was restored is durable; raises what an earlier one met."""
    def outcome(self, txn_id: bytes) -> tuple[str, bytes] | None:
        """("committed", tid) | ("refused", z64) | None: unknown."""
    def pack_begin(self, to: bytes, gc: bool, zodbs: bool) -> bool:
        """Start a pack to a tid; False: nothing to do. This thread's own views are not waited for.

        zodbs: references are what ZODB.serialize.referencesf finds; pack_step hands out what is not certainly that."""
    def pack_step(self, refs: bytes) -> tuple[str, int, int, bool, list[tuple[bytes, bytes, bytes]]]:
        """(phase, done, total, finished, records (oid, tid, data)).

        refs are the oids, joined, that the records of the step before refer to."""
    def pack_end(self) -> None:
        """Give a pack up; nothing if it has ended."""
    def stage_blob(self, txn_id: bytes, oid: bytes, path: str, keep: bool) -> None:
        """Take the file over for a transaction's write of oid; keep: link or copy it. abort() removes it."""
    def blob_file(self, oid: bytes, tid: bytes, whole: bool) -> str:
        """The name of a blob's committed file; whole: it is read to its end and compared with its CID."""
    def close(self) -> None:
        """Close the peer, after the calls under way. A second one does nothing."""

@final
class View:
    """A reader at one snapshot: one thread at a time, like the connection it serves."""

    @property
    def at(self) -> bytes:
        """The snapshot: the last transaction that it sees."""
    def load(self, oid: bytes) -> tuple[bytes, bytes]:
        """(data, tid); POSKeyError, and ReadConflictError for what is not so old, or was packed away."""
    def load_before(self, oid: bytes, before: bytes) -> tuple[bytes, bytes, bytes | None] | None:
        """As Node.load_before, never newer than the snapshot."""
    def prefetch(self, oids: Sequence[bytes]) -> None:
        """Bring them into memory, as far as it has room; unknown ones are no error."""
    def advance(self, own: Sequence[bytes]) -> list[bytes] | None:
        """Move to the newest visible transaction; the oids whose last writer since is none of the tids in own.

        None: they are too many to tell. A pack waits for this snapshot, at most pack-wait, until unpin(). ValueError if
        the view is fixed."""
    def unpin(self) -> None:
        """Let a pack take what only this snapshot sees, until the next advance()."""
