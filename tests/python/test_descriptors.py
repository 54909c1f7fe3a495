"""A process that ran out of file descriptors loses nothing, and goes on when it has some again."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SHORT = """
import os, resource, tempfile
from ZODB.blob import Blob
from ZODB.DB import DB
from zodb_dht import DHTStorage

tempfile.gettempdir()  # it takes a file to find it
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
told = 0
for spare in range(8):  # until it has enough for all
    storage = DHTStorage(f"peer{spare}")
    db = DB(storage)
    soft = len(os.listdir("/proc/self/fd")) - 1 + spare
    for limit in (soft, min(hard, 1024)):
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
        try:
            with db.transaction() as connection:
                connection.root()["blob"] = Blob(b"content")
        except Exception as e:
            assert limit == soft, (spare, e)
            told += 1
    with db.transaction() as connection, connection.root()["blob"].open() as f:
        assert f.read() == b"content"
    db.close()
assert 0 < told < 8, told
print("done")
"""


def test_blobs_go_on_after_descriptors_ran_out(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SHORT], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr
