"""The process of test_full_disk_pack.py: `full_disk_packer.py DIR BALLAST LEFT` packs with LEFT bytes of disk left.

Its last line is a JSON object: whether the pack went through, what the error said, what is readable after it.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time

from persistent.mapping import PersistentMapping
from test_full_disk_pack import OBJECTS, payload
from ZODB.DB import DB
from ZODB.serialize import referencesf
from zodb_dht import DHTStorage


def fill(path: str, ballast: str, left: int) -> None:
    """Take all of the disk but `left` bytes, or what the peer's own compactions leave of them."""
    free = os.statvfs(path)
    with contextlib.suppress(OSError), open(ballast, "wb") as f:
        f.write(b"\1" * max(0, free.f_bavail * free.f_bsize - left))


def main(path: str, ballast: str, left: int) -> None:
    db = DB(DHTStorage(path))
    with db.transaction() as conn:
        for n in range(OBJECTS):
            conn.root()[n] = PersistentMapping(data=payload(n, 0))
    for version in (1, 2):
        for n in range(OBJECTS):
            with db.transaction() as conn:
                if n % 3:
                    conn.root()[n]["data"] = payload(n, version)
                elif n in conn.root():
                    del conn.root()[n]
    fill(os.path.dirname(path), ballast, left)
    told = {"packed": True, "error": "", "readable": []}
    try:
        db.storage.pack(time.time(), referencesf)
    except Exception as error:
        told.update(packed=False, error=f"{type(error).__name__}: {error}")
    with db.transaction() as conn:
        conn.cacheMinimize()
        told["readable"] = [n for n in conn.root() if conn.root()[n]["data"] == payload(n, 2)]
    try:
        db.close()
    except Exception as error:
        told["closing"] = f"{type(error).__name__}: {error}"
    print(json.dumps(told))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
