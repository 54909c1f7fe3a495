"""The same drawn program, by several connections, on FileStorage and on a peer: every answer is the same."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from BTrees.Length import Length
from BTrees.OOBTree import OOBTree
from persistent.mapping import PersistentMapping
from transaction import TransactionManager
from ZODB.blob import Blob
from ZODB.DB import DB
from ZODB.FileStorage import FileStorage
from ZODB.POSException import ConflictError, POSKeyError, UndoError
from zodb_dht import DHTStorage

CONNECTIONS = 3
STEPS = 120
UNABLE = "FileStorage does not find the data of an object that two undos deleted"


class World:
    """A database under the program. Its answers hold no tids: those are the clock's."""

    def __init__(self, make: Callable[[], Any], cache_size: int) -> None:
        self._make = make
        self._cache_size = cache_size
        self._marks: list[bytes] = []  # tids to open the past at
        self._packed = 0.0
        self._start()

    def _start(self) -> None:
        self.db = DB(self._make(), cache_size=self._cache_size)
        self._connections = [self._connect() for _ in range(CONNECTIONS)]
        self._savepoints: list[Any] = [None] * CONNECTIONS

    def _connect(self) -> Any:
        return self.db.open(TransactionManager())

    def close(self) -> None:
        for connection in self._connections:
            connection.transaction_manager.abort()
            connection.close()
        self.db.close()

    def answer(self, what: str, who: int, *args: Any) -> Any:
        connection = self._connections[who]
        try:
            return getattr(self, what)(who, connection, *args)
        except (ConflictError, POSKeyError, UndoError) as error:
            if "_loadBack" in repr(error):
                return UNABLE
            if what in ("commit", "noted"):
                connection.transaction_manager.abort()
            kinds = (UndoError, ConflictError, POSKeyError)
            return next(kind.__name__ for kind in kinds if isinstance(error, kind))

    def item(self, who: int, connection: Any, key: int, value: int) -> None:
        connection.root()[f"item {key}"] = value

    def mapping(self, who: int, connection: Any, key: int, value: int) -> None:
        connection.root().setdefault(f"mapping {key % 2}", PersistentMapping())["value"] = value

    def tree(self, who: int, connection: Any, key: int, value: int) -> int:
        tree = connection.root().setdefault("tree", OOBTree())
        connection.root().setdefault("length", Length()).change(1)
        tree.pop(key, None) if value == 0 else tree.__setitem__(key, value)
        return len(tree)

    def blob(self, who: int, connection: Any, key: int, value: int) -> None:
        with connection.root().setdefault(f"blob {key % 2}", Blob()).open("w") as f:
            f.write(bytes([value]) * 2000)

    def read(self, who: int, connection: Any, *_: int) -> Any:
        return [(key, _plain(value)) for key, value in sorted(connection.root().items())]

    def past(self, who: int, connection: Any, key: int, value: int) -> Any:
        if not self._marks:
            return None
        then = self.db.open(
            TransactionManager(), **{"at" if value % 2 else "before": self._marks[key % len(self._marks)]}
        )
        try:
            return self.read(who, then)
        finally:
            then.close()

    def commit(self, who: int, connection: Any, *_: int) -> None:
        self._savepoints[who] = None
        connection.transaction_manager.commit()
        self._marks.append(self.db.lastTransaction())

    def abort(self, who: int, connection: Any, *_: int) -> None:
        self._savepoints[who] = None
        connection.transaction_manager.abort()

    def savepoint(self, who: int, connection: Any, *_: int) -> None:
        self._savepoints[who] = connection.transaction_manager.savepoint()

    def rollback(self, who: int, connection: Any, *_: int) -> None:
        if self._savepoints[who] is not None:
            self._savepoints[who].rollback()

    def forget(self, who: int, connection: Any, *_: int) -> None:
        connection.cacheMinimize()

    def undo(self, who: int, connection: Any, key: int, value: int) -> None:
        log = [e for e in self.db.undoInfo(0, 20) if e["time"] > self._packed and "noted" in e["description"]]
        if key % 6 < len(log):
            manager = TransactionManager()
            manager.get().note("noted, undone")
            try:
                self.db.undo(log[key % 6]["id"], manager.get())
                manager.commit()
            finally:
                manager.abort()

    def noted(self, who: int, connection: Any, key: int, value: int) -> None:
        """Commit what an undo may take back."""
        connection.transaction_manager.get().note("noted")
        self.commit(who, connection)

    def pack(self, who: int, connection: Any, *_: int) -> None:
        for each in self._connections:
            each.transaction_manager.abort()
        self._savepoints = [None] * CONNECTIONS
        self._marks.clear()
        self.db.pack()
        self._packed = time.time()

    def restart(self, who: int, connection: Any, *_: int) -> None:
        self.close()
        self._start()


def _plain(value: Any) -> Any:
    if isinstance(value, PersistentMapping | OOBTree):
        return sorted(value.items())
    if isinstance(value, Blob):
        with value.open("r") as f:
            return f.read()
    return value() if isinstance(value, Length) else value


WEIGHTS = {
    **dict.fromkeys(["past", "commit", "abort", "blob", "savepoint", "rollback", "forget"], 1),
    **dict.fromkeys(["item", "mapping", "undo"], 2),
    **dict.fromkeys(["tree", "read", "noted"], 3),
}


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("seed", range(8))
def test_a_program_has_the_same_answers_as_on_filestorage(seed: int, shared: bool, tmp_path: Path) -> None:
    draw = random.Random(seed)
    cache_size = draw.choice([3, 1000])
    theirs = World(lambda: FileStorage(str(tmp_path / "Data.fs"), blob_dir=str(tmp_path / "blobs")), cache_size)
    ours = World(lambda: DHTStorage(tmp_path / "peer", shared=shared, cache_size="8MB"), cache_size)
    # FileStorage itself can't undo everything that it packed below: so it is packed at the end of the program only.
    operations = draw.choices(list(WEIGHTS), list(WEIGHTS.values()), k=STEPS)
    program = [(what, draw.randrange(CONNECTIONS)) for what in operations]
    program[STEPS // 2 : STEPS // 2] = [("restart", 0), ("read", 0)]
    program += [
        ("pack", 0),
        ("read", 0),
        ("restart", 0),
        ("read", 1),
        ("tree", 0),
        ("noted", 0),
        ("undo", 0),
        ("read", 2),
    ]
    for step, (what, who) in enumerate(program):
        args = (what, who, draw.randrange(60), draw.randrange(5))
        want, have = theirs.answer(*args), ours.answer(*args)
        if want == UNABLE:
            break
        assert have == want, f"seed {seed}, step {step}: {args}"
    theirs.close()
    ours.close()
