"""A full disk while blobs are stored: a clear error, nothing acknowledged is lost, no half file is left."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from blob_filler import content
from ZODB.utils import p64
from zodb_dht import DHTStorage

DISK = "32m"


def test_a_full_disk_refuses_blobs_and_loses_none(small_disk: Path, tmp_path: Path, ended: Callable[..., Any]) -> None:
    told = ended("blob_filler.py", str(small_disk / "peer"), str(tmp_path))
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
