"""A connection sees one snapshot, and is told of exactly what changed since its last one."""

from __future__ import annotations

import random
import threading

import pytest
import transaction
from persistent.mapping import PersistentMapping
from ZODB import DB
from ZODB.POSException import POSKeyError, ReadConflictError
from ZODB.utils import maxtid, p64, u64, z64
from zodb_dht import DHTStorage

from .helpers import begun, commit, new


def test_a_snapshot_stays_until_the_next_poll(storage: DHTStorage) -> None:
    oid, first = new(storage, b"first")
    view = storage.new_instance()
    assert view.poll_invalidations() == []
    second = commit(storage, (oid, first, b"second"))
    other, _ = new(storage)
    assert view.load(oid) == (b"first", first)
    assert (view.loadBefore(oid, maxtid) or ())[:2] == (b"first", first)
    with pytest.raises(ReadConflictError):  # it exists, but not for this transaction: repeat
        view.load(other)
    assert sorted(view.poll_invalidations() or []) == sorted([oid, other])
    assert view.load(oid) == (b"second", second)
    assert view.load(other)[0] == b"data"


def test_a_view_that_never_polled_reads_history(storage: DHTStorage) -> None:
    oid, first = new(storage, b"first")
    view = storage.new_instance()
    second = commit(storage, (oid, first, b"second"))
    assert view.loadBefore(oid, second) == (b"first", first, second)
    assert view.loadBefore(oid, first) is None
    assert view.loadSerial(oid, second) == b"second"


def test_a_view_is_not_told_of_what_it_wrote_itself(storage: DHTStorage) -> None:
    mine, others = storage.new_instance(), storage.new_instance()
    mine.poll_invalidations()
    others.poll_invalidations()
    oid = storage.new_oid()
    tid = commit(mine, (oid, z64, b"mine"))
    assert mine.poll_invalidations() == []
    assert others.poll_invalidations() == [oid]
    assert mine.load(oid) == others.load(oid) == (b"mine", tid)
    assert mine.poll_invalidations() == others.poll_invalidations() == []


def test_a_view_is_told_when_another_wrote_after_it(storage: DHTStorage) -> None:
    mine = storage.new_instance()
    mine.poll_invalidations()
    oid, kept = storage.new_oid(), storage.new_oid()
    tid = commit(mine, (oid, z64, b"mine"), (kept, z64, b"kept"))
    commit(storage, (oid, tid, b"another's"))
    assert mine.poll_invalidations() == [oid]


def test_a_view_is_told_when_another_wrote_before_it(storage: DHTStorage) -> None:
    """The foreign commit lies between the snapshot and the own commit; its other object must not be forgotten."""
    oid, tid = new(storage)
    mine = storage.new_instance()
    mine.poll_invalidations()
    foreign, _ = new(storage, b"foreign")
    commit(mine, (oid, tid, b"mine"))
    assert mine.poll_invalidations() == [foreign]


def test_a_failed_commit_is_not_an_own_one(storage: DHTStorage) -> None:
    oid, tid = new(storage)
    mine = storage.new_instance()
    mine.poll_invalidations()
    txn = begun(mine, (oid, tid, b"never"))
    mine.tpc_vote(txn)
    mine.tpc_abort(txn)
    commit(storage, (oid, tid, b"another's"))
    assert mine.poll_invalidations() == [oid]


def test_invalidations_are_exact_for_random_histories(storage: DHTStorage) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    oids = [new(storage)[0] for _ in range(20)]
    views = [storage.new_instance() for _ in range(4)]
    for view in views:
        view.poll_invalidations()
    last: dict[bytes, tuple[int, bytes]] = {}  # who wrote an object last, and when
    polled = [storage.lastTransaction()] * len(views)
    for _ in range(500):
        who = rng.randrange(len(views))
        if rng.random() < 0.5:
            some = rng.sample(oids, rng.randrange(4))
            tid = commit(views[who], *((oid, storage.getTid(oid), rng.randbytes(9)) for oid in some))
            last.update((oid, (who, tid)) for oid in some)
        else:
            want = sorted(oid for oid, (writer, tid) in last.items() if tid > polled[who] and writer != who)
            assert sorted(views[who].poll_invalidations() or []) == want
            polled[who] = storage.lastTransaction()
            for oid in oids:
                assert views[who].load(oid) == storage.load(oid)


def test_no_tid_is_seen_before_its_callback_returns(storage: DHTStorage) -> None:
    oid, first = new(storage, b"first")
    voted = begun(storage, (oid, first, b"second"))
    storage.tpc_vote(voted)
    view = storage.new_instance()
    view.poll_invalidations()
    seen: dict[str, object] = {}
    waiting = threading.Event()

    def look() -> None:
        waiting.set()
        seen["last"] = storage.lastTransaction()
        seen["tid"] = storage.getTid(oid)

    looker = threading.Thread(target=look)

    def func(tid: bytes) -> None:
        looker.start()
        waiting.wait()
        seen["view"] = view.poll_invalidations(), view.load(oid)
        seen["callback"] = tid

    second = storage.tpc_finish(voted, func)
    looker.join()
    assert seen == {"last": second, "tid": second, "callback": second, "view": ([], (b"first", first))}
    assert view.poll_invalidations() == [oid]


