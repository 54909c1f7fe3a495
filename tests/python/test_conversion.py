"""import and export: what is copied, what is refused, and that a repetition goes on where the last one ended."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from persistent.mapping import PersistentMapping
from ZODB import DB
from ZODB.FileStorage import FileStorage
from ZODB.utils import p64, z64
from zodb_dht import DHTStorage, commands, conversion
from zodb_dht.conversion import Report
from zodb_dht.errors import Mismatch, NotAPrefix, OptionError
from zodb_dht.iteration import RECORDS_AT_ONCE, TRANSACTIONS_AT_ONCE
from zodb_dht.places import open_place
from zodb_dht.progress import Bar

from .conftest import Opener
from .helpers import commit


@pytest.fixture
def site(tmp_path: Path) -> Callable[[int], Path]:
    """site(n): n more transactions in the old site's Data.fs."""
    path = tmp_path / "Data.fs"

    def grow(count: int) -> Path:
        db = DB(FileStorage(str(path)))
        for n in range(count):
            with db.transaction(f"edit {n}") as connection:
                pages = connection.root().setdefault("pages", PersistentMapping())
                pages[len(pages)] = PersistentMapping(text="a page " * n)
                connection.transaction_manager.get().setUser("ada")
                connection.transaction_manager.get().setExtendedInfo("n", n)
        db.close()
        return path

    return grow


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, Any, str]:
    """(exit code, the JSON document or the text on stdout, stderr)."""
    code = commands.run([str(a) for a in arguments])
    out, err = capsys.readouterr()
    return code, json.loads(out) if "--json" in arguments and out else out, err


