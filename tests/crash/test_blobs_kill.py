"""kill -9 of a process that stores blobs: each is there whole with its transaction, or not at all; nothing is left.

Each point of docs/format.md's table where a client can die is hit on purpose; then the process is killed at random
moments, which hits those inside of the core. ZODB_DHT_SOAK_ROUNDS sets how often, ZODB_DHT_SEED replays the draws.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from blob_committer import POINTS, content
from ZODB.utils import p64, u64
from zodb_dht import DHTStorage

HERE = Path(__file__).parent
ROUNDS = int(os.environ.get("ZODB_DHT_SOAK_ROUNDS", "120")) // 10


@dataclass
class Heard:
    """What the processes of one directory said."""

    begun: set[int] = field(default_factory=set)
    done: dict[int, bytes] = field(default_factory=dict)


def run(path: Path, seed: int, point: str, heard: Heard, delay: float | None = None) -> None:
    """One process, until it is killed: by itself, or `delay` seconds after it is open."""
    with subprocess.Popen(
        [sys.executable, str(HERE / "blob_committer.py"), str(path), str(seed), point],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdout is not None and child.stderr is not None
        for line in child.stdout:
            words = line.split()
            if words[0] == "open" and delay is not None:
                threading.Timer(delay, child.kill).start()
            elif words[0] == "begin":
                heard.begun.add(int(words[1]))
            elif words[0] == "done":
                heard.done[int(words[1])] = bytes.fromhex(words[2])
        error = child.stderr.read()
    assert child.returncode == -9, f"the process ended by itself: {error}"


def check(path: Path, seed: int, heard: Heard) -> int:
    """Opens the directory; returns how many transactions there are."""
    storage = DHTStorage(path)
    found: dict[int, bytes] = {}
    try:
        for txn in storage.iterator():
            n = txn.extension["n"]
            found[n] = txn.tid
            assert sorted(u64(r.oid) for r in txn) == [2 * n + 1, 2 * n + 2], "a transaction is there in part"
            for record in txn:
                name = storage.loadBlob(record.oid, txn.tid)
                assert Path(name).read_bytes() == content(seed, u64(record.oid)), f"blob {name} is another"
        base = Path(storage.fshelper.base_dir)
        want = {Path(storage.fshelper.getBlobFilename(p64(2 * n + k), t)) for n, t in found.items() for k in (1, 2)}
    finally:
        storage.close()
    lost = {n for n, tid in heard.done.items() if found.get(n) != tid}
    assert not lost, f"LOST, though acknowledged: {lost}"
    assert found.keys() <= heard.begun, f"there, though never begun: {found.keys() - heard.begun}"
    files = {p for p in base.rglob("*") if p.is_file() and not p.name.startswith(".")}
    assert files == want, f"left over: {files - want}; missing: {want - files}"
    empty = [d for d in base.rglob("0x*") if d.is_dir() and not any(d.iterdir())]
    assert not empty, f"empty directories: {empty}"
    command = shutil.which("zodb-dht", path=str(Path(sys.executable).parent)) or shutil.which("zodb-dht")
    verify = [command] if command else [sys.executable, "-c", "from zodb_dht.cli import main; main()"]
    told = json.loads(subprocess.run([*verify, "verify", "--json", str(path)], capture_output=True, check=True).stdout)
    assert told["sound"] and told["orphans"] == [] and told["blobs"] == len(want)
    return len(found)


@pytest.mark.parametrize("point", POINTS)
def test_killed_at_a_point_of_a_commit(tmp_path: Path, point: str) -> None:
    heard = Heard()
    run(tmp_path / "peer", 1, point, heard)
    committed = check(tmp_path / "peer", 1, heard)
    assert committed == (3 if point == "finished" else 2)
    assert len(heard.done) == 2


def test_killed_anywhere(tmp_path: Path) -> None:
    seed = int(os.environ.get("ZODB_DHT_SEED", time.time_ns()))
    print(f"replay the draws with ZODB_DHT_SEED={seed}")
    draw, heard, committed = random.Random(seed), Heard(), 0
    for _ in range(max(ROUNDS, 1)):
        run(tmp_path / "peer", seed, "anywhere", heard, draw.random() * 0.15)
        committed = check(tmp_path / "peer", seed, heard)
    print(f"{ROUNDS} rounds: {len(heard.done)} acknowledged, {committed} found")
    assert heard.done, "no commit in any round: nothing was shown"
