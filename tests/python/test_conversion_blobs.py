"""import and export of a site with blobs: their files are copied, compared, and asked for where they are not said."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import transaction
from zc.lockfile import LockFile
from ZODB import DB
from ZODB.blob import Blob, is_blob_record
from ZODB.FileStorage import FileStorage
from zodb_dht import DHTStorage
from zodb_dht.places import open_place

from .test_conversion import run
from .zeo import client, server

Capture = pytest.CaptureFixture[str]
BLOBS = 6  # revisions with a file, that of the undo and of the blob that was never written to included


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A Data.fs with blobs beside it: several revisions of one, an undo, empty ones, one whose file was lost."""
    db = DB(FileStorage(str(tmp_path / "Data.fs"), blob_dir=str(tmp_path / "blobs")))
    for name, content in (("a", b"first"), ("a", b"second" * 9999), ("b", b""), ("c", b"other"), ("a", b"third")):
        with db.transaction(f"edit {name}") as connection:
            blob = connection.root().setdefault(name, Blob())
            with blob.open("w") as f:
                f.write(content)
    db.undo(db.undoInfo()[0]["id"], transaction.get())
    transaction.commit()
    with db.transaction() as connection:
        connection.root()["never written"] = Blob()
    with db.transaction() as connection:
        Path(connection.root()["c"].committed()).unlink()
    db.close()
    return tmp_path / "Data.fs"


@pytest.mark.parametrize("fetched_by_another", [False, True])
def test_what_a_killed_zeo_client_left_of_a_blob(
    tmp_path: Path, capsys: Capture, site: Path, fetched_by_another: bool
) -> None:
    """ZEO's client appends to it. One that lives holds a lock, and is waited for."""
    wanted = {key: data for key, data in contents(data_fs(site, tmp_path / "blobs")).items() if data is not None}
    section = f"<filestorage>\n  path {site}\n  blob-dir {tmp_path / 'blobs'}\n</filestorage>"
    cache = tmp_path / "cache"
    with server(tmp_path / "zeo", section) as address:
        fetching = client(address, blob_dir=str(cache))
        (oid, tid), data = max(wanted.items(), key=lambda item: len(item[1]))
        half = Path(
            fetching.fshelper.getPathForOID(oid, create=True), fetching.fshelper.getBlobFilename(oid, tid) + ".dl"
        )
        half.write_bytes(data[:400])
        lock = LockFile(str(half.parent / ".lock"))
        if not fetched_by_another:
            lock.close()
        with closing(fetching), closing(open_place(f"zeo://{address}?blob_dir={cache}")) as storage:
            assert half.exists() == fetched_by_another
            if fetched_by_another:
                half.rename(half.with_suffix(""))
                half.with_suffix("").write_bytes(data)
                lock.close()
            assert Path(storage.loadBlob(oid, tid)).read_bytes() == data


def contents(storage: Any) -> dict[tuple[bytes, bytes], bytes | None]:
    """By oid and tid of each blob's revision, what its file holds; None without one."""
    found: dict[tuple[bytes, bytes], bytes | None] = {}
    with closing(storage):
        for txn in storage.iterator():
            for record in txn:
                if is_blob_record(record.data):
                    try:
                        name = storage.loadBlob(record.oid, record.tid)
                    except KeyError:
                        found[record.oid, record.tid] = None
                    else:
                        found[record.oid, record.tid] = Path(name).read_bytes()
    return found


def data_fs(path: Path, blobs: Path) -> FileStorage:
    return FileStorage(str(path), read_only=True, blob_dir=str(blobs))


