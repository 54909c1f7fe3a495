"""A life of a storage under an interpreter that makes an error of what is only a warning elsewhere."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

LIFE = """
import os, sys

threads = len(os.listdir("/proc/self/task")) if sys.platform == "linux" else 0
import zodb_dht
if threads:
    assert len(os.listdir("/proc/self/task")) == threads, "the import starts a thread"

import transaction, ZODB
from ZODB.blob import Blob
from persistent.mapping import PersistentMapping

for shared in (False, True):
    storage = zodb_dht.DHTStorage("peer", shared=shared)
    db = ZODB.DB(storage)
    connection = db.open()
    root = connection.root()
    root["a"] = PersistentMapping(text="first")
    root["blob"] = Blob(b"first")
    transaction.commit()
    root["a"]["text"] = "second"
    with root["blob"].open("w") as f:
        f.write(b"second")
    transaction.commit()
    db.undo(db.undoLog(0, 1)[0]["id"])
    transaction.commit()
    assert root["a"]["text"] == "first"
    with root["blob"].open() as f:
        assert f.read() == b"first"
    assert db.history(root["a"]._p_oid, 9) and [list(t) for t in storage.iterator()]
    transaction.abort()
    db.pack()
    connection.close()
    db.close()
"""


@pytest.mark.parametrize("strict", [["-bb"], ["-W", "error"], ["-X", "dev", "-W", "error"]], ids="".join)
def test_nothing_is_warned_of(strict: list[str], tmp_path: Path) -> None:
    env = {**os.environ, "PYTHONMALLOC": "debug"}
    done = subprocess.run(
        [sys.executable, *strict, "-c", LIFE], cwd=tmp_path, env=env, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", ""), done
