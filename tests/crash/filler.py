"""The process of test_full_disk.py: `filler.py DIR [HUGE]` commits until the disk is full, and shows that it lives on.

Object number HUGE has more than the disk, so that the log's write is the first that fails.

Its last line is a JSON object: what was acknowledged, and what the errors said.
"""

from __future__ import annotations

import json
import logging
import random
import sys
from typing import Any

import transaction
from persistent.mapping import PersistentMapping
from ZODB.DB import DB
from zodb_dht import DHTStorage

OBJECT_SIZE = 100_000
ENOUGH = 2000  # objects: far more than the disk of the test holds


HUGE_SIZE = 40_000_000


def payload(n: int, size: int = OBJECT_SIZE) -> bytes:
    return random.Random(n).randbytes(size)  # incompressible


def attempt(conn: Any, n: int, size: int) -> str | None:
    """One commit; the error's class and text if it failed."""
    try:
        conn.root()[n] = PersistentMapping(data=payload(n, size))
        transaction.commit()
    except Exception as error:
        transaction.abort()
        return f"{type(error).__name__}: {error}"
    return None


class Aborts(logging.Handler):
    """The aborts that failed: no storage's may, and transaction logs it."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.failed: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if "tpc_abort" in record.getMessage():
            self.failed.append(record.getMessage())


def closed(db: DB) -> str:
    """What the close's error says, if it has one."""
    try:
        db.close()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def main(path: str, huge: str = "") -> None:
    db = DB(DHTStorage(path))
    conn = db.open()
    aborts = Aborts()
    logging.getLogger().addHandler(aborts)
    acknowledged: list[int] = []
    failed: list[str] = []
    for n in range(ENOUGH):
        error = attempt(conn, n, HUGE_SIZE if str(n) == huge else OBJECT_SIZE)
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
    told = {"acknowledged": acknowledged, "readable": readable, "failed": failed, "closing": closing}
    print(json.dumps({**told, "aborts": aborts.failed}))


if __name__ == "__main__":
    main(*sys.argv[1:])
