"""The edges of oids, tids, sizes and iterations, of both kinds of storage."""

from __future__ import annotations

import time
from pickle import dumps

import pytest
from ZODB.Connection import TransactionMetaData
from ZODB.POSException import ConflictError, POSKeyError
from ZODB.utils import maxtid, p64, u64, z64
from zodb_dht import DHTStorage
from zodb_dht.errors import Regressed, TooLarge, Usage

from .conftest import Opener
from .helpers import begun, commit, new

ONES = b"\xff" * 8
MAX_OID = p64(2**64 - 1 - 2**32)


@pytest.fixture(params=[False, True], ids=["native", "shared"])
def either(request: pytest.FixtureRequest, open_storage: Opener) -> DHTStorage:
    return open_storage(shared=request.param)


@pytest.mark.parametrize("oid", [z64, p64(2**63 - 1), p64(2**63), MAX_OID])
def test_the_smallest_and_the_largest_oids(oid: bytes, either: DHTStorage) -> None:
    first = commit(either, (oid, z64, b"one"))
    second = commit(either, (oid, first, b"two"))
    txn = begun(either, (oid, first, b"too late"))
    with pytest.raises(ConflictError):
        either.tpc_vote(txn)
    either.tpc_abort(txn)
    assert either.loadBefore(oid, maxtid) == (b"two", second, None)
    assert either.loadBefore(oid, second) == (b"one", first, second)
    assert [r.oid for t in either.iterator() for r in t] == [oid, oid]
    assert len(either) == 1


@pytest.mark.parametrize("oid", [p64(u64(MAX_OID) + 1), p64(2**64 - 2), ONES])
def test_an_oid_beyond_the_largest_is_refused_and_nothing_is_lost(oid: bytes, either: DHTStorage) -> None:
    other, tid = new(either)
    txn = begun(either, (oid, z64, b"data"))
    with pytest.raises(Usage, match="the largest is 0xfffffffeffffffff"):
        either.tpc_vote(txn)
    either.tpc_abort(txn)
    with pytest.raises(Usage, match="the largest is"):
        either._peer.node.restore(b"x" * 16, maxtid[:1] + z64[1:], " ", b"", b"", b"", [(oid, b"data")])
    with pytest.raises(POSKeyError):
        either.load(oid)
    assert either.load(other) == (b"data", tid)
    assert u64(new(either)[0]) == u64(other) + 1


def test_oids_end_with_an_error_and_are_never_given_twice(open_storage: Opener) -> None:
    storage = open_storage()
    commit(storage, (p64(u64(MAX_OID) - 500), z64, b"far"))
    storage.close()
    storage = open_storage()
    with pytest.raises(TooLarge, match="no oids are left"):
        storage.new_oid()
    commit(storage, (p64(7), z64, b"of its own choice"))


@pytest.mark.parametrize("tid", [maxtid, p64(2**63), ONES])
def test_a_tid_from_maxtid_on_is_refused(tid: bytes, either: DHTStorage) -> None:
    _, last = new(either)
    txn = TransactionMetaData()
    with pytest.raises(Usage):
        either.tpc_begin(txn, tid, " ")
    either.tpc_abort(txn)
    with pytest.raises((Usage, Regressed)):  # the core, which copies ask without a begin
        either._peer.node.restore(b"x" * 16, tid, " ", b"", b"", b"", [(p64(5), b"data")])
    assert either.lastTransaction() == last
    assert commit(either, (p64(6), z64, b"data")) > last


def test_commits_go_on_above_a_tid_of_the_far_future(either: DHTStorage) -> None:
    far = p64(u64(maxtid) - 3)
    txn = TransactionMetaData()
    either.tpc_begin(txn, far, " ")
    either.restore(p64(5), far, b"data", "", None, txn)
    either.tpc_vote(txn)
    assert either.tpc_finish(txn) == far
    assert commit(either, (p64(5), far, b"more")) == p64(u64(far) + 1)
    assert either.loadBefore(p64(5), maxtid) == (b"more", p64(u64(far) + 1), None)


