"""kill -9 in each phase of a pack: what was acknowledged is there, verify is clean, the next pack finishes it."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from packer import KEPT, payload
from ZODB.DB import DB
from ZODB.serialize import referencesf
from zodb_dht import DHTStorage

PHASES = ("survey", "mark", "log", "list", "sweep", "compact")
ROUNDS = max(4, int(os.environ.get("ZODB_DHT_SOAK_ROUNDS", "100")) // 25)
"""Rounds a phase."""
HERE = Path(__file__).parent


def kill_in(phase: str, path: Path, delay: float) -> tuple[int, int]:
    """Run a packer, kill it a moment after it said the phase; the last commit acknowledged, and the last begun."""
    process = subprocess.Popen(
        [sys.executable, str(HERE / "packer.py"), str(path)],
        stdout=subprocess.PIPE,
        text=True,
        stderr=subprocess.DEVNULL,
    )
    done = begun = -1
    assert process.stdout is not None
    seen = skip = 0
    for line in process.stdout:
        what, _, rest = line.strip().partition(" ")
        if what == "begin":
            begun = int(rest)
        elif what == "done":
            done = int(rest)
        elif what == "phase":
            seen += 1
            skip += rest == phase
            if (rest == phase and skip > 2) or seen > 2000:
                end = time.perf_counter() + delay
                while time.perf_counter() < end:
                    pass
                process.kill()
                break
    tail = process.stdout.read()
    for line in tail.splitlines():
        what, _, rest = line.partition(" ")
        if what == "begin" and rest.isdigit():
            begun = int(rest)
        elif what == "done" and rest.isdigit():
            done = int(rest)
    process.wait()
    return done, begun


def verified(path: Path) -> dict[str, Any]:
    command = shutil.which("zodb-dht", path=str(Path(sys.executable).parent)) or "zodb-dht"
    told = subprocess.run([command, "verify", "--json", str(path)], capture_output=True, text=True, check=False)
    report: dict[str, Any] = json.loads(told.stdout)
    assert told.returncode == 0, f"not sound: {report['damaged'][:3]}"
    return report


def check(path: Path, done: int, begun: int) -> None:
    db = DB(DHTStorage(path))
    with db.transaction() as conn:
        root = conn.root()
        newest = root["next"] - 1
        assert done <= newest <= begun, f"acknowledged {done}, begun {begun}, there is {newest}"
        linked = {n for n in root if n != "next"}
        assert linked == set(range(max(0, newest - KEPT + 1), newest + 1))
        for n in linked:
            assert root[n]["data"] == root[n]["child"]["data"] == payload(n)
            with root[n]["file"].open() as f:
                assert f.read() == payload(n)
    db.storage.pack(time.time(), referencesf)
    stats = db.storage._stats()
    assert stats["records"] == stats["objects"] == 1 + 3 * len(linked)
    db.close()
    report = verified(path)
    assert report["blobs"] == len(linked) and report["orphans"] == []


@pytest.mark.parametrize("phase", PHASES)
def test_a_pack_killed_in_a_phase_loses_nothing(phase: str, tmp_path: Path) -> None:
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")
    draw = random.Random(seed)
    path = tmp_path / "peer"
    for _ in range(ROUNDS):
        done, begun = kill_in(phase, path, draw.random() * 0.004)
        verified(path)
        check(path, done, begun)
