"""A disk that gets full while a pack runs: a clear error or none, the process lives on, nothing current is lost."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

OBJECTS = 90
DISK = "24m"


def payload(n: int, version: int) -> bytes:
    return random.Random(f"{n} {version}").randbytes(12_000)  # incompressible


@pytest.mark.parametrize("left", [0, 4_000, 20_000, 100_000, 400_000, 1_500_000])
def test_a_pack_on_a_full_disk_loses_nothing(small_disk: Path, left: int, ended: Callable[..., Any]) -> None:
    disk = small_disk
    path = disk / "peer"
    told = ended("full_disk_packer.py", str(path), str(disk / "ballast"), str(left))
    print(f"{left} bytes left: packed {told['packed']}; {told['error']}; closing: {told.get('closing', 'clean')}")
    want = [n for n in range(OBJECTS) if n % 3]
    assert told["readable"] == want
    if not told["packed"]:
        assert "space" in told["error"] or "broken" in told["error"], f"not a clear error: {told['error']}"

    (disk / "ballast").unlink()
    # A new write-ahead log takes 17 MB at once.
    subprocess.run(["mount", "-o", "remount,size=96m", str(disk)], check=True)
    from ZODB.DB import DB
    from ZODB.serialize import referencesf
    from zodb_dht import DHTStorage

    db = DB(DHTStorage(str(path)))
    db.storage.pack(time.time(), referencesf)
    with db.transaction() as conn:
        assert sorted(conn.root()) == want
        assert all(conn.root()[n]["data"] == payload(n, 2) for n in want)
    stats = db.storage._stats()
    assert stats["records"] == stats["objects"] == len(want) + 1
    db.close()
    command = shutil.which("zodb-dht", path=str(Path(sys.executable).parent)) or "zodb-dht"
    assert subprocess.run([command, "verify", str(path)], check=False).returncode == 0
