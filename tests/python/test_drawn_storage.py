"""The same drawn transactions on a FileStorage and on a peer, by the storage's own methods: every answer is the same.

It found files left over of blobs that the same transaction deleted, and history(oid, 0) for "no such object".
What differs on purpose is drawn around (docs/guarantees.md); packs are test_differential's.
"""

from __future__ import annotations

import base64
import io
import pickle
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from persistent.mapping import PersistentMapping
from ZODB.blob import Blob
from ZODB.Connection import TransactionMetaData
from ZODB.FileStorage import FileStorage
from ZODB.POSException import ConflictError, POSKeyError, UndoError
from ZODB.tests.ConflictResolution import PCounter
from ZODB.utils import maxtid, p64, u64, z64
from zodb_dht import DHTStorage

STEPS = 60
OIDS = [p64(n) for n in (0, 1, 2, 3, 2**40)]
BLOB = OIDS[3]
WITHOUT_FILES = [oid for oid in OIDS if oid != BLOB]
TEXTS = ["", "u", b"bytes \xff", "\u00fcn\u00ef"]
EXTENSIONS: list[dict[str, Any]] = [{}, {"a": 1}, {"\u00fc": [b"\xff"], "size": 9}]
UNABLE = "FileStorage does not find the data of an object that two undos deleted"

Op = tuple[Any, ...]


def record(kind: type, state: object) -> bytes:
    f = io.BytesIO()
    pickler = pickle.Pickler(f, 3)
    pickler.dump(kind)
    pickler.dump(state)
    return f.getvalue()


class World:
    """A storage under the program. In its answers the tids of its transactions are their numbers."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self.make = make
        self.storage = make()
        self.tids: list[bytes] = []
        self.numbers: dict[bytes | None, int] = {}
        self.files = 0

    def reopen(self) -> None:
        self.storage.close()
        self.storage = self.make()

    def named(self, answer: Any) -> Any:
        """answer with numbers for tids."""
        if isinstance(answer, list | tuple):
            return type(answer)(self.named(each) for each in answer)
        return self.numbers.get(answer, answer) if isinstance(answer, bytes) else answer

    def ask(self, what: str, *args: Any) -> Any:
        try:
            return self.named(getattr(self.storage, what)(*args))
        except POSKeyError:
            return POSKeyError

    def exists(self, oid: bytes) -> bool:
        return bool(self.ask("load", oid) is not POSKeyError)

    def serial(self, oid: bytes, back: int) -> bytes:
        """The serial of the current revision, or of one before it. A deletion's in FileStorage, none in a peer."""
        revisions = self.ask("history", oid, 100)
        if revisions is POSKeyError or (not self.exists(oid) and isinstance(self.storage, DHTStorage)):
            return z64  # type: ignore[no-any-return]
        if not self.exists(oid):
            back = 0
        tid: bytes = revisions[min(back, len(revisions) - 1)]["tid"]
        return tid

    def transaction(self, meta: tuple[Any, ...], ops: list[Op], end: str) -> Any:
        txn = TransactionMetaData(*meta)
        self.storage.tpc_begin(txn)
        try:
            undone = [getattr(self, what)(txn, *args) for what, *args in ops]
            resolved = self.storage.tpc_vote(txn) if end != "abort" else None
            if end != "finish":
                self.storage.tpc_abort(txn)
                return None
            resolved = sorted(set(resolved or ()))
            tid = self.storage.tpc_finish(txn)
        except (ConflictError, POSKeyError, UndoError) as error:
            self.storage.tpc_abort(txn)
            if "_loadBack" in repr(error):
                return UNABLE
            return None if end == "abort" else "refused"  # which one is the first is not the same
        self.numbers[tid] = len(self.tids)
        self.tids.append(tid)
        return undone, resolved

    def store(self, txn: Any, oid: bytes, back: int, value: int) -> None:
        data = (
            record(PCounter, {"_value": value}) if oid in OIDS[:2] else record(PersistentMapping, {"data": {1: value}})
        )
        self.storage.store(oid, self.serial(oid, back), data, "", txn)

    def blob(self, txn: Any, oid: bytes, back: int, value: int) -> None:
        self.files += 1
        path = Path(self.storage.temporaryDirectory(), f"file {self.files}")
        path.write_bytes(b"%d" % value * value * 50)
        self.storage.storeBlob(BLOB, self.serial(BLOB, back), record(Blob, None), str(path), "", txn)

    def delete(self, txn: Any, oid: bytes, back: int, value: int) -> None:
        if self.exists(oid):
            self.storage.deleteObject(oid, self.serial(oid, back), txn)

    def check(self, txn: Any, oid: bytes, back: int, value: int) -> None:
        if self.exists(oid):
            self.storage.checkCurrentSerialInTransaction(oid, self.serial(oid, back), txn)

    def undo(self, txn: Any, oid: bytes, back: int, value: int) -> list[bytes]:
        back += value % 3
        tid = self.tids[-1 - back] if back < len(self.tids) else p64(1)
        return sorted(set(self.storage.undo(base64.encodebytes(tid).rstrip(), txn)[1]))

    def answers(self, number: int, first: int, last: int) -> dict[str, Any]:
        """All that the storage tells, about times around one of its transactions."""
        tid = self.tids[number % len(self.tids)]
        around = [p64(u64(tid) - 1), tid, p64(u64(tid) + 1)]
        found: dict[str, Any] = {
            "last": self.ask("lastTransaction"),
            "records": self.current(),
            "undoLog": [self.entry(e) for e in self.storage.undoLog(first, last)],
            "undoInfo": [self.entry(e) for e in self.storage.undoInfo(first, last, {"user_name": b"u"})],
            "transactions": [self.content(t) for t in self.storage.iterator()],
        }
        for at, bound in enumerate(around):
            found[f"to {at}"] = [self.named(t.tid) for t in self.storage.iterator(None, bound)]
            found[f"from {at}"] = [self.named(t.tid) for t in self.storage.iterator(bound)]
        for oid in OIDS:
            revisions = self.ask("history", oid, 100)
            found[f"{oid!r}"] = [
                self.ask("load", oid),
                [self.ask("loadBefore", oid, bound) for bound in [*around, maxtid]],
                self.ask("loadSerial", oid, tid),
                [self.ask("history", oid, size) is POSKeyError for size in (0, 1)],
                revisions is POSKeyError or [(self.named(e["tid"]), e["user_name"]) for e in revisions],
                revisions is POSKeyError or [self.file(oid, e["tid"]) for e in revisions],
            ]
        return found

    def current(self) -> list[Any]:
        if isinstance(self.storage, FileStorage):  # its record_iternext stops at deletions
            loaded = [(oid, self.ask("load", oid)) for oid in sorted(self.storage._index)]
            return [(oid, answer[1], answer[0]) for oid, answer in loaded if answer is not POSKeyError]
        found: list[Any] = []
        following: bytes | None = OIDS[0] if any(map(self.exists, OIDS)) else None
        while following is not None:
            oid, tid, data, following = self.storage.record_iternext(following)
            found.append((oid, self.named(tid), data))
        return found

    def entry(self, entry: dict[str, Any]) -> Any:
        more = {k: v for k, v in entry.items() if k not in ("id", "time", "size")}
        return self.named(base64.decodebytes(entry["id"] + b"\n")), more

    def content(self, txn: Any) -> Any:
        records = {r.oid: r.data for r in txn}  # FileStorage has each store, the last one counts
        return self.named(txn.tid), txn.status, txn.user, txn.description, txn.extension_bytes, sorted(records.items())

    def file(self, oid: bytes, tid: bytes) -> bytes | None:
        if self.ask("loadSerial", oid, tid) is POSKeyError:
            return None  # FileStorage may have left one over
        try:
            return Path(self.storage.loadBlob(oid, tid)).read_bytes()
        except POSKeyError:
            return None