def test_a_commit_behind_a_callback_returns_when_it_is_seen(storage: DHTStorage) -> None:
    held, mine = storage.new_oid(), storage.new_oid()
    voted, behind = begun(storage, (held, z64, b"held")), begun(storage, (mine, z64, b"mine"))
    storage.tpc_vote(voted)
    storage.tpc_vote(behind)
    view = storage.new_instance()
    view.poll_invalidations()
    seen: list[object] = []

    def finish() -> None:
        tid = storage.tpc_finish(behind)
        seen.extend([set(view.poll_invalidations() or ()), view.load(mine) == (b"mine", tid)])

    other = threading.Thread(target=finish)

    def func(tid: bytes) -> None:
        other.start()
        other.join(0.2)

    storage.tpc_finish(voted, func)
    other.join()
    assert seen == [{held, mine}, True]


def test_a_callback_may_commit(storage: DHTStorage) -> None:
    voted = begun(storage, (storage.new_oid(), z64, b"outer"))
    storage.tpc_vote(voted)
    oid, tids = storage.new_oid(), list[bytes]()

    def func(tid: bytes) -> None:
        tids.append(commit(storage, (oid, z64, b"inner")))
        assert storage.lastTransaction() < tid  # else the lease has ended

    assert storage.tpc_finish(voted, func) < tids[0] == storage.lastTransaction()
    assert storage.load(oid) == (b"inner", tids[0])


def test_an_error_in_the_callback_does_not_hide_the_commit(storage: DHTStorage) -> None:
    oid = storage.new_oid()
    txn = begun(storage, (oid, z64, b"x"))
    storage.tpc_vote(txn)

    def func(tid: bytes) -> None:
        raise RuntimeError("in the callback")

    with pytest.raises(RuntimeError, match="in the callback"):
        storage.tpc_finish(txn, func)
    storage.tpc_abort(txn)
    assert storage.load(oid)[0] == b"x"
    assert storage.lastTransaction() == storage.getTid(oid)
    new(storage)


def test_connections_see_each_other_at_transaction_boundaries(storage: DHTStorage) -> None:
    db = DB(storage)
    tm1, tm2 = transaction.TransactionManager(), transaction.TransactionManager()
    root1, root2 = db.open(tm1).root(), db.open(tm2).root()
    root1["a"] = PersistentMapping(n=1)
    tm1.commit()
    assert "a" not in root2
    tm2.begin()
    assert root2["a"]["n"] == 1
    root1["a"]["n"] = 2
    tm1.commit()
    assert root2["a"]["n"] == 1
    tm2.begin()
    assert root2["a"]["n"] == 2
    db.close()


def test_a_historical_connection_stays_where_it_is(storage: DHTStorage) -> None:
    db = DB(storage)
    with db.transaction() as connection:
        connection.root()["n"] = 1
    then = db.lastTransaction()
    with db.transaction() as connection:
        connection.root()["n"] = 2
        connection.root()["later"] = PersistentMapping()
    with db.transaction() as connection:
        later = connection.root()["later"]._p_oid
    tm = transaction.TransactionManager()
    old = db.open(tm, at=then)
    assert old.root()["n"] == 1
    with pytest.raises(POSKeyError):
        old.get(later)
    with db.transaction() as connection:
        connection.root()["n"] = 3
    tm.begin()
    assert old.root()["n"] == 1
    old.close()
    with pytest.raises(ValueError, match="future"):
        db.open(tm, at=p64(u64(db.lastTransaction()) + 10**10))
    db.close()


def test_prefetch_changes_nothing_but_speed(storage: DHTStorage) -> None:
    made = [new(storage, b"%d" % i) for i in range(50)]
    storage.prefetch((oid for oid, _ in made), maxtid)
    view = storage.new_instance()
    view.prefetch(oid for oid, _ in [*made, (p64(1 << 40), z64)])
    for i, (oid, tid) in enumerate(made):
        assert view.load(oid) == (b"%d" % i, tid)
    db = DB(storage)
    with db.transaction() as connection:
        connection.prefetch([oid for oid, _ in made])
    db.close()


def test_two_databases_on_one_peer(storage: DHTStorage) -> None:
    one, two = DB(storage), DB(storage.new_client())
    with one.transaction() as connection:
        connection.root()["x"] = 1
    with two.transaction() as connection:
        assert connection.root()["x"] == 1
    one.close()
    with two.transaction() as connection:
        connection.root()["x"] += 1
        assert connection.root()["x"] == 2
    two.close()
