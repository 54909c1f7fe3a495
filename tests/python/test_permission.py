"""What the operating system refuses is PermissionDenied, not damage, and nothing is lost by it."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from ZODB.Connection import TransactionMetaData
from ZODB.utils import p64, z64
from zodb_dht import DHTStorage

# As root, without root's right to pass over the permissions of files.
BOUND = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.geteuid() == 0 else []

TRIES = """
import os, sys
from zodb_dht import DHTStorage
from zodb_dht.errors import DHTError
from ZODB.Connection import TransactionMetaData
from ZODB.utils import p64, z64

def told(what):
    try:
        what()
    except Exception as e:  # a conflict, the second time
        return type(e).__name__
    return "done"

def load():
    storage.load(p64(1))

def blob():
    storage.openCommittedBlobFile(p64(2), storage.load(p64(2))[1]).close()

def commit():
    txn = TransactionMetaData()
    storage.tpc_begin(txn)
    try:
        name = os.path.join(storage.temporaryDirectory(), "new")
        with open(name, "wb") as f:
            f.write(b"new")
        storage.storeBlob(p64(3), z64, b"blob", name, "", txn)
        storage.tpc_vote(txn)
        storage.tpc_finish(txn)
    except BaseException:
        storage.tpc_abort(txn)
        raise

try:
    storage = DHTStorage(sys.argv[1])
except DHTError as e:
    print(type(e).__name__)
else:
    print(*(told(what) for what in (load, blob, commit)))
    storage.close()
"""


@pytest.fixture
def peer(tmp_path: Path) -> Path:
    """A peer with a record, and with a blob of another object."""
    storage = DHTStorage(tmp_path / "peer")
    txn = TransactionMetaData()
    storage.tpc_begin(txn)
    storage.store(p64(1), z64, b"data", "", txn)
    name = tmp_path / "new"
    name.write_bytes(b"content")
    storage.storeBlob(p64(2), z64, b"blob", str(name), "", txn)
    storage.tpc_vote(txn)
    storage.tpc_finish(txn)
    storage.close()
    return tmp_path / "peer"


def bound(*command: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run([*BOUND, sys.executable, *command], capture_output=True, text=True, check=False)
    except FileNotFoundError as e:
        pytest.skip(f"WAITING: root passes over permissions, and there is no setpriv: {e}")


@pytest.mark.parametrize(
    ("name", "mode", "want"),
    [
        (".", 0, "PermissionDenied"),
        ("format", 0, "PermissionDenied"),
        ("lock", 0o400, "PermissionDenied"),
        ("db", 0, "PermissionDenied"),
        ("db/mark", 0, "PermissionDenied"),
        ("db/mark", 0o400, "PermissionDenied"),
        ("blobs", 0, "PermissionDenied"),
        ("blobs/.zodb_dht", 0, "PermissionDenied"),
        ("blobs/tmp", 0o500, "done done PermissionError"),
        ("blobs/staged", 0o500, "done done PermissionDenied"),
        ("blobs/0x00", 0, "done PermissionDenied PermissionDenied"),
        ("blobs/0x00/0x00/0x00/0x00/0x00/0x00/0x00/0x02/*.blob", 0, "done PermissionError done"),
    ],
)
def test_a_missing_permission_is_told_and_loses_nothing(peer: Path, name: str, mode: int, want: str) -> None:
    (path,) = peer.glob(name) if "*" in name else [peer / name]
    before = path.stat().st_mode
    path.chmod(mode)
    try:
        done = bound("-c", TRIES, str(peer))
        assert (done.stdout.strip(), done.returncode) == (want, 0), done
        if name.startswith("blobs/0x00"):
            verified = bound("-m", "zodb_dht.cli", "verify", str(peer))
            assert verified.returncode == 1, "no damage: " + verified.stderr
            assert "permission denied" in verified.stderr
    finally:
        path.chmod(before)
    done = bound("-c", TRIES, str(peer))
    assert (done.stdout.split()[:2], done.returncode) == (["done", "done"], 0), done
    assert bound("-m", "zodb_dht.cli", "verify", str(peer)).returncode == 0


READS = """
import sys
from collections.abc import Iterator
from zodb_dht import DHTStorage
from ZODB.utils import p64

storages = [DHTStorage(sys.argv[1], read_only=True) for _ in range(2)]
for storage in storages:
    print(storage.load(p64(1))[0].decode())
    with storage.openCommittedBlobFile(p64(2), storage.load(p64(2))[1]) as f:
        print(f.read().decode())
    storage._stats()
    print(len(list(storage.iterator())))
for storage in storages:
    storage.close()
"""

KILLED = """
import os, sys
from zodb_dht import DHTStorage
from ZODB.Connection import TransactionMetaData
from ZODB.utils import p64, z64

storage, txn = DHTStorage(sys.argv[1]), TransactionMetaData()
storage.tpc_begin(txn)
storage.store(p64(4), z64, b"data", "", txn)
storage.tpc_vote(txn)
storage.tpc_finish(txn)
os._exit(0)
"""


@contextlib.contextmanager
def frozen(peer: Path) -> Iterator[None]:
    """Nothing below peer may be written, and nothing is."""
    paths = [peer, *peer.rglob("*")]
    modes = {path: path.stat().st_mode for path in paths}

    def state() -> dict[Path, tuple[int, bytes]]:
        found = [peer, *peer.rglob("*")]
        return {p: (p.stat().st_mtime_ns, b"" if p.is_dir() else p.read_bytes()) for p in found}

    before = state()
    for path in paths:
        path.chmod(modes[path] & ~0o222)
    try:
        yield
        assert state() == before
    finally:
        for path, mode in modes.items():
            path.chmod(mode)


def test_a_directory_that_can_not_be_written_is_read(peer: Path) -> None:
    (peer / "blobs" / "tmp" / "left").write_bytes(b"by an application")
    with frozen(peer):
        done = bound("-c", READS, str(peer))
        assert (done.stdout.split(), done.returncode) == (["data", "content", "1"] * 2, 0), done
        for command in (["status"], ["verify"], ["dump", "1"], ["history", "1"]):
            done = bound("-m", "zodb_dht.cli", command[0], str(peer), *command[1:])
            assert done.returncode == 0, done
        assert bound("-c", TRIES, str(peer)).stdout.strip() == "PermissionDenied"
    assert bound("-c", TRIES, str(peer)).stdout.strip() == "done done done"


def test_a_new_directory_that_can_not_be_written_is_read(tmp_path: Path) -> None:
    DHTStorage(tmp_path / "peer").close()
    with frozen(tmp_path / "peer"):
        done = bound("-m", "zodb_dht.cli", "status", str(tmp_path / "peer"))
        assert done.returncode == 0, done


def test_a_killed_directory_that_can_not_be_written_says_so(peer: Path) -> None:
    subprocess.run([sys.executable, "-c", KILLED, str(peer)], check=True)
    with frozen(peer):
        for command in (["status"], ["verify"], ["dump", "1"]):
            done = bound("-m", "zodb_dht.cli", command[0], str(peer), *command[1:])
            assert done.returncode == 1, done
            assert "was not closed in order" in done.stderr
