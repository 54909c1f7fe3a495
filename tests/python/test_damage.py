"""Flipped bytes in the peer directory are named in an error, never returned; other records stay readable."""

from __future__ import annotations

import base64
import hashlib
import os
import pickle
import shutil
from pathlib import Path

from ZODB.utils import z64
from zodb_dht import DHTStorage
from zodb_dht.errors import Corrupt

from .conftest import Opener
from .helpers import commit, new
from .test_blob_damage import verified

OBJECTS = 50  # of 4,000 incompressible bytes: several blocks of a table


def places(directory: Path, needle: bytes) -> list[tuple[Path, int]]:
    """Where the bytes are, in any file."""
    found = []
    for path in sorted(p for p in directory.rglob("*") if p.is_file()):
        content = path.read_bytes()
        at = content.find(needle)
        while at >= 0:
            found.append((path.relative_to(directory), at))
            at = content.find(needle, at + 1)
    return found


def flip(file: Path, at: int) -> None:
    """Change four bytes."""
    with file.open("r+b") as f:
        f.seek(at)
        old = f.read(4)
        f.seek(at)
        f.write(bytes(b ^ 0xFF for b in old))


def test_flipped_bytes_are_never_returned(open_storage: Opener, tmp_path: Path) -> None:
    storage = open_storage()
    made = {}
    for _ in range(OBJECTS):
        data = os.urandom(4000)
        oid, tid = new(storage, data)
        made[oid] = (data, tid)
    storage.close()
    open_storage().close()  # replays the log, writes tables
    victim = list(made)[OBJECTS // 2]
    data, tid = made[victim]
    hits = places(tmp_path / "peer", data[1000:1100])
    assert hits
    loads = 0
    for n, (file, at) in enumerate(hits):
        copy = tmp_path / f"copy{n}"
        shutil.copytree(tmp_path / "peer", copy)
        flip(copy / file, at)
        try:
            storage = DHTStorage(copy)
        except Corrupt:  # it is the log's copy, or lies in a block with the log: open says so
            continue
        try:
            loads += check_damaged(storage, victim, made)
        finally:
            storage.close()
    assert loads, "no flip hit the record itself"


def check_damaged(storage: DHTStorage, victim: bytes, made: dict[bytes, tuple[bytes, bytes]]) -> int:
    """1 if the victim is damaged: then its neighbours in the same block may be, too, and nothing else."""
    view = storage.new_instance()
    view.poll_invalidations()
    damaged: dict[bytes, Corrupt] = {}
    for oid, want in made.items():
        for reader in (storage, view):
            try:
                assert reader.load(oid) == want
            except Corrupt as e:
                damaged[oid] = e
    for oid, error in damaged.items():
        data, tid = made[oid]
        digest = base64.b32encode(b"\x01\x55\x12\x20" + hashlib.sha256(data).digest()).decode().lower().rstrip("=")
        assert error.oid == oid
        assert error.tid in (None, tid)
        assert error.cid in (None, f"b{digest}")
        assert pickle.loads(pickle.dumps(error)).oid == oid
    if not damaged:
        return 0
    assert victim in damaged
    assert len(damaged) <= 10
    commit(storage, (storage.new_oid(), z64, b"the peer goes on"))
    return 1


def test_verify_counts_what_is_there_beside_the_damage(open_storage: Opener, tmp_path: Path) -> None:
    storage = open_storage()
    made = [new(storage, os.urandom(4000)) for _ in range(OBJECTS)]
    data = storage.load(made[OBJECTS // 2][0])[0]
    storage.close()
    open_storage().close()  # writes tables
    (file, at), *_ = [hit for hit in places(tmp_path / "peer", data[1000:1100]) if hit[0].suffix == ".sst"]
    flip(tmp_path / "peer" / file, at)
    code, document = verified(tmp_path / "peer")
    assert code == 5
    named = {d["oid"] for d in document["damaged"] if "oid" in d}
    assert named and document["records"] + len(named) == OBJECTS
    assert document["objects"] == OBJECTS, "as many as there are, however many can be read"
