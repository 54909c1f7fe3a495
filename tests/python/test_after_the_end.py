"""What is left of a storage after close and in a forked child: a clear error from every call."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from ZODB.Connection import TransactionMetaData
from ZODB.utils import maxtid, p64, u64, z64
from zodb_dht import DHTStorage
from zodb_dht.errors import Closed, WrongProcess
from zodb_dht.iteration import TRANSACTIONS_AT_ONCE

from .conftest import Opener
from .helpers import begun, holds, new

CALLS: list[Callable[[Any], Any]] = [
    lambda s: s.load(z64),
    lambda s: s.loadBefore(z64, maxtid),
    lambda s: s.loadBefore(z64, p64(5)),
    lambda s: s.loadSerial(z64, p64(1)),
    lambda s: s.getTid(z64),
    lambda s: s.history(z64),
    lambda s: s.lastTransaction(),
    lambda s: s.getSize(),
    lambda s: len(s),
    lambda s: s.new_oid(),
    lambda s: s.tpc_begin(TransactionMetaData()),
    lambda s: s.new_instance(),
]
ROOT_CALLS: list[Callable[[Any], Any]] = [
    lambda s: s.iterator(),
    lambda s: s.copyTransactionsFrom(s),
    lambda s: s.prefetch([z64], maxtid),
    lambda s: s.outcome(b"t" * 16),
    lambda s: s.new_client(),
]
VIEW_CALLS: list[Callable[[Any], Any]] = [lambda s: s.poll_invalidations(), lambda s: s.prefetch([z64])]


def test_use_after_close(storage: DHTStorage) -> None:
    new(storage)
    polled, unpolled, released = storage.new_instance(), storage.new_instance(), storage.new_instance()
    polled.poll_invalidations()
    released.release()
    for call in CALLS[:-1] + VIEW_CALLS:
        with pytest.raises(Closed):
            call(released)
    voted = begun(storage, (storage.new_oid(), z64, b"x"))
    storage.tpc_vote(voted)
    storage.close()
    storage.close()
    for call in CALLS + ROOT_CALLS:
        with pytest.raises(Closed):
            call(storage)
    for view in (polled, unpolled):
        for call in CALLS + VIEW_CALLS:
            with pytest.raises(Closed):
                call(view)
    for late in (storage.tpc_finish, storage.tpc_vote, lambda txn: storage.store(z64, z64, b"x", "", txn)):
        with pytest.raises(Closed):  # its transactions went with it
            late(voted)
    storage.tpc_abort(voted)
    assert storage.getName()
    assert storage.sortKey()


def test_use_after_fork(storage: DHTStorage) -> None:
    oid, tid = new(storage)
    view = storage.new_instance()
    view.poll_invalidations()
    voted = begun(storage, (storage.new_oid(), z64, b"x"))
    storage.tpc_vote(voted)
    pid = os.fork()
    if pid == 0:
        wrong = 1
        try:
            calls: list[Callable[[], Any]] = [partial(call, one) for one in (storage, view) for call in CALLS[:9]]
            calls += [partial(storage.tpc_finish, voted), view.poll_invalidations, partial(view.load, oid)]
            refused = 0
            for call in calls:
                try:
                    call()
                except WrongProcess:
                    refused += 1
            wrong = len(calls) - refused
        finally:
            os._exit(min(wrong, 100))
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    storage.tpc_finish(voted)
    holds(storage, oid, b"data", tid)


def refused_in_a_child(*calls: Callable[[], Any]) -> None:
    """Each is WrongProcess there, and none waits for a thread that did not come along."""
    pid = os.fork()
    if pid == 0:
        signal.alarm(20)
        wrong = len(calls)
        try:
            for call in calls:
                try:
                    call()
                except WrongProcess:
                    wrong -= 1
        finally:
            os._exit(wrong)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0


def test_a_child_gets_no_oid_from_its_parents_range(storage: DHTStorage) -> None:
    first = storage.new_oid()
    view = storage.new_instance()
    refused_in_a_child(storage.new_oid, view.new_oid)
    with storage._peer._lock:  # a thread of the parent's that asks for oids, too
        refused_in_a_child(storage.new_oid)
    assert u64(storage.new_oid()) == u64(first) + 1


@pytest.mark.parametrize("shared", [False, True])
def test_a_fork_while_another_thread_finishes(open_storage: Opener, shared: bool) -> None:
    storage = open_storage(shared=shared)
    oid, tid = new(storage)
    other = begun(storage, (storage.new_oid(), z64, b"x"))
    mine = begun(storage, (storage.new_oid(), z64, b"y"))
    for txn in (other, mine):
        storage.tpc_vote(txn)
    announcing, go_on = threading.Event(), threading.Event()

    def callback(_: bytes) -> None:
        announcing.set()
        assert go_on.wait(60)

    thread = threading.Thread(target=storage.tpc_finish, args=(other, callback))
    thread.start()
    try:
        assert announcing.wait(60)
        refused_in_a_child(
            partial(storage.load, oid),
            storage.lastTransaction,
            storage.new_client,
            partial(storage.tpc_finish, mine, callback),
            storage.close,
        )
    finally:
        go_on.set()
        thread.join()
    storage.tpc_finish(mine)
    holds(storage, oid, b"data", tid)


def test_a_fork_while_an_iterator_reads_ahead(storage: DHTStorage) -> None:
    for _ in range(3 * TRANSACTIONS_AT_ONCE):
        new(storage)
    transactions = storage.iterator()
    assert len(list(next(transactions))) == 1

    def go_on() -> None:
        for txn in transactions:
            assert len(list(txn)) == 1

    refused_in_a_child(go_on)
    go_on()


AT_EXIT = """
import atexit
from zodb_dht import DHTStorage
from ZODB.DB import DB
from persistent.mapping import PersistentMapping

db = DB(DHTStorage("peer"))
with db.transaction() as connection:
    connection.root()["a"] = PersistentMapping()

def leave():
    with db.transaction() as connection:
        connection.root()["a"]["b"] = 1
    assert sum(1 for transaction in db.storage.iterator() for record in transaction) == 4
    db.pack()
    db.close()
    print("left")

atexit.register(leave)
"""


def test_all_works_while_the_interpreter_ends(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", AT_EXIT], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "left\n", "")