def test_commits_go_on_while_the_clock_is_wrong(either: DHTStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    oid = either.new_oid()
    tid = z64
    for clock in (time.time(), -1.0, 0.0, -2.3e9, time.time() + 1e8, time.time()):
        monkeypatch.setattr(time, "time", lambda now=clock: now)
        before, tid = tid, commit(either, (oid, tid, b"%f" % clock))
        assert tid > before


def test_reads_at_the_edges_of_time(either: DHTStorage) -> None:
    oid, tid = new(either)
    assert either.loadBefore(oid, z64) is None
    assert either.loadBefore(oid, tid) is None
    for later in (p64(u64(tid) + 1), maxtid, p64(2**63), ONES):
        assert either.loadBefore(oid, later) == (b"data", tid, None)
    assert either.loadSerial(oid, tid) == b"data"
    for serial in (z64, p64(u64(tid) + 1), maxtid, ONES):
        with pytest.raises(POSKeyError):
            either.loadSerial(oid, serial)


def test_iteration_between_any_two_tids(either: DHTStorage) -> None:
    assert list(either.iterator()) == []
    tids = [new(either)[1] for _ in range(5)]

    def between(start: bytes | None, stop: bytes | None) -> list[bytes]:
        return [t.tid for t in either.iterator(start, stop)]

    for low, high in ((None, None), (z64, maxtid), (z64, ONES), (tids[0], tids[-1])):
        assert between(low, high) == tids
    assert between(tids[1], tids[3]) == tids[1:4]
    assert between(p64(u64(tids[1]) + 1), p64(u64(tids[3]) - 1)) == tids[2:3]
    assert between(tids[2], tids[2]) == [tids[2]]
    for low, high in ((None, z64), (maxtid, None), (ONES, ONES), (tids[3], tids[1]), (p64(u64(tids[-1]) + 1), None)):
        assert between(low, high) == []


def test_an_iteration_does_not_see_what_is_committed_after_its_call(either: DHTStorage) -> None:
    _, tid = new(either)
    iterator = either.iterator()
    new(either)
    assert [t.tid for t in iterator] == [tid]


def test_an_iteration_may_be_left_at_any_point(either: DHTStorage) -> None:
    for _ in range(5):
        new(either)
    iterator = either.iterator()
    first = next(iterator)
    (record,) = first
    iterator.close()
    assert [r.data for r in first] == [record.data] == [b"data"]
    assert list(iterator) == []


def test_counts_and_sizes(either: DHTStorage) -> None:
    assert (len(either), either.lastTransaction()) == (0, z64)
    oid, tid = new(either, b"x" * 100_000)
    commit(either, (oid, tid, b"y"))
    assert len(either) == 1 and either.getSize() > 0
    assert isinstance(either.sortKey(), str) and either.getName() in either.sortKey()


@pytest.mark.parametrize("field", ["user", "description", "extension"])
def test_metadata_that_a_data_fs_has_no_room_for_is_refused(field: str, either: DHTStorage) -> None:
    for size, fits in ((65_535, True), (65_536, False)):
        txn = TransactionMetaData()
        if field == "extension":
            txn.extension_bytes = dumps({"x": b"x" * (size - len(dumps({"x": b"x" * 60_000}, 3)) + 60_000)}, 3)
            assert len(txn.extension_bytes) == size
        else:
            setattr(txn, field, "x" * size)
        either.tpc_begin(txn)
        either.store(either.new_oid(), z64, b"data", "", txn)
        if fits:
            either.tpc_vote(txn)
            either.tpc_finish(txn)
            continue
        with pytest.raises(TooLarge, match=f"{field} has {size} bytes; the limit is 65535"):
            either.tpc_vote(txn)
        either.tpc_abort(txn)
