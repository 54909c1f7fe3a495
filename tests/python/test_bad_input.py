"""Input that can't be meant has its own clear error, and nothing is lost by it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from ZODB.Connection import TransactionMetaData
from ZODB.POSException import ConflictError, POSKeyError, ReadConflictError, ReadOnlyError, StorageTransactionError
from ZODB.utils import maxtid, p64, z64
from zodb_dht import DHTStorage
from zodb_dht.config import MB
from zodb_dht.errors import (
    Closed,
    InUse,
    NewerFormat,
    NotAPeerDirectory,
    PermissionDenied,
    TooLarge,
    Unsupported,
    Usage,
    WrongProcess,
    WrongType,
)

from .conftest import Opener
from .helpers import begun, commit, new

UNKNOWN = p64(1 << 40)


def holds(storage: DHTStorage, oid: bytes, data: bytes, tid: bytes) -> None:
    """The object is as it was, and the storage takes commits."""
    assert storage.load(oid) == (data, tid)
    commit(storage, (oid, tid, data + b"!"))
    assert storage.load(oid)[0] == data + b"!"


@pytest.mark.parametrize(
    "read",
    [
        lambda s: s.load(UNKNOWN),
        lambda s: s.loadBefore(UNKNOWN, maxtid),
        lambda s: s.loadBefore(UNKNOWN, z64),
        lambda s: s.loadSerial(UNKNOWN, p64(1)),
        lambda s: s.getTid(UNKNOWN),
        lambda s: s.history(UNKNOWN),
        lambda s: s.new_instance().load(UNKNOWN),
        lambda s: s.new_instance().loadBefore(UNKNOWN, maxtid),
    ],
)
def test_an_unknown_oid(storage: DHTStorage, read: Callable[[DHTStorage], Any]) -> None:
    oid, tid = new(storage)
    with pytest.raises(POSKeyError) as e:
        read(storage)
    assert e.value.args == (UNKNOWN,)
    holds(storage, oid, b"data", tid)


def test_a_serial_that_the_object_never_had(storage: DHTStorage) -> None:
    oid, tid = new(storage)
    with pytest.raises(POSKeyError):
        storage.loadSerial(oid, p64(1))
    with pytest.raises(ConflictError) as e:
        commit(storage, (oid, p64(1), b"other"))
    assert (e.value.oid, e.value.serials) == (oid, (tid, p64(1)))
    holds(storage, oid, b"data", tid)


def test_an_object_that_is_created_twice(storage: DHTStorage) -> None:
    oid, tid = new(storage)
    with pytest.raises(ConflictError) as e:
        commit(storage, (oid, z64, b"other"))
    assert (e.value.oid, e.value.serials) == (oid, (tid, z64))
    holds(storage, oid, b"data", tid)


def test_a_serial_of_an_object_that_does_not_exist(storage: DHTStorage) -> None:
    oid, tid = new(storage)
    with pytest.raises(ConflictError) as e:
        commit(storage, (UNKNOWN, p64(5), b"other"))
    assert (e.value.oid, e.value.serials) == (UNKNOWN, (z64, p64(5)))
    holds(storage, oid, b"data", tid)


def test_a_stale_read_says_which(storage: DHTStorage) -> None:
    oid, first = new(storage)
    second = commit(storage, (oid, first, b"second"))
    txn = begun(storage, (storage.new_oid(), z64, b"x"))
    storage.checkCurrentSerialInTransaction(oid, first, txn)
    with pytest.raises(ReadConflictError) as e:
        storage.tpc_vote(txn)
    assert (e.value.oid, e.value.serials) == (oid, (second, first))
    storage.tpc_abort(txn)
    holds(storage, oid, b"second", second)


@pytest.mark.parametrize(
    "call",
    [
        lambda s, t: s.store(p64(1), z64, b"x", "", t),
        lambda s, t: s.restore(p64(1), z64, b"x", "", None, t),
        lambda s, t: s.checkCurrentSerialInTransaction(p64(1), z64, t),
        lambda s, t: s.tpc_vote(t),
        lambda s, t: s.tpc_finish(t),
    ],
)
@pytest.mark.parametrize("of_a_view", [False, True])
def test_the_wrong_transaction(storage: DHTStorage, call: Callable[[Any, Any], Any], of_a_view: bool) -> None:
    oid, tid = new(storage)
    on = storage.new_instance() if of_a_view else storage
    right = begun(on)
    with pytest.raises(StorageTransactionError, match="not a transaction that tpc_begin was called with"):
        call(on, TransactionMetaData())
    on.tpc_abort(TransactionMetaData())
    on.store(oid, tid, b"right", "", right)
    on.tpc_vote(right)
    holds(storage, oid, b"right", on.tpc_finish(right))


def test_a_second_begin(storage: DHTStorage) -> None:
    oid = storage.new_oid()
    txn = begun(storage, (oid, z64, b"x"))
    with pytest.raises(StorageTransactionError, match="begun already"):
        storage.tpc_begin(txn)
    storage.tpc_vote(txn)
    with pytest.raises(StorageTransactionError, match="begun already"):
        storage.tpc_begin(txn)
    holds(storage, oid, b"x", storage.tpc_finish(txn))


@pytest.mark.parametrize(
    "call",
    [
        lambda s, t: s.store(p64(1), z64, b"x", "", t),
        lambda s, t: s.restore(p64(1), z64, b"x", "", None, t),
        lambda s, t: s.checkCurrentSerialInTransaction(p64(1), z64, t),
        lambda s, t: s.tpc_vote(t),
    ],
)
def test_what_is_too_late_after_the_vote(storage: DHTStorage, call: Callable[[Any, Any], Any]) -> None:
    oid = storage.new_oid()
    txn = begun(storage, (oid, z64, b"voted"))
    storage.tpc_vote(txn)
    with pytest.raises(StorageTransactionError, match="the transaction is voted"):
        call(storage, txn)
    holds(storage, oid, b"voted", storage.tpc_finish(txn))


def test_a_finish_without_a_vote(storage: DHTStorage) -> None:
    oid = storage.new_oid()
    txn = begun(storage, (oid, z64, b"x"))
    with pytest.raises(StorageTransactionError, match="not voted yet"):
        storage.tpc_finish(txn)
    storage.tpc_vote(txn)
    holds(storage, oid, b"x", storage.tpc_finish(txn))


def test_nothing_but_abort_is_legal_after_a_failed_vote(storage: DHTStorage) -> None:
    oid, tid = new(storage)
    txn = begun(storage, (oid, z64, b"twice"))
    with pytest.raises(ConflictError):
        storage.tpc_vote(txn)
    for call in (storage.tpc_vote, storage.tpc_finish):
        with pytest.raises(StorageTransactionError, match="abort it"):
            call(txn)
    storage.tpc_abort(txn)
    holds(storage, oid, b"data", tid)


@pytest.mark.parametrize("data", ["text", None, bytearray(b"x"), 5, memoryview(b"x")])
def test_data_that_is_not_bytes(storage: DHTStorage, data: Any) -> None:
    oid, tid = new(storage)
    txn = begun(storage)
    with pytest.raises(WrongType, match="not bytes") as e:
        storage.store(oid, tid, data, "", txn)
    assert isinstance(e.value, TypeError)
    assert e.value.oid == oid
    storage.store(oid, tid, b"bytes", "", txn)
    storage.tpc_vote(txn)
    holds(storage, oid, b"bytes", storage.tpc_finish(txn))


@pytest.mark.parametrize("oid", [b"", b"1234567", b"123456789", "12345678", 5, None])
def test_an_oid_that_has_not_eight_bytes(storage: DHTStorage, oid: Any) -> None:
    txn = begun(storage)
    with pytest.raises(Usage, match="an oid has 8 bytes"):
        storage.store(oid, z64, b"x", "", txn)
    with pytest.raises(Usage, match="an oid has 8 bytes"):
        storage.checkCurrentSerialInTransaction(oid, z64, txn)
    view = storage.new_instance()
    view.poll_invalidations()
    for load in (storage.load, storage.history, view.load):
        with pytest.raises((ValueError, TypeError)):
            load(oid)


@pytest.mark.parametrize("serial", [b"", b"123456789", "12345678", 5])
def test_a_serial_that_has_not_eight_bytes(storage: DHTStorage, serial: Any) -> None:
    oid, tid = new(storage)
    with pytest.raises(Usage, match="a serial has 8 bytes"):
        begun(storage, (oid, serial, b"x"))
    with pytest.raises(Usage, match="a serial has 8 bytes"):
        storage.tpc_begin(TransactionMetaData(), serial)
    with pytest.raises((ValueError, TypeError)):
        storage.loadSerial(oid, serial)
    with pytest.raises((ValueError, TypeError)):
        storage.loadBefore(oid, serial)
    holds(storage, oid, b"data", tid)


def test_a_version(storage: DHTStorage) -> None:
    oid, tid = new(storage)
    txn = begun(storage)
    with pytest.raises(Unsupported, match="versions"):
        storage.store(oid, tid, b"x", "a version", txn)
    with pytest.raises(Unsupported, match="versions"):
        storage.load(oid, "a version")


def test_an_object_over_the_limit(open_storage: Opener) -> None:
    storage = open_storage(max_object_size=MB)
    oid = storage.new_oid()
    txn = begun(storage)
    with pytest.raises(TooLarge, match=f"max-object-size is {MB}") as e:
        storage.store(oid, z64, b"x" * (MB + 1), "", txn)
    assert e.value.oid == oid
    storage.store(oid, z64, b"x" * MB, "", txn)
    storage.tpc_vote(txn)
    storage.tpc_finish(txn)
    assert storage.load(oid)[0] == b"x" * MB


def test_sixteen_megabytes_are_no_problem(storage: DHTStorage) -> None:
    data = os.urandom(16 * MB)
    oid, tid = new(storage, data)
    assert storage.load(oid) == (data, tid)


def test_a_path_that_is_a_file(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"mine")
    with pytest.raises(NotAPeerDirectory, match=str(file)):
        DHTStorage(file)
    with pytest.raises(NotAPeerDirectory, match=str(file)):
        DHTStorage(file / "below")
    assert file.read_bytes() == b"mine"


def test_a_directory_of_something_else(tmp_path: Path) -> None:
    (tmp_path / "precious").write_bytes(b"mine")
    with pytest.raises(NotAPeerDirectory, match=str(tmp_path)):
        DHTStorage(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["precious"]


def test_nothing_there_and_not_to_be_created(tmp_path: Path) -> None:
    with pytest.raises(NotAPeerDirectory, match="peer"):
        DHTStorage(tmp_path / "peer", create=False)
    assert not (tmp_path / "peer").exists()


def test_a_directory_of_a_newer_format(open_storage: Opener, tmp_path: Path) -> None:
    storage = open_storage()
    oid, tid = new(storage)
    storage.close()
    file = tmp_path / "peer" / "format"
    old = file.read_text()
    file.write_text(old.replace("format 1", "format 1000"))
    before = {p: p.read_bytes() for p in sorted((tmp_path / "peer").rglob("*")) if p.is_file()}
    with pytest.raises(NewerFormat, match="1000"):
        open_storage()
    after = {p: p.read_bytes() for p in sorted((tmp_path / "peer").rglob("*")) if p.is_file()}
    del before[tmp_path / "peer" / "lock"], after[tmp_path / "peer" / "lock"]
    assert after == before
    file.write_text(old)
    holds(open_storage(), oid, b"data", tid)


# Opens argv[1] and prints the class of the error and its text.
OPENER = """\
import os, sys
if os.geteuid() == 0 and "unprivileged" in sys.argv:
    import zodb_dht._core, zodb_dht.storage  # while they can be read
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
from zodb_dht import DHTStorage
try:
    DHTStorage(sys.argv[1])
