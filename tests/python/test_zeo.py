"""A real ZEO server on the shared mode, and real clients of it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from BTrees.Length import Length
from persistent.mapping import PersistentMapping
from transaction import TransactionManager
from ZEO.ClientStorage import ClientStorage
from ZEO.Exceptions import ServerException
from ZODB import DB
from ZODB.Connection import TransactionMetaData
from ZODB.POSException import ConflictError
from ZODB.utils import maxtid
from zodb_dht import DHTStorage

from .helpers import commit, new
from .zeo import client, server

SECTION = """
<dhtstorage 1>
  path {path}
  shared true
</dhtstorage>
"""


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    with server(tmp_path / "zeo", SECTION.format(path=tmp_path / "peer")) as address:
        yield address


def changed(storage: ClientStorage, oid: bytes, tid: bytes) -> tuple[bytes, bytes]:
    """What a client has of oid once it has heard of tid."""
    heard = threading.Event()

    class Wrapper:
        def invalidate(self, told: bytes, oids: list[bytes]) -> None:
            if told >= tid:
                heard.set()

        invalidateCache = heard.set
        transform_record_data = untransform_record_data = staticmethod(bytes)

    storage.registerDB(Wrapper())
    if storage.lastTransaction() < tid:
        assert heard.wait(30), "the client never heard of the transaction"
    found = storage.loadBefore(oid, maxtid)
    assert found is not None
    return found[:2]


def test_several_clients_write_and_hear_of_each_other(address: str) -> None:
    clients = [client(address) for _ in range(3)]
    oid, tid = new(clients[0], b"zero")
    for n in range(9):
        writer, reader = clients[n % 3], clients[(n + 1) % 3]
        assert changed(writer, oid, tid)[1] == tid
        tid = commit(writer, (oid, tid, b"%d" % n))
        assert changed(reader, oid, tid) == (b"%d" % n, tid)
    for one in clients:
        one.close()


def test_conflicts_and_their_resolution(address: str) -> None:
    dbs = [DB(client(address, server_sync=True)) for _ in range(2)]
    a, b = (db.open(TransactionManager()) for db in dbs)
    a.root()["length"], a.root()["plain"] = Length(), PersistentMapping()
    a.transaction_manager.commit()
    b.transaction_manager.begin()
    b.sync()
    for connection in (a, b):
        connection.root()["length"].change(1)
    a.transaction_manager.commit()
    b.transaction_manager.commit()
    a.sync()
    assert a.root()["length"]() == 2
    a.root()["plain"]["n"] = 1
    b.sync()
    b.root()["plain"]["n"] = 2
    a.transaction_manager.commit()
    with pytest.raises(ConflictError):
        b.transaction_manager.commit()
    b.transaction_manager.abort()
    for connection, db in ((a, dbs[0]), (b, dbs[1])):
        connection.close()
        db.close()


def test_threads_of_several_clients_lose_no_increment(address: str) -> None:
    dbs = [DB(client(address, server_sync=True)) for _ in range(3)]
    with dbs[0].transaction() as connection:
        connection.root()["n"] = Length()
    failures: list[BaseException] = []

    def work(db: DB) -> None:
        try:
            for _ in range(20):
                manager = TransactionManager()
                connection = db.open(manager)
                for attempt in manager.attempts(100):
                    with attempt:
                        connection.root()["n"].change(1)
                connection.close()
        except BaseException as e:
            failures.append(e)

    threads = [threading.Thread(target=work, args=(db,)) for db in dbs for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    with dbs[1].transaction() as connection:
        connection.sync()
        assert connection.root()["n"]() == 120
    for db in dbs:
        db.close()


def test_a_client_with_a_cache_file_catches_up_after_a_restart(tmp_path: Path) -> None:
    section = SECTION.format(path=tmp_path / "peer")
    options = {"client": "kept", "var": str(tmp_path)}
    with server(tmp_path / "zeo", section) as address:
        storage = client(address, **options)
        oid, tid = new(storage, b"one")
        other, kept = new(storage, b"kept")
        assert storage.loadBefore(oid, maxtid) == (b"one", tid, None)
        storage.close()
        second = client(address)
        tid = commit(second, (oid, tid, b"two"))
        second.close()
    with server(tmp_path / "zeo", section) as address:  # its list of invalidations is lastInvalidations
        storage = client(address, **options)
        assert storage.loadBefore(oid, maxtid) == (b"two", tid, None)
        assert storage.loadBefore(other, maxtid) == (b"kept", kept, None)
        assert storage.lastTransaction() == tid
        storage.close()
    with closing(DHTStorage(tmp_path / "peer")) as peer:
        assert peer.load(oid) == (b"two", tid)


def test_iteration_and_history_go_through(address: str) -> None:
    storage = client(address)
    oid, first = new(storage, b"one")
    second = commit(storage, (oid, first, b"two"), user="ada", description="an edit")
    assert [t.tid for t in storage.iterator()] == [first, second]
    assert [(r.oid, r.data) for t in storage.iterator(second) for r in t] == [(oid, b"two")]
    newest, oldest = storage.history(oid, 10)
    assert (newest["tid"], newest["user_name"], newest["description"]) == (second, b"ada", b"an edit")
    assert oldest["tid"] == first
    assert storage.loadSerial(oid, first) == b"one"
    storage.close()


def test_a_walk_over_the_current_records_meets_commits(address: str) -> None:
    with closing(client(address)) as storage:
        made = [new(storage, b"%d" % n) for n in range(30)]
        got, following = [], None
        while True:
            oid, _, data, following = storage.record_iternext(following)
            got.append((oid, data))
            if following is None:
                break
            assert type(following) is bytes
            if len(got) == 10:
                commit(storage, (*made[10], b"before its turn"))
        assert got == [(oid, b"before its turn" if n == 10 else b"%d" % n) for n, (oid, _) in enumerate(made)]


def test_an_error_of_the_server_keeps_its_text(address: str) -> None:
    with closing(client(address)) as storage:
        transaction = TransactionMetaData(user="u" * 70000)
        storage.tpc_begin(transaction)
        with pytest.raises(ServerException, match="the transaction's user has 70000 bytes; the limit is 65535"):
            storage.tpc_vote(transaction)
        storage.tpc_abort(transaction)
