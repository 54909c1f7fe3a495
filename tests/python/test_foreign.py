"""Records whose classes can't be imported here: packed, copied and verified like any other."""

from __future__ import annotations

import json
import pickle
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from ZODB.Connection import TransactionMetaData
from ZODB.FileStorage import FileStorage
from ZODB.serialize import referencesf
from ZODB.utils import p64, z64

from .conftest import Opener

OBJECTS = 60


def record(n: int, refs: list[int]) -> bytes:
    """What ZODB writes for an object of a class of a product that is not installed."""
    module = f"no.such.product{n % 3}"
    buffer = b"\x80\x03c" + module.encode() + b"\nForeign\nq\x00."
    state = b"\x80\x03}q\x01(X\x04\x00\x00\x00dataq\x02C\x08" + random.Random(n).randbytes(8) + b"q\x03"
    for k, oid in enumerate(refs):
        name = b"ref%d" % k
        state += b"X" + len(name).to_bytes(4, "little") + name
        # (oid, class): the usual form of a reference.
        state += b"C\x08" + p64(oid) + b"c" + module.encode() + b"\nOther\n\x86Q"
    return buffer + state + b"u."


def links() -> dict[int, list[int]]:
    """A tree over the even oids, and chains of odd ones that nothing leads to."""
    refs: dict[int, list[int]] = {n: [] for n in range(OBJECTS)}
    for n in range(0, OBJECTS, 2):
        for child in (2 * n + 2, 2 * n + 4):
            if child < OBJECTS:
                refs[n].append(child)
        if n:
            refs[max(0, n // 2 - 1) // 2 * 2].append(n)
    for n in range(1, OBJECTS - 2, 2):
        refs[n] = [n + 2, 0]
    return refs


def reached(refs: dict[int, list[int]]) -> set[int]:
    found, left = {0}, [0]
    while left:
        for n in refs[left.pop()]:
            if n not in found:
                found.add(n)
                left.append(n)
    return found


def fill(storage: Any) -> None:
    serial: dict[int, bytes] = {}
    for start in range(0, OBJECTS, 7):
        txn = TransactionMetaData()
        storage.tpc_begin(txn)
        for n in range(start, min(start + 7, OBJECTS)):
            storage.store(p64(n), serial.get(n, z64), record(n, links()[n]), "", txn)
        storage.tpc_vote(txn)
        storage.tpc_finish(txn)


def stored(storage: Any) -> set[int]:
    found, cursor = set(), None
    while True:
        oid, _tid, _data, cursor = storage.record_iternext(cursor)
        found.add(int.from_bytes(oid, "big"))
        if cursor is None:
            return found


def test_these_records_are_what_they_are_meant_to_be() -> None:
    for n, refs in links().items():
        assert referencesf(record(n, refs)) == [p64(r) for r in refs]
        with pytest.raises(ImportError):
            pickle.loads(record(n, refs))


def test_a_pack_follows_their_references(open_storage: Opener) -> None:
    storage = open_storage()
    fill(storage)
    storage.pack(time.time(), referencesf)
    assert stored(storage) == reached(links()) != set(range(OBJECTS))


def test_a_pack_by_another_function_follows_them(open_storage: Opener) -> None:
    storage = open_storage()
    fill(storage)
    storage.pack(time.time(), lambda data: referencesf(data))
    assert stored(storage) == reached(links())


def test_the_command_packs_copies_and_verifies_them(tmp_path: Path) -> None:
    source, peer, back = tmp_path / "Data.fs", tmp_path / "peer", tmp_path / "Back.fs"
    storage = FileStorage(str(source))
    fill(storage)
    storage.close()

    def command(*args: object) -> Any:
        done = subprocess.run(
            [sys.executable, "-m", "zodb_dht.cli", *map(str, args), "--json"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, ""), done
        return json.loads(done.stdout)

    assert command("import", source, peer, "--verify")["verified"]["records"] == OBJECTS
    assert command("verify", peer)["sound"]
    assert command("export", peer, back, "--verify")["verified"]["records"] == OBJECTS
    assert command("pack", peer)["objects"] == len(reached(links()))
    assert command("verify", peer)["sound"]
