"""A full disk while blobs are stored: a clear error, nothing acknowledged is lost, no half file is left."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from blob_filler import content
from ZODB.utils import p64
from zodb_dht import DHTStorage

HERE = Path(__file__).parent


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", str(disk)], capture_output=True, text=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"WAITING: a full disk needs the right to mount a tmpfs (root): {mounted.stderr.strip()}")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_a_full_disk_refuses_blobs_and_loses_none(small_disk: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(HERE / "blob_filler.py"), str(small_disk / "peer"), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, f"the process died ({done.returncode}): {done.stderr[-2000:]}"
    told = json.loads(done.stdout.splitlines()[-1])
    print(f"{len(told['acknowledged'])} blobs fit; then: {told['failed']}; closing: {told['closing'] or 'clean'}")
    assert len(told["acknowledged"]) > 10, "the disk was full before anything was shown"
    assert len(told["failed"]) == 3, "the disk never got full, or a blob went through after a failed one of its size"
    assert [str(n) for n in told["readable"]] == list(told["acknowledged"]), "what was committed is not readable"
    assert told["left"] == [], "half a file was left"
    for text in told["failed"]:
        assert "space" in text or "broken" in text, f"not a clear error: {text}"

    subprocess.run(["mount", "-o", "remount,size=96m", str(small_disk)], check=True)
    storage = DHTStorage(small_disk / "peer")
    try:
        for n, tid in told["acknowledged"].items():
            with storage.openCommittedBlobFile(p64(int(n) + 1), bytes.fromhex(tid)) as f:
                assert f.read() == content(int(n))
        base = Path(storage.fshelper.base_dir)
        files = [p for p in base.rglob("*") if p.is_file() and not p.name.startswith(".")]
        assert len(files) == len(told["acknowledged"])
    finally:
        storage.close()
