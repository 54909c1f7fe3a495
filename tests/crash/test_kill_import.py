"""kill -9 of an import, with blobs, again and again: each leaves a beginning of the source, the last equal hashes."""

from __future__ import annotations

import json
import os
import pickle
import random
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from ZODB.blob import Blob
from ZODB.Connection import TransactionMetaData
from ZODB.FileStorage import FileStorage
from ZODB.utils import p64, z64

ROUNDS = int(os.environ.get("ZODB_DHT_SOAK_ROUNDS", "120")) // 15
TRANSACTIONS, OBJECTS, BLOBS = 1500, 400, 50
COMMAND = (sys.executable, "-m", "zodb_dht.cli")
SLOW = """
import sys
from zodb_dht import commands, conversion

def told(what, step=conversion.rising):  # a line for each transaction, when its predecessors are with the core
    def rising(transactions):
        for tid, transaction in step(transactions):
            print(tid.hex(), flush=True)
            yield tid, transaction
    return rising

conversion.rising = told(conversion.rising)
sys.exit(commands.run(sys.argv[1:]))
"""


def fill(path: Path, draw: random.Random) -> int:
    """A site; how many revisions of blobs it has."""
    storage = FileStorage(str(path), blob_dir=f"{path}.blobs")
    record, stored = pickle.dumps(Blob, 3) + pickle.dumps(None, 3), 0
    serials: dict[bytes, bytes] = {}
    for n in range(TRANSACTIONS):
        meta = TransactionMetaData(b"ada", b"edit %d" % n)
        storage.tpc_begin(meta)
        oids = {p64(draw.randrange(OBJECTS)) for _ in range(draw.randrange(6))}
        for oid in oids:
            storage.store(oid, serials.get(oid, z64), draw.randbytes(draw.choice((30, 300, 9000))), "", meta)
        if draw.random() < 0.2:
            oid, file = p64(OBJECTS + draw.randrange(BLOBS)), path.with_suffix(".tmp")
            file.write_bytes(draw.randbytes(draw.choice((0, 300, 90_000))))
            storage.storeBlob(oid, serials.get(oid, z64), record, str(file), "", meta)
            oids.add(oid)
            stored += 1
        storage.tpc_vote(meta)
        tid = storage.tpc_finish(meta)
        serials.update(dict.fromkeys(oids, tid))
    storage.close()
    return stored


def killed(source: Path, peer: Path, after: int, delay: float) -> None:
    """Import until `after` transactions were read, and a moment more."""
    with subprocess.Popen(
        [sys.executable, "-c", SLOW, "import", str(source), str(peer), "--blob-dir", f"{source}.blobs"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as child:
        assert child.stdout is not None and child.stderr is not None
        for count, _ in enumerate(child.stdout):
            if count == after:
                threading.Timer(delay, child.kill).start()
        error = child.stderr.read()
    assert child.returncode in (-9, 0), error.decode()


def finished(source: Path, peer: Path, blobs: int) -> dict[str, Any]:
    """What an import says that goes on behind others, which were ended somewhere: it is whole, nothing is left over."""
    done = subprocess.run(
        [*COMMAND, "import", str(source), str(peer), "--blob-dir", f"{source}.blobs", "--verify", "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done
    document: dict[str, Any] = json.loads(done.stdout)
    assert document["already_there"] > 0, "each end came before anything was durable: nothing was shown"
    assert document["already_there"] + document["copied"]["transactions"] == TRANSACTIONS
    assert document["verified"]["transactions"] == TRANSACTIONS
    assert document["verified"]["blobs"] == blobs
    files = [p for p in (peer / "blobs").rglob("*") if p.is_file() and not p.name.startswith(".")]
    assert len(files) == blobs, "a file without its transaction was left"
    return document


def test_a_killed_import_goes_on_and_ends_with_equal_hashes(tmp_path: Path) -> None:
    seed = int(os.environ.get("ZODB_DHT_SEED", time.time_ns()))
    print(f"replay the draws with ZODB_DHT_SEED={seed}")
    draw = random.Random(seed)
    source, peer = tmp_path / "Data.fs", tmp_path / "peer"
    blobs = fill(source, draw)
    for _ in range(max(ROUNDS, 1)):
        killed(source, peer, draw.randrange(TRANSACTIONS), draw.random() * 0.02)
    document = finished(source, peer, blobs)
    back = tmp_path / "Back.fs"
    out = subprocess.run(
        [*COMMAND, "export", str(peer), str(back), "--blob-dir", f"{back}.blobs", "--verify", "--json"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    exported = json.loads(out)
    assert exported["verified"] == document["verified"]
