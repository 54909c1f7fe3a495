"""import and export from and to a RelStorage that keeps no history: repeated, verified, refused where they must be."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from persistent.mapping import PersistentMapping
from ZODB import DB
from ZODB.blob import Blob
from ZODB.Connection import TransactionMetaData
from zodb_dht import DHTStorage
from zodb_dht.places import open_place

from .test_conversion import run

Edit = Callable[[Any], None]


def relstorage(directory: Path) -> Path:
    """A configuration of one."""
    conf = directory.with_suffix(".conf")
    conf.write_text(
        f"%import relstorage\n<relstorage>\nkeep-history false\nblob-dir {directory}-blobs\nshared-blob-dir true\n"
        f"<sqlite3>\ndata-dir {directory}\n</sqlite3>\n</relstorage>\n"
    )
    return conf


def edit(place: Path | str, *edits: Edit) -> None:
    """A transaction on the root for each."""
    db = DB(DHTStorage(place) if isinstance(place, Path) and place.is_dir() else open_place(str(place), write=True))
    for one in edits:
        with db.transaction() as connection:
            one(connection.root())
    db.close()


def begin(root: Any) -> None:
    root["pages"] = PersistentMapping({n: PersistentMapping(n=n) for n in range(30)})
    root["file"] = Blob(b"first")


def page(n: int, value: object) -> Edit:
    def change(root: Any) -> None:
        root["pages"][n]["value"] = value

    return change


def file(content: bytes) -> Edit:
    def change(root: Any) -> None:
        with root["file"].open("w") as f:
            f.write(content)

    return change


def drop(root: Any) -> None:
    del root["pages"][5]


def copied(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, dict[str, Any]]:
    """(transactions copied, what was verified)."""
    code, document, err = run(capsys, *arguments, "--verify", "--json")
    assert (code, err) == (0, "")
    return document["copied"]["transactions"], document["verified"]


def test_a_site_moves_here_in_several_copies(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    site, peer = relstorage(tmp_path / "site"), tmp_path / "peer"
    edit(site, begin, page(1, 1), file(b"second"))
    assert copied(capsys, "import", site, peer)[0] == 3
    edit(site, page(1, 2), page(1, 3), file(b"third"), drop)  # what was copied of them is gone from the site
    transactions, verified = copied(capsys, "import", site, peer)
    assert (transactions, verified["records"], verified["blobs"]) == (3, 33, 1)
    assert copied(capsys, "import", site, peer) == (0, verified)
    assert copied(capsys, "export", peer, site) == (0, verified)
    db = DB(DHTStorage(peer))
    with db.transaction() as connection:
        root = connection.root()
        assert root["pages"][1]["value"] == 3 and 5 not in root["pages"]
        assert root["file"].open().read() == b"third"
    db.close()


def test_a_peer_moves_there_in_several_copies(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    site, peer = relstorage(tmp_path / "site"), tmp_path / "peer"
    peer.mkdir()
    edit(peer, begin, page(1, 1), file(b"second"), page(1, 2))
    assert copied(capsys, "export", peer, site)[0] == 5
    edit(peer, page(1, 3), page(2, 1), file(b"third"))
    transactions, verified = copied(capsys, "export", peer, site)
    assert (transactions, verified["records"], verified["blobs"]) == (3, 33, 1)
    edit(site, page(3, 1))
    code, _, err = run(capsys, "export", peer, site)
    assert code == 1 and "which the source has not" in err


def test_another_database_is_not_gone_on_with(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    peer, other = tmp_path / "peer", relstorage(tmp_path / "other")
    peer.mkdir()
    edit(peer, begin)
    last = _last(peer)
    edit(other, begin)
    for arguments in (("import", other, peer), ("export", peer, other)):
        code, out, err = run(capsys, *arguments)
        assert (code, out) == (1, "") and "transaction" in err
    assert _last(peer) == last


def test_what_differs_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    site, peer = relstorage(tmp_path / "site"), tmp_path / "peer"
    edit(site, begin, page(1, 1))
    copied(capsys, "import", site, peer)
    storage = DHTStorage(peer)
    oid, tid = _current_with(storage, b"value")
    txn = TransactionMetaData()
    storage.tpc_begin(txn)
    storage.deleteObject(oid, tid, txn)
    storage.tpc_vote(txn)
    storage.tpc_finish(txn)
    storage.close()
    code, _, err = run(capsys, "import", site, peer, "--verify")
    assert code == 1 and "not current in the peer" in err


def _last(peer: Path) -> bytes:
    storage = DHTStorage(peer)
    try:
        return storage.lastTransaction()
    finally:
        storage.close()


def _current_with(storage: DHTStorage, text: bytes) -> tuple[bytes, bytes]:
    """(oid, tid) of the first current record that has text in it."""
    cursor = None
    while True:
        oid, tid, data, cursor = storage.record_iternext(cursor)
        if text in data:
            return oid, tid