def drawn(draw: random.Random) -> tuple[Any, ...]:
    """A transaction: its metadata, its operations, and how it ends."""
    ops: list[Op] = []
    stale = set()
    for what in draw.choices(
        ["store", "blob", "undo", "delete", "check"], [4, 3, 4, 2, 1], k=draw.choice([0, 1, 1, 2, 3])
    ):
        oid = draw.choice({"blob": [BLOB], "store": WITHOUT_FILES, "delete": [BLOB, *OIDS]}.get(what, OIDS))
        back = draw.choice([0, 0, 0, 0, 1, 2])
        if what in ("store", "blob", "delete") and (stale and oid in stale):
            continue  # of several writes of an object the last one counts in a peer
        if back or what == "delete":
            stale.add(oid)
        ops.append((what, oid, back, draw.randrange(40)))
    meta = draw.choice(TEXTS), draw.choice(TEXTS), draw.choice(EXTENSIONS)
    return meta, ops, draw.choice(["finish"] * 8 + ["abort", "vote"])


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("seed", range(8))
def test_drawn_transactions_have_the_same_answers_as_on_filestorage(seed: int, shared: bool, tmp_path: Path) -> None:
    draw = random.Random(seed)
    theirs = World(lambda: FileStorage(str(tmp_path / "Data.fs"), blob_dir=str(tmp_path / "blobs")))
    ours = World(lambda: DHTStorage(tmp_path / "peer", shared=shared, cache_size="8MB"))
    create = [("store", oid, 0, 1) for oid in WITHOUT_FILES]
    for step in range(STEPS):
        args = (("", "", {}), create, "finish") if step == 0 else drawn(draw)
        want = theirs.transaction(*args)
        if want == UNABLE:
            continue
        assert ours.transaction(*args) == want, f"seed {seed}, step {step}: {args}"
        if draw.random() < 0.3:
            look = draw.randrange(STEPS), draw.choice([0, 1, 5]), draw.choice([-1, -20, 3, 100])
            if draw.random() < 0.2:
                theirs.reopen()
                ours.reopen()
            have, expected = ours.answers(*look), theirs.answers(*look)
            assert have == expected, f"seed {seed}, step {step}: {look}"
    revisions = ours.ask("history", BLOB, 1000)
    files = [] if revisions is POSKeyError else [ours.file(BLOB, e["tid"]) for e in revisions]
    placed = list(Path(ours.storage.fshelper.base_dir).rglob("*.blob"))
    assert len(placed) == sum(f is not None for f in files), f"seed {seed}: a file is left over"
    theirs.storage.close()
    ours.storage.close()
