"""A full disk: commits are refused with a clear error, the process lives on, nothing acknowledged is lost."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from filler import payload
from persistent.mapping import PersistentMapping
from ZODB.DB import DB

HERE = Path(__file__).parent


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(disk)], capture_output=True, text=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"WAITING: a full disk needs the right to mount a tmpfs (root): {mounted.stderr.strip()}")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_a_full_disk_refuses_commits_and_loses_none(small_disk: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(HERE / "filler.py"), str(small_disk / "peer")],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, f"the process died ({done.returncode}): {done.stderr[-2000:]}"
    told = json.loads(done.stdout.splitlines()[-1])
    print(f"{len(told['acknowledged'])} commits fit; then: {told['failed']}; closing: {told['closing'] or 'clean'}")
    assert len(told["acknowledged"]) > 20, "the disk was full before anything was shown"
    assert len(told["failed"]) == 3, "the disk never got full, or a commit went through after a failed write"
    assert told["readable"] == told["acknowledged"], "what was committed is not readable any more"
    for text in told["failed"]:
        assert "space" in text or "broken" in text, f"not a clear error: {text}"

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
