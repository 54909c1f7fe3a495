"""Pack: what is deleted, what readers of older snapshots get, and what stops it."""

from __future__ import annotations

import pickle
import random
import shutil
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import transaction
from BTrees.Length import Length
from persistent.mapping import PersistentMapping
from ZODB.DB import DB
from ZODB.POSException import ConflictError, POSKeyError, ReadConflictError, ReadOnlyError
from ZODB.serialize import referencesf
from ZODB.utils import z64
from zodb_dht import DHTStorage
from zodb_dht.errors import Corrupt, Failed, Packing, Usage

from .conftest import Opener
from .helpers import commit, new
from .test_damage import flip, places


class Site:
    """A database with connections of their own transactions."""

    def __init__(self, storage: DHTStorage) -> None:
        self.storage = storage
        self.db = DB(storage)

    def open(self) -> tuple[transaction.TransactionManager, Any]:
        manager = transaction.TransactionManager(explicit=True)
        return manager, self.db.open(manager)

    def commit(self, **items: Any) -> None:
        """Items of the root; None deletes."""
        with self.db.transaction() as conn:
            for name, value in items.items():
                if value is None:
                    del conn.root()[name]
                else:
                    conn.root()[name] = value


@pytest.fixture
def site(open_storage: Opener) -> Site:
    return Site(open_storage(pack_wait=0.1))


def in_thread(call: Any) -> Any:
    """The result of a call in another thread: its pins are waited for, unlike the caller's own."""
    result: list[Any] = []

    def run() -> None:
        try:
            result.append(call())
        except BaseException as error:
            result.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if isinstance(result[0], BaseException):
        raise result[0]
    return result[0]


def test_the_statistics_are_right_after_a_pack(site: Site) -> None:
    site.commit(kept=PersistentMapping(), gone=PersistentMapping(data="x" * 100_000))
    site.commit(gone=None)
    site.commit(kept=1)
    before = site.storage._stats()
    assert (len(site.storage), before["records"]) == (3, 6)
    site.db.pack()
    after = site.storage._stats()
    assert (len(site.storage), after["records"]) == (1, 1)
    assert after["data_size"] < before["data_size"] - 100_000
    assert [t.status for t in site.storage.iterator()] == ["p"]


def test_the_files_shrink(open_storage: Opener, tmp_path: Path) -> None:
    def size() -> int:  # of the tables; what the write-ahead log keeps for its next use is bounded
        return sum(f.stat().st_size for f in (tmp_path / "peer" / "db").glob("*.sst"))

    site = Site(open_storage())
    for n in range(40):
        site.commit(big=PersistentMapping(data=random.Random(n).randbytes(400_000)))
    site.db.close()
    assert size() > 10_000_000
    site = Site(open_storage())
    before = site.storage.getSize()
    site.db.pack()
    assert site.storage.getSize() < before / 2
    site.db.close()
    assert size() < 3_000_000


def test_a_pack_to_days_ago_deletes_nothing(site: Site) -> None:
    site.commit(a=PersistentMapping())
    site.commit(a=None)
    records = site.storage._stats()["records"]
    site.db.pack(days=1)
    assert site.storage._stats()["records"] == records


def test_a_pack_to_before_all_data_reads_nothing(site: Site) -> None:
    _, serial = site.storage.load(z64)
    commit(site.storage, (z64, serial, b"no pickle"))
    before = site.storage._stats()
    site.storage.pack(time.time() - 3600, referencesf)
    assert site.storage._stats() == before
    with pytest.raises(Failed, match="references"):
        site.storage.pack(time.time(), referencesf)


def test_a_pack_in_the_past_of_another_does_nothing(site: Site) -> None:
    site.commit(a=PersistentMapping())
    early = time.time()
    site.commit(a=1)
    site.db.pack()
    site.commit(a=2)
    records = site.storage._stats()["records"]
    site.db.pack(early)
    assert site.storage._stats()["records"] == records


def test_a_conflict_whose_base_was_packed_is_not_resolved_from_another_one(open_storage: Opener) -> None:
    storage = open_storage()
    oid = storage.new_oid()

    def store(serial: bytes, value: int) -> bytes:
        return commit(storage, (oid, serial, pickle.dumps(Length, 3) + pickle.dumps(value, 3)))

    base = store(z64, 1)
    left = store(base, 2)
    storage.pack(time.time(), None)
    changed = store(left, 5)
    with pytest.raises(ConflictError) as conflict:
        store(base, 10)
    assert conflict.value.serials == (changed, base)
    assert storage.load(oid)[0].endswith(pickle.dumps(5, 3))
    store(left, 10)
    assert storage.load(oid)[0].endswith(pickle.dumps(13, 3)[2:])


