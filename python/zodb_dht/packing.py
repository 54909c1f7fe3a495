"""Pack: the core finds and deletes what is superseded; references are found here, by the caller's function.

ZODB's own function the core has, too: then only records that it does not know with certainty come here.

A pack goes in steps, so that it shows how far it is and can be interrupted between any two. An interrupted one has
either changed nothing, or the core goes on with what is left of it.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterable

from persistent.timestamp import TimeStamp
from ZODB.serialize import referencesf as _ZODBS
from ZODB.utils import oid_repr, tid_repr, z64

from .errors import Closed, Failed, Usage
from .native import Node

log = logging.getLogger("zodb_dht.pack")

References = Callable[[bytes], Iterable[bytes]]
"""ZODB.serialize.referencesf, or another function from a record's data to the oids in it."""
Progress = Callable[[str, int, int], object]
"""Called with the phase, and how much of it is done, and of how much."""


LAST_YEAR = 9916
"""The last whole one that a tid can hold; of later ones TimeStamp gives tids of the twentieth century."""


def tid_of(pack_time: float) -> bytes:
    """The last tid at a moment."""
    try:
        tid: bytes = TimeStamp(*time.gmtime(pack_time)[:5], pack_time % 60).raw()
    except (TypeError, ValueError, OverflowError) as error:
        raise Usage(f"pack: {pack_time!r} is no time to pack to: {error}") from None
    if tid == z64 or time.gmtime(pack_time).tm_year > LAST_YEAR:
        raise Usage(f"pack: {pack_time!r} is no time to pack to")
    return tid


def horizon(node: Node) -> bytes:
    """The tid that the database is packed to."""
    return bytes.fromhex(json.loads(node.stats())["horizon"].removeprefix("0x"))


def pack(node: Node, to: bytes, referencesf: References | None, progress: Progress | None = None) -> bool:
    """Pack to a tid; with referencesf, remove garbage, too. False if there was nothing to do."""
    begun: list[bool] = []  # what is begun is ended whatever comes, else nobody else could pack
    refs = b""
    try:
        # A signal's handler may raise between any two calls; within extend() there is no place for it.
        begun.extend(map(node.pack_begin, (to,), (referencesf is not None,), (referencesf is _ZODBS,)))
        if not begun[0]:
            log.info("nothing to pack: %s is not after the last pack, or before all data", tid_repr(to))
            return False
        while True:
            phase, done, total, finished, records = node.pack_step(refs)
            if progress is not None:
                progress(phase, done, total)
            if finished:
                return True
            refs = _references(records, referencesf) if referencesf is not None and records else b""
    finally:
        if begun and begun[0]:  # no call in front of the one that matters
            try:  # noqa: SIM105
                node.pack_end()
            except Closed:
                pass


def _references(records: list[tuple[bytes, bytes, bytes]], referencesf: References) -> bytes:
    oids: list[bytes] = []
    oid, tid = z64, z64
    try:
        for oid, tid, data in records:  # noqa: B007 - named by the error
            oids.extend(referencesf(data))
    except Exception as error:
        text = f"pack: the references of oid {oid_repr(oid)} at tid {tid_repr(tid)} can't be read: the pack stops"
        raise Failed(f"{text}: {type(error).__name__}: {error}", oid=oid, tid=tid) from error
    refs = b"".join(oids)
    if len(refs) != 8 * len(oids):
        raise Usage("pack: referencesf returned something else than oids of 8 bytes")
    return refs
