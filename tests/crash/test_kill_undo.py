"""kill -9 of a process that undoes: an undo is there whole, the record and the file of its blob, or not at all."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from undoer import POINTS, content
from ZODB.DB import DB
from zodb_dht import DHTStorage

HERE = Path(__file__).parent
ROUNDS = max(2, int(os.environ.get("ZODB_DHT_SOAK_ROUNDS", "100")) // 25)
"""Rounds a point."""


def killed(path: Path, point: str, delay: float) -> list[list[str]]:
    """What a process said until it was killed: by itself, or `delay` seconds after it is open."""
    with subprocess.Popen(
        [sys.executable, str(HERE / "undoer.py"), str(path), point],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdout is not None and child.stderr is not None
        said = []
        for line in child.stdout:
            said.append(line.split())
            if said[-1] == ["open"] and point == "anywhere":
                threading.Timer(delay, child.kill).start()
        error = child.stderr.read()
    assert child.returncode == -9, f"the process ended by itself: {error}"
    return said


def check(path: Path, said: list[list[str]], before: int) -> int:
    """The number that is there, everywhere the same; `before` was there when the process began."""
    db = DB(DHTStorage(path))
    with db.transaction() as conn:
        there: int = conn.root()["n"]["n"]
        with conn.root()["blob"].open() as f:
            assert f.read() == content(there), "the record and the file are of two transactions"
    db.close()
    written = [int(words[1]) for words in said if words[0] == "written"]
    last = said[-1][0] if said else ""
    if last == "written" or not written:
        allowed = {*written[-1:], before} | ({there} if not written else set())
    elif last == "undoing":
        allowed = {written[-1], before}
    else:  # undone; or the next one is written, and nobody was told yet
        allowed = {before, there} if there not in written else {before}
    assert there in allowed, f"{there} is there after {said[-3:]}, {before} was before"
    command = shutil.which("zodb-dht", path=str(Path(sys.executable).parent)) or "zodb-dht"
    told = subprocess.run([command, "verify", "--json", str(path)], capture_output=True, text=True, check=False)
    report = json.loads(told.stdout)
    assert told.returncode == 0 and report["orphans"] == [], report
    return there


@pytest.mark.parametrize("point", POINTS)
def test_a_killed_undo_is_whole_or_not_there(tmp_path: Path, point: str) -> None:
    seed = int(os.environ.get("ZODB_DHT_SEED", random.SystemRandom().randrange(1 << 32)))
    print(f"replay the draws with ZODB_DHT_SEED={seed}")
    draw = random.Random(seed)
    before = 0
    for _ in range(ROUNDS):
        said = killed(tmp_path / "peer", point, draw.random() * 0.2)
        there = check(tmp_path / "peer", said, before)
        if point in ("undone", "voted"):
            assert said[-1][0] == "undoing" and there == int(said[-1][1]), "an undo that was not finished is there"
        if point == "finished":
            assert said[-1][0] == "undoing" and there == before, "an undo that is in the log is not there"
        before = there