@pytest.mark.parametrize("gc", [False, True])
def test_pack_gc_is_the_default_of_gc(open_storage: Opener, gc: bool) -> None:
    site = Site(open_storage(pack_gc=gc))
    site.commit(a=PersistentMapping())
    site.commit(a=None)
    site.storage.pack(time.time(), referencesf)
    assert len(site.storage) == (1 if gc else 2)
    site.storage.pack(time.time(), referencesf, gc=True)  # garbage is collected at the same horizon, too
    assert len(site.storage) == 1


def test_a_second_pack_meanwhile_is_refused(site: Site) -> None:
    site.commit(a=1)

    def references(data: bytes) -> list[bytes]:
        with pytest.raises(Packing, match="already packing"):
            site.storage.pack(time.time(), referencesf)
        return referencesf(data)  # type: ignore[no-any-return]

    site.storage.pack(time.time(), references)


def test_an_interrupt_anywhere_in_a_pack_leaves_none_begun(site: Site) -> None:
    """As from a signal's handler: at each return of a call, of which a pack has as many as it has."""
    for at in range(1, 10_000):
        site.commit(x=at)
        left = at

        def interrupt(_frame: Any, event: str, _arg: Any) -> None:
            nonlocal left
            if event in ("return", "c_return"):
                left -= 1
                if not left:
                    raise KeyboardInterrupt

        try:
            sys.setprofile(interrupt)
            site.storage.pack(time.time(), referencesf)
        except KeyboardInterrupt:
            pass
        else:
            break
        finally:
            sys.setprofile(None)
        site.storage.pack(time.time(), referencesf)
    assert at > 10


def test_what_can_not_be_read_for_references_stops_a_pack(site: Site) -> None:
    site.commit(a=PersistentMapping())
    site.commit(a=None)
    early = time.time()
    oid, tid = new(site.storage, b"no pickle")  # after the pack's position: whatever it is, it counts as reachable
    before = site.storage._stats()
    with pytest.raises(Failed, match="references") as caught:
        site.db.pack(early)
    assert (caught.value.oid, caught.value.tid) == (oid, tid)
    assert site.storage._stats() == before
    site.storage.pack(time.time(), None, gc=False)
    assert site.storage.load(oid) == (b"no pickle", tid)


def test_without_a_root_nothing_is_garbage(open_storage: Opener) -> None:
    storage = open_storage()
    oid, _ = new(storage, b"x")
    with pytest.raises(POSKeyError):
        storage.pack(time.time(), referencesf)
    assert storage.load(oid)[0] == b"x"


def test_bad_arguments(site: Site, open_storage: Opener) -> None:
    site.commit(a=1)
    for moment in (float("nan"), 1e30, "now"):
        with pytest.raises(Usage):
            site.storage.pack(moment, referencesf)  # type: ignore[arg-type]
    with pytest.raises(Usage, match="8 bytes"):
        site.storage.pack(time.time(), lambda data: [b"short"])
    site.db.close()
    with pytest.raises(ReadOnlyError):
        open_storage(read_only=True).pack(time.time(), referencesf)


def test_a_snapshot_in_use_is_waited_for(open_storage: Opener) -> None:
    site = Site(open_storage(pack_wait=600))
    site.commit(a=PersistentMapping(v=1), b=PersistentMapping(v=1))
    manager, conn = site.open()
    manager.begin()
    root = conn.root()
    assert root["a"]["v"] == 1
    site.commit(b=None)
    phases: list[str] = []

    def pack() -> None:
        from zodb_dht import packing

        def progress(phase: str, done: int, total: int) -> None:
            phases.append(phase)
            if phase == "wait" and total and len(phases) < 1000:
                assert root["b"]["v"] == 1  # the pack waits: everything is there
                manager.abort()

        packing.pack(site.storage._peer.node, packing.tid_of(time.time()), referencesf, progress)

    in_thread(pack)
    assert "wait" in phases
    assert len(site.storage) == 2
    manager.begin()
    assert "b" not in conn.root()
    manager.abort()


def test_after_pack_wait_a_reader_gets_a_read_conflict(site: Site) -> None:
    site.commit(a=PersistentMapping(v=1), b=PersistentMapping(v=1), c=PersistentMapping(v=1))
    manager, conn = site.open()
    conn.cacheMinimize()  # it is the pool's, and made them
    manager.begin()
    root = conn.root()
    a, b, c = root["a"], root["b"], root["c"]
    site.commit(b=None)
    with site.db.transaction() as other:
        other.root()["a"]["v"] = 2
    in_thread(site.db.pack)
    with pytest.raises(ReadConflictError):
        a["v"]
    with pytest.raises(ReadConflictError):
        b["v"]
    assert c["v"] == 1
    root["again"] = b
    with pytest.raises(ConflictError):  # it would link what is gone
        manager.commit()
    manager.abort()
    manager.begin()
    assert conn.root()["a"]["v"] == 2
    assert "again" not in conn.root()
    manager.abort()


