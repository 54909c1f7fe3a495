"""What is left of a storage after close and in a forked child: a clear error from every call."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from ZODB.Connection import TransactionMetaData
from ZODB.POSException import StorageTransactionError
from ZODB.utils import maxtid, p64, z64
from zodb_dht import DHTStorage
from zodb_dht.errors import Closed, WrongProcess

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
    with pytest.raises(StorageTransactionError):  # its transactions went with it
        storage.tpc_finish(voted)
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
