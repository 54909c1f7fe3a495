"""Threads that write the same BTrees at once lose nothing, and conflicts are resolved from what the vote answers."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
import transaction
from BTrees.IOBTree import IOBTree
from BTrees.Length import Length
from BTrees.OOBTree import OOBTree
from transaction.interfaces import TransientError
from ZODB import DB
from ZODB.POSException import ConflictError
from ZODB.tests.ConflictResolution import PCounter
from ZODB.tests.StorageTestBase import zodb_pickle, zodb_unpickle
from ZODB.utils import z64
from zodb_dht import DHTStorage
from zodb_dht.errors import Busy

from .conftest import Opener
from .helpers import begun, commit

WRITERS, ROUNDS = 8, 25


def run(*targets: Callable[[], None]) -> None:
    """Run them at once; the first error of any."""
    errors: list[BaseException] = []

    def guarded(target: Callable[[], None]) -> None:
        try:
            target()
        except BaseException as e:
            errors.append(e)

    threads = [threading.Thread(target=guarded, args=(t,)) for t in targets]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
        assert not thread.is_alive()
    if errors:
        raise errors[0]


def test_writers_of_one_btree(storage: DHTStorage) -> None:
    db = DB(storage)
    with db.transaction() as connection:
        connection.root()["tree"] = IOBTree()
        connection.root()["length"] = Length()
    conflicts = [0] * WRITERS

    def writer(n: int) -> None:
        tm = transaction.TransactionManager()
        connection = db.open(tm)
        for i in range(ROUNDS):
            while True:
                try:
                    tm.begin()
                    connection.root()["tree"][n * ROUNDS + i] = (n, i)
                    connection.root()["length"].change(1)
                    tm.commit()
                    break
                except TransientError:
                    tm.abort()
                    conflicts[n] += 1
        connection.close()

    run(*(lambda n=n: writer(n) for n in range(WRITERS)))
    with db.transaction() as connection:
        tree = connection.root()["tree"]
        assert dict(tree) == {n * ROUNDS + i: (n, i) for n in range(WRITERS) for i in range(ROUNDS)}
        tree._check()
        assert connection.root()["length"]() == WRITERS * ROUNDS
    db.close()


def test_a_length_never_conflicts(storage: DHTStorage) -> None:
    """Nothing but resolvable conflicts: every commit succeeds at once, so the one round of resolution is enough."""
    db = DB(storage)
    with db.transaction() as connection:
        connection.root()["length"] = Length()
    start = threading.Barrier(WRITERS)

    def writer() -> None:
        tm = transaction.TransactionManager()
        connection = db.open(tm)
        length = connection.root()["length"]
        for _ in range(ROUNDS):
            start.wait(60)  # all have the same serial
            tm.begin()
            length.change(1)
            tm.commit()
        connection.close()

    run(*[writer] * WRITERS)
    with db.transaction() as connection:
        assert connection.root()["length"]() == WRITERS * ROUNDS
    db.close()


def test_a_resolved_object_is_reported_by_the_vote(storage: DHTStorage) -> None:
    counter = PCounter()
    counter.inc(1)
    oid, plain = storage.new_oid(), storage.new_oid()
    base = commit(storage, (oid, z64, zodb_pickle(counter)))
    counter.inc(2)
    commit(storage, (oid, base, zodb_pickle(counter)))
    counter.inc(5)
    txn = begun(storage, (oid, base, zodb_pickle(counter)), (plain, z64, b"x"))
    assert storage.tpc_vote(txn) == [oid]
    tid = storage.tpc_finish(txn)
    data, serial = storage.load(oid)
    assert serial == tid == storage.getTid(plain)
    assert zodb_unpickle(data)._value == 10  # 1, then +2 by one and +7 by the other


def test_a_read_that_must_stay_current_blocks_a_writer_until_the_end(storage: DHTStorage) -> None:
    oid = storage.new_oid()
    serial = commit(storage, (oid, z64, b"read"))
    reader = begun(storage, (storage.new_oid(), z64, b"x"))
    storage.checkCurrentSerialInTransaction(oid, serial, reader)
    storage.tpc_vote(reader)
    also = begun(storage, (storage.new_oid(), z64, b"y"))  # reads are shared
    storage.checkCurrentSerialInTransaction(oid, serial, also)
    storage.tpc_vote(also)
    tids: dict[str, bytes] = {}

    def write() -> None:
        tids["writer"] = commit(storage, (oid, serial, b"written"))

    thread = threading.Thread(target=write)
    thread.start()
    tids["reader"] = storage.tpc_finish(reader)
    assert storage.getTid(oid) == serial
    tids["also"] = storage.tpc_finish(also)
    thread.join(60)
    assert tids["writer"] > tids["reader"]
    assert tids["writer"] > tids["also"]


def test_a_vote_waits_no_longer_than_it_may(open_storage: Opener) -> None:
    storage = open_storage(vote_wait="100ms", lease="1m")
    oid = storage.new_oid()
    serial = commit(storage, (oid, z64, b"x"))
    holder = begun(storage, (oid, serial, b"held"))
    storage.tpc_vote(holder)
    with pytest.raises(Busy) as e:
        commit(storage, (oid, serial, b"waits"))
    assert isinstance(e.value, TransientError)
    tid = storage.tpc_finish(holder)
    with pytest.raises(ConflictError):
        commit(storage, (oid, serial, b"too late"))
    commit(storage, (oid, tid, b"after"))


def test_an_aborted_vote_lets_others_go_on(storage: DHTStorage) -> None:
    oid = storage.new_oid()
    serial = commit(storage, (oid, z64, b"x"))
    holder = begun(storage, (oid, serial, b"held"))
    storage.tpc_vote(holder)

    def waiter() -> None:
        commit(storage, (oid, serial, b"waited"))

    run(waiter, lambda: storage.tpc_abort(holder))
    assert storage.load(oid)[0] == b"waited"


def test_inserts_that_declare_their_path_conflict_with_a_split(storage: DHTStorage) -> None:
    """BTrees declare the inner nodes they passed (readCurrent): an insert into a bucket that moved away is refused."""
    db = DB(storage)
    with db.transaction() as connection:
        tree = connection.root()["tree"] = OOBTree()
        tree.update({f"{i:03}": i for i in range(30)})
    tm1, tm2 = transaction.TransactionManager(), transaction.TransactionManager()
    tree1, tree2 = db.open(tm1).root()["tree"], db.open(tm2).root()["tree"]
    tree1.update({f"{i:03}x": i for i in range(30)})  # splits
    tree2["015y"] = 1
    tm1.commit()
    with pytest.raises(ConflictError):
        tm2.commit()
    tm2.abort()
    tree2["015y"] = 1
    tm2.commit()
    tm1.begin()
    assert len(tree1) == 61
    tree1._check()
    db.close()


def test_other_resource_managers_are_aborted_when_the_vote_refuses(storage: DHTStorage) -> None:
    db = DB(storage)
    with db.transaction() as connection:
        connection.root()["n"] = 0
    tm = transaction.TransactionManager()
    root = db.open(tm).root()
    root["n"] = 1
    with db.transaction() as connection:
        connection.root()["n"] = 2
    tm.get().join(Mail())
    Mail.sent = Mail.aborted = 0
    with pytest.raises(ConflictError):
        tm.commit()
    assert (Mail.sent, Mail.aborted) == (0, 1)
    tm.abort()
    db.close()


class Mail:
    """A resource manager as those that send mail are: it can't take back what it did."""

    sent = aborted = 0

    def sortKey(self) -> str:
        return "~mail"

    def tpc_begin(self, txn: object) -> None: ...

    def commit(self, txn: object) -> None: ...

    def tpc_vote(self, txn: object) -> None: ...

    def tpc_finish(self, txn: object) -> None:
        Mail.sent += 1

    def tpc_abort(self, txn: object) -> None:
        Mail.aborted += 1

    def abort(self, txn: object) -> None: ...
