"""A full disk: commits are refused with a clear error, the process lives on, nothing acknowledged is lost."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from filler import payload
from persistent.mapping import PersistentMapping
from ZODB.DB import DB

DISK = "24m"


@pytest.mark.parametrize("huge", [[], ["30"]], ids=["small", "huge"])
def test_a_full_disk_refuses_commits_and_loses_none(
    huge: list[str], small_disk: Path, ended: Callable[..., Any]
) -> None:
    told = ended("filler.py", str(small_disk / "peer"), *huge)
    print(f"{len(told['acknowledged'])} commits fit; then: {told['failed']}; closing: {told['closing'] or 'clean'}")
    assert len(told["acknowledged"]) > 20, "the disk was full before anything was shown"
    assert len(told["failed"]) == 3, "the disk never got full, or a commit went through after a failed write"
    assert told["readable"] == told["acknowledged"], "what was committed is not readable any more"
    for text in told["failed"]:
        assert "space" in text or "broken" in text, f"not a clear error: {text}"
    assert told["aborts"] == []

    subprocess.run(["mount", "-o", "remount,size=96m", str(small_disk)], check=True)
    from zodb_dht import DHTStorage

    db = DB(DHTStorage(str(small_disk / "peer")))
    try:
        with db.transaction() as conn:
            root = conn.root()
            lost = [n for n in told["acknowledged"] if n not in root or root[n]["data"] != payload(n)]
            assert not lost, f"LOST, though acknowledged: {lost}"
            extra = set(root) - set(told["acknowledged"])
            assert len(extra) <= len(told["failed"]), f"objects that nobody committed: {extra}"
            root["after"] = PersistentMapping()
        with db.transaction() as conn:
            assert "after" in conn.root(), "with space again, commits go on"
    finally:
        db.close()
