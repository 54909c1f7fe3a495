"""A path that can't be opened says why, and what is there stays as it was."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from zodb_dht import DHTStorage
from zodb_dht.errors import InUse, NewerFormat, NotAPeerDirectory, PermissionDenied

from .conftest import Opener
from .helpers import holds, new


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
