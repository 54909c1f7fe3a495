"""What the demo checks at the end: nothing lost, every BTree sound, every record what its hash says."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import BTrees.check
from ZODB.serialize import referencesf
from ZODB.utils import maxtid, z64

from .demo_catalog import REQUESTS, ask
from .demo_progress import Progress


class CheckFailed(Exception):
    """The demo found something wrong."""


def counted(db: Any, edits: int) -> None:
    """Each edit that was acknowledged is there, once."""
    with db.transaction() as conn:
        root = conn.root()
        found = {
            "length": root["edits"](),
            "counters": sum(root["counters"].values()),
            "journal": len(list(root["journal"].keys())),
            "editions": sum(document.edition for document in root["documents"].values()),
        }
    if set(found.values()) != {edits}:
        raise CheckFailed(f"{edits} edits were committed, the database has {found}")


def trees(db: Any, what: str) -> tuple[int, int]:
    """Follows every reference from the root and checks each BTree on the way; returns (objects, BTrees)."""
    storage, found, todo, checked = db.storage, {z64}, [z64], 0
    inner: set[bytes] = set()  # nodes below a tree's top: checked with it; _check() fails on them alone
    conn = db.open()
    try:
        with Progress(f"checking BTrees, {what}", len(storage)) as progress:
            while todo:
                oid = todo.pop()
                progress.advance()
                for ref in referencesf(storage.loadBefore(oid, maxtid)[0]):
                    if ref not in found:
                        found.add(ref)
                        todo.append(ref)
                obj = conn.get(oid)
                if not is_tree(obj):
                    continue
                inner |= children(obj)
                if oid not in inner:
                    obj._check()
                    BTrees.check.check(obj)
                    checked += 1
    finally:
        conn.close()
    return len(found), checked


def is_tree(obj: Any) -> bool:
    return type(obj).__module__.startswith("BTrees.") and type(obj).__name__.endswith(("BTree", "TreeSet"))


def children(tree: Any) -> set[bytes]:
    """The oids of a tree's children that are trees of its kind. They are reached through it only."""
    state = tree.__getstate__()
    if state is None or len(state) != 2:  # empty, or its one bucket is inside
        return set()
    return {child._p_oid for child in state[0][::2] if type(child) is type(tree)}


def same_answers(left: Any, right: Any) -> None:
    """Both databases answer every request alike."""
    for name, request in REQUESTS:
        if sorted(ask(left, request).found) != sorted(ask(right, request).found):
            raise CheckFailed(f"the request {name!r} is answered differently")


def verify(path: Path) -> dict[str, Any]:
    """Runs `zodb-dht verify`: every record read and hashed, the chain of transactions followed."""
    command = shutil.which("zodb-dht", path=str(Path(sys.executable).parent)) or shutil.which("zodb-dht")
    if command is None:
        raise CheckFailed("the command zodb-dht is not installed beside this Python")
    done = subprocess.run([command, "verify", str(path), "--json"], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise CheckFailed(f"zodb-dht verify ended with {done.returncode}: {done.stdout}{done.stderr}")
    report: dict[str, Any] = json.loads(done.stdout)
    return report
