"""Blobs' files, raw."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

from ZODB.Connection import TransactionMetaData


def files(directory: str | Path) -> dict[str, bytes]:
    """The files below a blob directory, without the markers."""
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in Path(directory).rglob("*")
        if path.is_file() and not path.name.startswith(".")
    }


def handed(storage: Any, content: bytes) -> str:
    """A file as an application hands it over."""
    path = os.path.join(storage.temporaryDirectory(), f"handed-{os.urandom(4).hex()}")
    Path(path).write_bytes(content)
    return path


def store(storage: Any, oid: bytes, base: bytes, content: bytes) -> bytes:
    txn = TransactionMetaData()
    storage.tpc_begin(txn)
    storage.storeBlob(oid, base, b"record", handed(storage, content), "", txn)
    storage.tpc_vote(txn)
    tid = storage.tpc_finish(txn)
    assert isinstance(tid, bytes)
    return tid


def open_files() -> list[str]:
    """Where the kernel tells."""
    names = []
    for descriptor in os.listdir("/proc/self/fd") if os.path.isdir("/proc/self/fd") else []:
        with contextlib.suppress(FileNotFoundError):  # the listing's own
            names.append(os.readlink(f"/proc/self/fd/{descriptor}"))
    return names