def test_a_first_copy_and_incremental_ones(
    site: Callable[[int], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, peer, back = site(5), tmp_path / "peer", tmp_path / "Back.fs"
    digests = set()
    for grown, there, copied in (
        (0, 0, 6),
        (3, 6, 3),
        (0, 9, 0),
        (TRANSACTIONS_AT_ONCE + 1, 9, TRANSACTIONS_AT_ONCE + 1),
    ):
        site(grown)
        code, document, err = run(capsys, "import", source, peer, "--verify", "--json")
        assert (code, err) == (0, "")
        assert (document["already_there"], document["copied"]["transactions"]) == (there, copied)
        code, exported, err = run(capsys, "export", peer, back, "--verify", "--json")
        assert (code, err) == (0, "")
        assert {**exported, "seconds": 0} == {**document, "seconds": 0}
        digests.add(exported["verified"]["sha256"])
    assert len(digests) == 3
    db = DB(FileStorage(str(back)))  # nobody is locked in
    with db.transaction() as connection:
        assert len(connection.root()["pages"]) == 8 + TRANSACTIONS_AT_ONCE + 1
    db.close()


def test_the_old_site_goes_on_while_it_is_copied(storage: DHTStorage, site: Callable[[int], Path]) -> None:
    with closing(FileStorage(str(site(3)))) as source:
        commit(source, (p64(999), z64, b"meanwhile"))
        report = Report()
        found = conversion.missing(source, storage, report, lambda *_: None)
        next(found)
        commit(source, (p64(1000), z64, b"later"))  # not this time: the iterator has its end
        assert sum(1 for _ in found) == 4


@pytest.mark.parametrize("verb", ["import", "export"])
def test_a_destination_with_a_history_of_its_own_is_refused(
    verb: str, site: Callable[[int], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, peer, other = site(3), tmp_path / "peer", tmp_path / "Other.fs"
    assert run(capsys, "import", source, peer)[0] == 0
    with closing(FileStorage(str(other))) as storage:
        commit(storage, (p64(1), z64, b"own"))
        last = storage.lastTransaction()
    places = (other, peer) if verb == "import" else (peer, other)
    code, out, err = run(capsys, verb, *places)
    assert (code, out) == (1, "") and ("no copy of this source" in err or "which the source has not" in err)
    with closing(FileStorage(str(other), read_only=True)) as storage:
        assert storage.lastTransaction() == last


def test_a_destination_that_went_on_by_itself_is_refused(
    site: Callable[[int], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, peer = site(3), tmp_path / "peer"
    assert run(capsys, "import", source, peer)[0] == 0
    storage = DHTStorage(peer)
    last = commit(storage, (storage.new_oid(), z64, b"written here"))
    storage.close()
    code, _, err = run(capsys, "import", source, peer)
    assert code == 1 and last.hex() in err and "which the source has not" in err


def test_another_last_transaction_of_the_same_tid_is_refused(storage: DHTStorage, open_storage: Opener) -> None:
    other = open_storage("other")
    for one, data in ((storage, b"one"), (other, b"two")):
        one._peer.node.restore(b"t" * 16, p64(7), " ", b"", b"", b"", [(p64(1), data)])
        one._peer.node.drain()
    with pytest.raises(NotAPrefix, match="other data"):
        list(conversion.missing(storage, other, Report(), lambda *_: None))
    with pytest.raises(Mismatch, match="oid 0x01 has other data") as caught:
        conversion.verify(storage, other, lambda *_: None)
    assert (caught.value.oid, caught.value.tid) == (p64(1), p64(7))


@pytest.mark.parametrize(
    ("user", "writes", "says"),
    [
        (b"bob", [(p64(1), b"one")], "another user"),
        (b"", [(p64(1), None)], "other data"),
        (b"", [], "the destination lacks oid 0x01"),
        (b"", [(p64(1), b"one"), (p64(2), b"two")], "the source lacks oid 0x02"),
    ],
)
def test_verification_names_what_differs(
    user: bytes, writes: Any, says: str, storage: DHTStorage, open_storage: Opener
) -> None:
    other = open_storage("other")
    storage._peer.node.restore(b"t" * 16, p64(7), " ", b"", b"", b"", [(p64(1), b"one")])
    other._peer.node.restore(b"t" * 16, p64(7), " ", user, b"", b"", writes)
    storage._peer.node.drain()
    other._peer.node.drain()
    with pytest.raises(Mismatch, match=says):
        conversion.verify(storage, other, lambda *_: None)


def test_verification_compares_the_status_of_what_was_copied(storage: DHTStorage, open_storage: Opener) -> None:
    other = open_storage("other")
    for one, status in ((storage, "p"), (other, " ")):
        one._peer.node.restore(b"t" * 16, p64(7), status, b"", b"", b"", [(p64(1), b"one")])
        one._peer.node.drain()
    with pytest.raises(Mismatch, match="status ' ' instead of 'p'") as caught:
        conversion.verify(storage, other, lambda *_: None, z64)
    assert caught.value.tid == p64(7)
    conversion.verify(storage, other, lambda *_: None, p64(7))  # it was there before: one of both was packed since


def test_copies_of_packed_sources_are_verified(
    site: Callable[[int], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, peer, back = site(5), tmp_path / "peer", tmp_path / "Back.fs"
    with closing(DB(FileStorage(str(source)))) as db:
        db.pack()
    site(1)
    assert run(capsys, "import", source, peer, "--verify")[0] == 0
    with closing(DB(DHTStorage(peer, create=False))) as db:
        db.pack()
    assert run(capsys, "export", peer, back, "--verify")[0] == 0
    with closing(FileStorage(str(back), read_only=True)) as copy:
        assert {t.status for t in copy.iterator()} == {"p"}


def test_an_export_makes_no_back_pointers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # A FileStorage goes through a transaction from its beginning for each record of it that is pointed at.
    peer, back = tmp_path / "peer", tmp_path / "Back.fs"
    with closing(DHTStorage(peer)) as storage:
        oid, tid = p64(7), z64
        for data in (b"as it was", b"edited", b"as it was"):
            tid = commit(storage, (oid, tid, data))
    assert run(capsys, "export", peer, back, "--verify")[0] == 0
    with closing(FileStorage(str(back), read_only=True)) as copy:
        records = [(r.data, r.data_txn) for t in copy.iterator() for r in t]
    assert records == [(b"as it was", None), (b"edited", None), (b"as it was", None)]


def test_large_transactions_are_iterated_in_pieces(storage: DHTStorage) -> None:
    source_tids = []
    serials: dict[bytes, bytes] = {}
    for count in (1, RECORDS_AT_ONCE - 1, RECORDS_AT_ONCE * 2 + 3, 0, 2):
        oids = [p64(1000 + n) for n in range(count)]
        writes = [(oid, serials.get(oid, z64), b"%d of %d" % (n, count)) for n, oid in enumerate(oids)]
        tid = commit(storage, *writes)
        serials.update(dict.fromkeys(oids, tid))
        source_tids.append((tid, writes))
    for rounds in range(2):
        found = list(storage.iterator())
        assert [t.tid for t in found] == [tid for tid, _ in source_tids], rounds
        for transaction, (tid, writes) in zip(reversed(found), reversed(source_tids), strict=True):
            for _ in range(2):  # out of order, and twice
                records = [(r.oid, r.tid, r.data) for r in transaction]
                assert records == [(oid, tid, data) for oid, _, data in writes]


def test_records_larger_than_a_piece_are_iterated(storage: DHTStorage) -> None:
    big = [bytes([n]) * (7 << 20) for n in range(4)]
    commit(storage, *((p64(n), z64, data) for n, data in enumerate(big)))
    commit(storage, (p64(9), z64, b"small"))
    assert [[r.data for r in t] for t in storage.iterator()] == [big, [b"small"]]


def test_places(site: Callable[[int], Path], tmp_path: Path) -> None:
    data = site(1)
    conf = tmp_path / "zodb.conf"
    conf.write_text(
        f"""
        %import zodb_dht
        <filestorage old>
          path {data}
        </filestorage>
        <zodb new>
          <dhtstorage>
            path {tmp_path}/peer
          </dhtstorage>
        </zodb>
        """
    )
    DHTStorage(tmp_path / "peer").close()  # what is read from is not made
    for place, section, name in (
        (str(data), None, str(data)),
        (f"file://{data}", None, str(data)),
        (str(conf), "old", str(data)),
        (f"dht://{tmp_path}/peer", None, f"{tmp_path}/peer"),
        (str(conf), "new", f"{tmp_path}/peer"),
        (str(tmp_path / "New.fs"), None, str(tmp_path / "New.fs")),
    ):
        storage = open_place(place, section=section, write=place.endswith("New.fs") or "peer" in name)
        assert storage.getName() == name
        storage.close()
    with pytest.raises(OptionError, match="--section"):
        open_place(str(data), section="old")


@pytest.mark.parametrize(
    ("place", "says"),
    [
        ("nothing.fs", "no such file"),
        (".", "a directory"),
        ("nosuch://x", "nosuch"),
        ("text.conf", "--section picks one of its storages: none"),
        ("binary", "neither a Data.fs nor a ZConfig file"),
        ("two.conf", "--section picks one of its storages: a, b"),
        ("empty", "an empty file"),
        ("/dev/zero", "not a regular file"),
    ],
)
def test_a_place_that_is_none(
    place: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("text.conf").write_text("# nothing\n")
    Path("two.conf").write_text("<mappingstorage a/>\n<mappingstorage b/>\n")
    Path("binary").write_bytes(b"\xff\x00\x01\x02" * 10)
    Path("empty").touch()
    with pytest.raises(OptionError, match=says):
        open_place(place)
    code, out, err = run(capsys, "import", place, "peer")
    assert (code, out) == (2, "") and says in err and "zodb-dht import --help" in err
    assert not Path("peer").exists()


def test_a_source_that_can_not_be_iterated_leaves_no_peer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    FileStorage(str(tmp_path / "Data.fs")).close()
    conf = tmp_path / "before.conf"
    conf.write_text(
        "%import zc.beforestorage\n<before>\n before 2100-01-01T00:00:00\n"
        f" <filestorage>\n path {tmp_path}/Data.fs\n </filestorage>\n</before>\n"
    )
    code, out, err = run(capsys, "import", conf, tmp_path / "peer")
    assert (code, out) == (2, "") and "can't be iterated" in err
    assert not (tmp_path / "peer").exists()


@pytest.mark.parametrize("by", ["path", "section"])
def test_a_database_of_python_2_is_called_one(
    by: str, site: Callable[[int], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, section = site(1), tmp_path / "old.conf"
    data.write_bytes(b"FS21" + data.read_bytes()[4:])
    section.write_text(f"<filestorage>\n  path {data}\n</filestorage>\n")
    code, _, err = run(capsys, "import", data if by == "path" else section, tmp_path / "peer")
    assert code == 1 and f"{data}: Python 2 wrote it" in err and "zodbupdate --convert-py3" in err


def test_a_destination_without_restore_is_a_mistake(
    storage: DHTStorage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    conf = tmp_path / "m.conf"
    conf.write_text("<demostorage/>\n")
    storage.close()
    code, _, err = run(capsys, "export", tmp_path / "peer", conf)
    assert code == 2 and "with the tids that they have" in err


def test_an_export_of_nothing_makes_no_peer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "export", tmp_path / "none", tmp_path / "New.fs")
    assert code == 1 and str(tmp_path / "none") in err
    assert not (tmp_path / "none").exists() and not (tmp_path / "New.fs").exists()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("without_tqdm", [False, True])
def test_progress_is_drawn_on_a_terminal_only(without_tqdm: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if without_tqdm:
        monkeypatch.setitem(__import__("sys").modules, "tqdm", None)
    for stream in (io.StringIO(), Terminal()):
        with Bar(stream) as bar:
            bar.step("copy", p64(1 << 60))
            bar.step("verify", p64(1 << 60))
        assert bool(stream.getvalue()) == stream.isatty()
        assert ("verify" in stream.getvalue()) == stream.isatty()


DAMAGE = b"\xff" * 60


def damaged(site: Callable[[int], Path], at: str) -> tuple[Path, bytes]:
    """A Data.fs of 21 transactions whose eleventh is damaged at its header, or at a record's; its tid."""
    source = site(20)
    with closing(FileStorage(str(source), read_only=True)) as storage:
        iterator = storage.iterator()
        for _ in range(11):
            victim = next(iterator)
        position = victim._tpos if at == "header" else victim._pos
        iterator.close()
    with source.open("r+b") as f:
        f.seek(position + 8 if at == "header" else position)
        f.write(DAMAGE[:9] if at == "header" else DAMAGE)
    return source, victim.tid


@pytest.mark.parametrize("index", [True, False])
@pytest.mark.parametrize("at", ["header", "record"])
def test_a_damaged_source_is_named_and_what_comes_before_is_kept(
    at: str, index: bool, site: Callable[[int], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, tid = damaged(site, at)
    if not index:
        Path(f"{source}.index").unlink()
    peer = tmp_path / "peer"
    for _ in range(2):
        code, out, err = run(capsys, "import", source, peer)
        assert (code, out) == (1, "")
        assert str(source) in err or tid.hex() in err or "after transaction" in err
    if index:  # else FileStorage itself refuses the file
        storage = DHTStorage(peer)
        assert storage.lastTransaction() < tid and len(list(storage.iterator())) == 10
        storage.close()


@pytest.mark.parametrize(
    "how", ["path", "uri", "uri-read_only=0", "zconfig", "zconfig-uri", "demo", "demo-uri", "demo-demo-uri"]
)
def test_a_source_is_only_read(how: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The first copy is made while the old site runs, which holds the lock of its Data.fs."""
    path, conf = tmp_path / "Data.fs", tmp_path / "source.conf"
    section = f"<filestorage>\npath {path}\n</filestorage>\n"
    conf.write_text(f"<demostorage>\n{section}</demostorage>\n" if how == "demo" else section)
    places = {
        "path": path,
        "uri": f"file://{path}",
        "uri-read_only=0": f"file://{path}?read_only=0",
        "zconfig-uri": f"zconfig://{conf}",
        "demo-uri": f"demo:(file://{path})/(memory://)",
        "demo-demo-uri": f"demo:(demo:(file://{path}?read_only=0)/(memory://))/(memory://)#database_name=main",
    }
    place = places.get(how, conf)
    code, out, err = run(capsys, "import", place, tmp_path / "peer")
    assert code != 0 and out == "" and err
    assert not path.exists(), "it was made"
    site = DB(FileStorage(str(path)))
    try:
        code, document, _ = run(capsys, "import", place, tmp_path / "peer", "--json")
        assert (code, document["copied"]["transactions"]) == (0, 1)
    finally:
        site.close()


def test_a_section_of_a_zconfig_uri(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    conf = tmp_path / "sources.conf"
    conf.write_text("".join(f"<filestorage {n}>\npath {tmp_path}/{n}.fs\n</filestorage>\n" for n in ("a", "b")))
    DB(FileStorage(str(tmp_path / "b.fs"))).close()
    code, document, _ = run(capsys, "import", f"zconfig://{conf}#b", tmp_path / "peer", "--json")
    assert (code, document["copied"]["transactions"]) == (0, 1)
    for place, reason in (
        (f"zconfig://{conf}", "--section picks one of its storages: a, b"),
        ("zconfig://sources.conf", "want zconfig:///directory/file#section"),
        (f"demo:(zconfig://{conf}#b)/(memory://)", "put both into one ZConfig file"),
        ("demo:(memory://)", "demo:"),
    ):
        code, _, err = run(capsys, "import", place, tmp_path / "peer")
        assert code == 2 and reason in err and err.count("\n") == 1
    assert not (tmp_path / "a.fs").exists()


def test_a_source_of_relstorage_that_is_not_there_is_not_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    conf = tmp_path / "source.conf"
    conf.write_text(
        f"%import relstorage\n<relstorage>\n<sqlite3>\ndata-dir {tmp_path}/old\n</sqlite3>\n</relstorage>\n"
    )
    code, out, err = run(capsys, "import", conf, tmp_path / "peer")
    assert code == 1 and out == "" and err.count("\n") == 1
    assert not list((tmp_path / "old").glob("*.sqlite3")), "it was made"


def test_a_peer_that_is_not_there_is_no_source(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    conf = tmp_path / "source.conf"
    conf.write_text(f"%import zodb_dht\n<dhtstorage>\npath {tmp_path}/mistyped\n</dhtstorage>\n")
    for place in (conf, f"dht://{tmp_path}/mistyped", f"dht://{tmp_path}/mistyped?create=on"):
        code, out, _ = run(capsys, "import", place, tmp_path / "peer")
        assert (code, out) == (1, "")
        assert not (tmp_path / "mistyped").exists()
