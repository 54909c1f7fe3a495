"""The process of test_full_disk_undo.py: `undo_filler.py DIR` undoes the last transaction until the disk is full.

Its last line is a JSON object: how many undos were acknowledged, what the errors said, and what is read then.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import transaction
from filler import closed, payload
from persistent.mapping import PersistentMapping
from ZODB.DB import DB
from zodb_dht import DHTStorage

OBJECTS = 10
ENOUGH = 500  # undos: far more than the disk of the test holds


def version(n: int) -> list[bytes]:
    return [payload(n * OBJECTS + i) for i in range(OBJECTS)]


def write(conn: Any, n: int) -> None:
    for i, data in enumerate(version(n)):
        conn.root().setdefault(i, PersistentMapping())["data"] = data
    transaction.commit()


def read(conn: Any) -> int | None:
    """Which version all objects have; None: they are mixed, or something else."""
    found = [conn.root()[i]["data"] for i in range(OBJECTS)]
    return next((n for n in (0, 1) if found == version(n)), None)


def main(path: str) -> None:
    db = DB(DHTStorage(path))
    conn = db.open()
    write(conn, 0)
    write(conn, 1)
    undone = 0
    failed: list[str] = []
    while len(failed) < 3 and undone < ENOUGH:
        try:
            db.undo(db.undoLog(0, 1)[0]["id"])
            transaction.commit()
            undone += 1
        except Exception as error:
            transaction.abort()
            failed.append(f"{type(error).__name__}: {error}")
    conn.cacheMinimize()
    transaction.begin()
    seen = read(conn)
    conn.close()
    closing = closed(db)
    print(json.dumps({"undone": undone, "seen": seen, "failed": failed, "closing": closing}))


if __name__ == "__main__":
    main(sys.argv[1])
