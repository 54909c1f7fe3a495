"""The core's own referencesf finds what ZODB's finds, or says that it does not know."""

from __future__ import annotations

import io
import random
import shutil
import subprocess
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import transaction
from BTrees.OOBTree import OOBTree
from persistent import Persistent
from persistent.mapping import PersistentMapping
from persistent.wref import WeakRef
from ZODB.Connection import TransactionMetaData
from ZODB.DB import DB
from ZODB.MappingStorage import MappingStorage
from ZODB.serialize import referencesf
from ZODB.utils import p64, z64
from zodbpickle import binary
from zodbpickle.pickle import Pickler

from .conftest import Opener

Scan = Callable[[list[bytes]], list["list[bytes] | None"]]
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> Scan:
    go = shutil.which("go")
    if go is None:
        pytest.skip("go is not installed: it builds the scanner alone")
    command = str(tmp_path_factory.mktemp("references") / "references")
    subprocess.run([go, "build", "-o", command, "./tests/references"], cwd=ROOT, check=True)

    def run(records: list[bytes]) -> list[list[bytes] | None]:
        lines = "".join(f"{record.hex()}\n" for record in records)
        done = subprocess.run([command], input=lines, capture_output=True, text=True, check=True)
        found = done.stdout.split("\n")[:-1]
        assert len(found) == len(records)
        return [None if line == "?" else list(map(bytes.fromhex, textwrap.wrap(line, 16))) for line in found]

    return run


def expected(record: bytes) -> list[bytes] | None:
    """What Python finds; None where it raises, or yields what is no oid."""
    try:
        oids: list[bytes] = referencesf(record)
    except Exception:
        return None
    return oids if all(len(oid) == 8 for oid in oids) else None


class Thing(Persistent):
    pass


class Reference:
    """Pickled as a persistent reference of any form."""

    def __init__(self, form: Any) -> None:
        self.form = form


class State:
    """An instance that is not persistent."""


class Numbers(list):  # type: ignore[type-arg]
    pass


def draw_value(draw: random.Random, depth: int) -> Any:
    """Anything that applications keep, with references of every form."""
    oid = binary(draw.randbytes(8) if draw.random() < 0.5 else p64(draw.randrange(1 << 20)))
    leaves: list[Callable[[], Any]] = [
        lambda: None,
        lambda: True,
        lambda: draw.randrange(-(1 << 70), 1 << 70),
        lambda: draw.randrange(300),
        lambda: draw.random(),
        lambda: "text" * draw.randrange(90),
        lambda: "ä€" * draw.randrange(90),
        lambda: b"\xff" * draw.randrange(300),
        lambda: Thing,
        lambda: 1 + 2j,
        lambda: Reference(oid),
        lambda: Reference((oid, Thing)),
        lambda: Reference((oid, None)),
        lambda: Reference([oid]),
        lambda: Reference(["w", (oid,)]),
        lambda: Reference(["w", (oid, "other")]),
        lambda: Reference(["n", ("other", oid)]),
        lambda: Reference(["m", ("other", oid, Thing)]),
        lambda: Reference("ascii678"),
        lambda: Reference(("ascii678", Thing)),
        lambda: Reference(draw.choice(["short", "äbcdefgh", b"9 bytes__", 7, (), {}, ([oid],), None])),
    ]
    if depth == 0 or draw.random() < 0.3:
        return draw.choice(leaves[:-1] if draw.random() < 0.97 else leaves)()
    some = [draw_value(draw, depth - 1) for _ in range(draw.randrange(5))]
    some += some[:1]  # from the memo
    keys = [key for key in some if not isinstance(key, (list, dict, set)) and hashable(key)]
    thing, numbers = State(), Numbers(some)
    thing.__dict__.update({"a": some, "b": 1})
    return draw.choice(
        [some, tuple(some), dict.fromkeys(keys, some), {"k": some}, thing, numbers, set(keys), frozenset(keys)]
    )


def hashable(value: Any) -> bool:
    try:
        hash(value)
    except TypeError:
        return False
    return True


