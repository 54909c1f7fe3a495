"""The process of test_full_disk.py: `filler.py DIR` commits until the disk is full, and shows that it lives on.

Its last line is a JSON object: what was acknowledged, and what the errors said.
"""

from __future__ import annotations

import json
import random
import sys
from typing import Any

import transaction
from persistent.mapping import PersistentMapping
from ZODB.DB import DB
from zodb_dht import DHTStorage

OBJECT_SIZE = 100_000
ENOUGH = 2000  # objects: far more than the disk of the test holds


def payload(n: int) -> bytes:
    return random.Random(n).randbytes(OBJECT_SIZE)  # incompressible


def attempt(conn: Any, n: int) -> str | None:
    """One commit; the error's class and text if it failed."""
    try:
        conn.root()[n] = PersistentMapping(data=payload(n))
        transaction.commit()
    except Exception as error:
        transaction.abort()
        return f"{type(error).__name__}: {error}"
    return None


def closed(db: DB) -> str:
    """What the close's error says, if it has one."""
    try:
        db.close()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def main(path: str) -> None:
    db = DB(DHTStorage(path))
    conn = db.open()
    acknowledged: list[int] = []
    failed: list[str] = []
    for n in range(ENOUGH):
        error = attempt(conn, n)
        if error is None:
            acknowledged.append(n)
            continue
        failed.append(error)
        if len(failed) == 3:  # the first failure, and that it stays so
            break
    conn.cacheMinimize()
    readable = [n for n in acknowledged if conn.root()[n]["data"] == payload(n)]
    conn.close()
    closing = closed(db)
    print(json.dumps({"acknowledged": acknowledged, "readable": readable, "failed": failed, "closing": closing}))


if __name__ == "__main__":
    main(sys.argv[1])