def test_a_pack_does_not_wait_for_its_own_thread(open_storage: Opener) -> None:
    site = Site(open_storage(pack_wait=3600))
    site.commit(a=PersistentMapping(v=1))
    manager, conn = site.open()
    manager.begin()
    assert conn.root()["a"]["v"] == 1
    site.commit(a=None)
    site.db.pack()
    assert len(site.storage) == 1
    manager.abort()


def test_a_pooled_connection_holds_no_pack_back(open_storage: Opener) -> None:
    site = Site(open_storage(pack_wait=3600))
    site.commit(a=PersistentMapping(v=1))
    in_thread(lambda: site.db.open(transaction.TransactionManager()).close())
    site.commit(a=None)
    site.db.pack()
    assert len(site.storage) == 1


def test_a_collected_object_is_not_in_the_cache(site: Site) -> None:
    site.commit(a=PersistentMapping(v=1))
    with site.db.transaction() as conn:
        oid = conn.root()["a"]._p_oid
    site.commit(a=None)
    view = site.storage.new_instance()
    view.poll_invalidations()
    view.load(oid)
    site.db.pack()
    view.poll_invalidations()
    with pytest.raises(POSKeyError):
        view.load(oid)


def test_history_and_records_behind_the_horizon_are_gone(site: Site) -> None:
    oids = [new(site.storage, b"first")[0]]
    site.commit(a=1)
    first = site.storage.load(oids[0])[1]
    second = commit(site.storage, (oids[0], first, b"second"))
    site.storage.pack(time.time(), None, gc=False)
    third = commit(site.storage, (oids[0], second, b"third"))
    assert [h["tid"] for h in site.storage.history(oids[0], 9)] == [third, second]
    with pytest.raises(POSKeyError):
        site.storage.loadSerial(oids[0], first)
    assert site.storage.loadBefore(oids[0], second) is None
    assert site.storage.loadBefore(oids[0], third) == (b"second", second, third)


def test_a_closed_storage_goes_on_with_a_sweep(open_storage: Opener) -> None:
    site = Site(open_storage())
    site.commit(a=PersistentMapping())
    site.commit(a=None)
    node = site.storage._peer.node
    assert node.pack_begin(site.storage.lastTransaction(), False, False)
    for _ in range(100):
        phase, *_rest = node.pack_step(b"")
        if phase == "log":
            break
    site.db.close()
    storage = open_storage()
    storage.pack(time.time(), referencesf, gc=False)  # joins what the open began
    stats = storage._stats()
    assert stats["records"] == stats["objects"]


def test_a_corrupt_record_stops_a_pack_and_nothing_is_deleted(open_storage: Opener, tmp_path: Path) -> None:
    site = Site(open_storage())
    for n in range(60):
        site.commit(**{f"o{n}": PersistentMapping(data=random.Random(n).randbytes(3000))})
    site.commit(o0=None)
    site.db.close()
    Site(open_storage()).db.close()  # replays the log, writes tables
    stopped = 0
    for n, (file, at) in enumerate(places(tmp_path / "peer", random.Random(30).randbytes(3000)[1000:1100])):
        shutil.copytree(tmp_path / "peer", tmp_path / f"copy{n}")
        flip(tmp_path / f"copy{n}" / file, at)
        try:
            storage = open_storage(f"copy{n}")
        except Corrupt:  # it is the log's copy, or lies in a block with the log: open says so
            continue
        before = storage._stats()
        try:
            storage.pack(time.time(), referencesf)
        except Corrupt as error:
            assert error.oid not in (None, z64) and error.tid is not None
            assert storage._stats() == before
            stopped += 1
    assert stopped, "no flip hit the record itself"


def test_an_iteration_that_a_pack_overtakes_passes_over_what_is_gone(site: Site) -> None:
    for n in range(3):
        site.commit(n=n)
    begun = [(transaction.tid, list(transaction)) for transaction in site.storage.iterator()]
    late = site.storage.iterator()
    first = next(late)
    site.storage.pack(time.time(), referencesf)
    assert [r.data_txn for _, records in begun for r in records] == [None] * 4
    assert list(first) == []
    left = [(t.tid, [(r.oid, r.data_txn) for r in t]) for t in late]
    assert [(tid, records) for tid, records in left if records] == [(begun[-1][0], [(z64, None)])]


def test_a_historical_connection_from_before_a_pack_is_told_of_it(site: Site) -> None:
    site.commit(kept=PersistentMapping(n=0))
    old = site.storage.lastTransaction()
    with site.db.transaction() as conn:
        conn.root()["kept"]["n"] = 1
    site.commit(new=PersistentMapping())
    newest = site.storage.lastTransaction()
    managers = [transaction.TransactionManager(), transaction.TransactionManager()]
    before, after = site.db.open(managers[0], at=old), site.db.open(managers[1], at=newest)
    kept = before.root()["kept"]
    site.storage.pack(time.time(), referencesf)
    with pytest.raises(ReadConflictError, match="packed to"):
        len(kept)
    assert after.root()["kept"]["n"] == 1
    for conn in before, after:
        conn.close()