except Exception as e:
    print(type(e).__name__, e)
else:
    print("opened")
"""


def open_elsewhere(path: Path, *args: str) -> str:
    """What another process gets that opens path."""
    done = subprocess.run(
        [sys.executable, "-c", OPENER, str(path), *args], check=True, capture_output=True, text=True, timeout=60
    )
    return done.stdout


@pytest.mark.parametrize("fresh", [False, True])
def test_missing_permission(fresh: bool, tmp_path: Path) -> None:
    above = Path("/tmp") / f"zodb_dht-permission-{os.getpid()}-{fresh}"  # all of its path must be open to others
    above.mkdir(mode=0o755)
    try:
        if not fresh:
            DHTStorage(above / "peer").close()
            (above / "peer").chmod(0o500)
        above.chmod(0o555)
        out = open_elsewhere(above / "peer", "unprivileged")
        assert out.startswith(PermissionDenied.__name__), out
        assert str(above / "peer") in out
    finally:
        above.chmod(0o755)
        if not fresh:
            (above / "peer").chmod(0o755)
        shutil.rmtree(above)


def test_read_only(open_storage: Opener) -> None:
    storage = open_storage()
    oid, tid = new(storage)
    storage.close()
    storage = open_storage(read_only=True)
    txn = TransactionMetaData()
    calls: list[Callable[[Any], Any]] = [
        lambda s: s.tpc_begin(txn),
        lambda s: s.store(oid, tid, b"x", "", txn),
        lambda s: s.restore(oid, tid, b"x", "", None, txn),
        lambda s: s.checkCurrentSerialInTransaction(oid, tid, txn),
        lambda s: s.tpc_vote(txn),
        lambda s: s.tpc_finish(txn),
        lambda s: s.new_oid(),
    ]
    for one in (storage, storage.new_instance()):
        for call in calls:
            with pytest.raises(ReadOnlyError):
                call(one)
        one.tpc_abort(txn)
        assert one.isReadOnly()
    with pytest.raises(ReadOnlyError):
        storage.copyTransactionsFrom(storage)
    assert storage.load(oid) == (b"data", tid)
    storage.close()
    holds(open_storage(), oid, b"data", tid)


def test_a_directory_in_use(storage: DHTStorage, open_storage: Opener, tmp_path: Path) -> None:
    oid, tid = new(storage)
    with pytest.raises(InUse, match=str(os.getpid())) as e:
        open_storage()
    assert e.value.pid == os.getpid()
    out = open_elsewhere(tmp_path / "peer")
    assert out.startswith("InUse")
    assert str(os.getpid()) in out
    holds(storage, oid, b"data", tid)
    storage.close()
    assert open_elsewhere(tmp_path / "peer") == "opened\n"
    assert open_storage().load(oid)[0] == b"data!"


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
