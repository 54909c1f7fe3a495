"""An undo that meets a full disk is refused whole, and goes through when there is space again."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import transaction
from undo_filler import read
from ZODB.DB import DB

DISK = "24m"


def test_an_undo_on_a_full_disk_changes_nothing(small_disk: Path, ended: Callable[..., Any]) -> None:
    told = ended("undo_filler.py", str(small_disk / "peer"))
    print(f"{told['undone']} undos fit; then: {told['failed']}; closing: {told['closing'] or 'clean'}")
    assert told["undone"] > 2, "the disk was full before anything was shown"
    assert len(told["failed"]) == 3, "the disk never got full, or an undo went through after a failed write"
    for text in told["failed"]:
        assert "space" in text or "broken" in text, f"not a clear error: {text}"
    # Each undo undoes the one before: after an even number version 1 is back.
    acknowledged = (told["undone"] + 1) % 2
    assert told["seen"] == acknowledged, f"after {told['undone']} undos version {told['seen']} is read"

    subprocess.run(["mount", "-o", "remount,size=96m", str(small_disk)], check=True)
    from zodb_dht import DHTStorage

    db = DB(DHTStorage(str(small_disk / "peer")))
    try:
        with db.transaction() as conn:
            now = read(conn)
        # The one that failed may have reached the log: whole, then.
        assert now in (0, 1), "an undo is there in part"
        db.undo(db.undoLog(0, 1)[0]["id"])
        transaction.commit()
        with db.transaction() as conn:
            assert read(conn) == 1 - now, "with space again, an undo goes through"
    finally:
        db.close()