def test_blobs_go_there_and_back(site: Path, tmp_path: Path, capsys: Capture) -> None:
    blobs, peer, back = tmp_path / "blobs", tmp_path / "peer", tmp_path / "Back.fs"
    want = contents(data_fs(site, blobs))
    files = sum(content is not None for content in want.values())
    assert files == BLOBS and len(want) == BLOBS + 1
    code, document, err = run(capsys, "import", site, peer, "--blob-dir", blobs, "--verify", "--json")
    assert code == 0 and "1 revisions of blobs have no file" in err
    assert (document["copied"]["blobs"], document["copied"]["blobs_without_file"]) == (BLOBS, 1)
    assert document["verified"]["blobs"] == BLOBS
    assert contents(DHTStorage(peer)) == want == contents(data_fs(site, blobs))
    code, exported, _ = run(capsys, "export", peer, back, "--blob-dir", tmp_path / "back", "--verify", "--json")
    assert code == 0 and exported["verified"] == document["verified"]
    assert contents(data_fs(back, tmp_path / "back")) == want
    code, document, err = run(capsys, "import", site, peer, "--blob-dir", blobs, "--json")
    assert (code, err, document["copied"]["blobs"]) == (0, "", 0)


def _altered(name: Path) -> None:
    name.chmod(0o600)
    name.write_bytes(name.read_bytes()[:-1] + b"!")


@pytest.mark.parametrize("damage", [_altered, Path.unlink])
def test_verification_reads_the_files(
    damage: Callable[[Path], None], site: Path, tmp_path: Path, capsys: Capture
) -> None:
    blobs, other = tmp_path / "blobs", tmp_path / "other"
    shutil.copytree(blobs, other)
    assert run(capsys, "import", site, tmp_path / "peer", "--blob-dir", blobs)[0] == 0
    first = next(key for key, content in contents(data_fs(site, other)).items() if content == b"first")
    with closing(data_fs(site, other)) as storage:
        damage(Path(storage.loadBlob(*first)))
    code, out, err = run(capsys, "import", site, tmp_path / "peer", "--blob-dir", other, "--verify")
    assert (code, out) == (1, "") and "has another file" in err and first[1].hex() in err


def test_a_directory_that_was_not_named_is_asked_for(site: Path, tmp_path: Path, capsys: Capture) -> None:
    blobs, peer = tmp_path / "blobs", tmp_path / "peer"
    code, out, err = run(capsys, "import", site, peer)
    assert (code, out) == (2, "") and "--blob-dir" in err and "Data.fs" in err
    assert run(capsys, "import", site, peer, "--blob-dir", blobs)[0] == 0  # what was copied before it is no obstacle
    code, out, err = run(capsys, "export", peer, tmp_path / "Back.fs")
    assert (code, out) == (2, "") and "--blob-dir" in err and "Back.fs" in err
    code, _, err = run(capsys, "import", site, peer, "--blob-dir", tmp_path / "none")
    assert code == 2 and "no such directory" in err and not (tmp_path / "none").exists()
    code, _, err = run(capsys, "import", f"file://{site}", peer, "--blob-dir", blobs)
    assert code == 2 and "goes with a Data.fs" in err


def test_a_zconfig_file_says_where_its_blobs_are(site: Path, tmp_path: Path, capsys: Capture) -> None:
    conf, back = tmp_path / "zodb.conf", tmp_path / "back.conf"
    section = "<filestorage>\n  path {}\n  blob-dir {}\n</filestorage>\n"
    conf.write_text(section.format(site, tmp_path / "blobs"))
    back.write_text(section.format(tmp_path / "Back.fs", tmp_path / "back"))
    assert run(capsys, "import", conf, tmp_path / "peer", "--verify")[0] == 0
    assert run(capsys, "export", tmp_path / "peer", back, "--verify")[0] == 0
    assert contents(data_fs(tmp_path / "Back.fs", tmp_path / "back")) == contents(data_fs(site, tmp_path / "blobs"))


def test_a_marker_that_a_loss_of_power_emptied_is_written_again(site: Path, tmp_path: Path, capsys: Capture) -> None:
    blobs, peer, back = tmp_path / "blobs", tmp_path / "peer", tmp_path / "Back.fs"
    assert run(capsys, "import", site, peer, "--blob-dir", blobs)[0] == 0
    (tmp_path / "back" / "tmp").mkdir(parents=True)
    marker = tmp_path / "back" / ".layout"
    marker.touch()
    assert run(capsys, "export", peer, back, "--blob-dir", marker.parent, "--verify")[0] == 0
    assert marker.read_text() == "bushy"