def record(draw: random.Random, protocol: int) -> bytes:
    out = io.BytesIO()
    pickler = Pickler(out, protocol)
    pickler.persistent_id = lambda value: value.form if isinstance(value, Reference) else None
    pickler.dump(draw.choice([Thing, (Thing, (1, "x")), (("m", "C"), None), (Reference((b"8 bytes.", Thing)), None)]))
    pickler.dump(draw_value(draw, 4))
    return out.getvalue()


@pytest.mark.parametrize("protocol", [0, 1, 2, 3])
def test_drawn_records(scan: Scan, protocol: int) -> None:
    draw = random.Random(protocol)
    records = [record(draw, protocol) for _ in range(3000)]
    known = 0
    for data, got in zip(records, scan(records), strict=True):
        want = expected(data)
        assert got is None or got == want, data
        known += got is not None and want is not None
    assert known > (2000 if protocol == 3 else 500 if protocol else -1)


@pytest.mark.parametrize("protocol", [1, 3])
def test_damaged_records(scan: Scan, protocol: int) -> None:
    draw = random.Random(protocol)
    records = []
    for _ in range(15_000):
        data = bytearray(record(draw, protocol))
        for _ in range(draw.randrange(1, 4)):
            at = draw.randrange(len(data))
            if draw.random() < 0.5:
                data[at] = draw.choice(b"(.012GJKMNQRTUXBCabcd}ehjl]qrst)u\x80\x81\x85\x86\x87\x88\x89\x8a\x8b\x00\x08")
            else:
                data[at : at + draw.randrange(3)] = draw.randbytes(draw.randrange(3))
        records.append(bytes(data))
    for data, got in zip(records, scan(records), strict=True):
        assert got is None or got == expected(data), data


def test_what_zodb_writes_is_known(scan: Scan) -> None:
    """Every record of a database, whatever its objects are: were they not known, a pack would be slow."""
    storage = MappingStorage()
    db = DB(storage)
    other = DB(MappingStorage(), database_name="other", databases=db.databases)
    conn = db.open()
    root = conn.root()
    root["tree"] = tree = OOBTree({f"key {n}": Thing() for n in range(500)})
    root["ä"] = PersistentMapping({1: tree, (1, "x"): [tree, {2: tree}], "b": b"\xff" * 300, "weak": WeakRef(tree)})
    conn.get_connection("other").root()["there"] = there = PersistentMapping()
    conn.get_connection("other").add(there)
    root["other"] = there
    transaction.commit()
    records = [item.data for txn in storage.iterator() for item in txn]
    conn.close()
    other.close()
    db.close()
    assert len(records) > 500
    assert scan(records) == [referencesf(data) for data in records]


def test_a_pack_asks_python_only_where_it_must(open_storage: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bytes] = []

    def counting(data: bytes) -> list[bytes]:
        asked.append(data)
        oids: list[bytes] = referencesf(data)
        return oids

    monkeypatch.setattr("zodb_dht.packing._ZODBS", counting)  # else every record would be asked for
    storage = open_storage()
    db = DB(storage)
    with db.transaction() as conn:
        conn.root()["kept"] = kept = PersistentMapping(inner=PersistentMapping())
        conn.root()["gone"] = PersistentMapping(inner=PersistentMapping())
    with db.transaction() as conn:
        del conn.root()["gone"]
    storage.pack(time.time(), counting)
    assert (asked, len(storage)) == ([], 3)

    out = io.BytesIO()
    Pickler(out, 0).dump(PersistentMapping)  # a protocol that the core does not read
    pickler = Pickler(out, 3)
    pickler.persistent_id = lambda value: value.form if isinstance(value, Reference) else None
    pickler.dump({"data": {"kept": Reference(binary(kept._p_oid))}})
    txn = TransactionMetaData()
    storage.tpc_begin(txn)
    storage.store(z64, storage.load(z64)[1], out.getvalue(), "", txn)
    storage.tpc_vote(txn)
    storage.tpc_finish(txn)
    storage.pack(time.time(), counting)
    assert (asked, len(storage)) == ([out.getvalue()], 3)
    db.close()
