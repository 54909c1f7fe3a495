"""An import of a damaged Data.fs: it says where, keeps what comes before, and goes on once the file is repaired."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from persistent.mapping import PersistentMapping
from persistent.timestamp import TimeStamp
from ZODB import DB
from ZODB.blob import Blob
from ZODB.Connection import TransactionMetaData
from ZODB.FileStorage import FileStorage
from ZODB.utils import p64, u64, z64
from zodb_dht import DHTStorage
from zodb_dht.errors import Unreadable

from .blobs import files
from .helpers import commit
from .test_conversion import run

COUNT, VICTIM = 21, 11  # transactions; the one that is damaged
ONES = b"\xff" * 8

# By what it is: where in the file (of the transaction's header, its second record, its end), the bytes, what is said.
DAMAGES: dict[str, tuple[str, int, bytes, str]] = {
    "tid": ("header", 0, ONES, "record 1, oid 0x01: the record says"),
    "no tid": ("header", 0, bytes(8), "record 1, oid 0x01: the record says"),
    "length": ("header", 8, ONES, "damaged records at {header}"),
    "short": ("header", 8, p64(48), "length check failed at"),
    "status": ("header", 16, b"X", "invalid status, X, at {header}"),
    "lengths": ("header", 17, ONES[:6], "invalid transaction header at {header}"),
    "all": ("header", 0, ONES * 8, "can't be read"),
    "a hole": ("header", 0, bytes(200), "invalid status, \0, at {header}"),
    "oid": ("record", 0, ONES, "out of range"),
    "serial": ("record", 8, ONES, "record 2, oid {oid}: the record says"),
    "position": ("record", 24, ONES, "record at {record}"),
    "version": ("record", 32, ONES[:2], "record 2"),
    "size": ("record", 34, ONES, "record at {record}"),
    "end": ("end", 0, ONES, "check failed at {end}"),
}


class Source:
    """An old site whose VICTIMth transaction has two records, one of them a blob's."""

    def __init__(self, directory: Path) -> None:
        self.path, self.blobs = directory / "Data.fs", directory / "blobs"
        db = DB(self.open(read_only=False))
        for n in range(COUNT - 1):
            with db.transaction(f"edit {n}") as connection:
                pages = connection.root().setdefault("pages", PersistentMapping())
                pages[n] = Blob(b"file %d" % n)
        db.close()
        self.whole = self.path.read_bytes()
        with closing(self.open()) as storage:
            iterator = storage.iterator()
            for _ in range(VICTIM):
                victim = next(iterator)
            second = list(victim)[1]
            self.tid, self.oid = victim.tid, second.oid
            self.places = {"header": victim._tpos, "record": second.pos, "end": victim._tend}
            iterator.close()

    def open(self, *, read_only: bool = True) -> FileStorage:
        return FileStorage(str(self.path), read_only=read_only, blob_dir=str(self.blobs))

    def damage(self, name: str) -> str:
        """Returns what is to be said."""
        place, offset, data, says = DAMAGES[name]
        at = self.places[place] + offset
        self.path.write_bytes(self.whole[:at] + data + self.whole[at + len(data) :])
        return says.format(oid=f"{u64(self.oid):#04x}", **self.places)

    def repair(self) -> None:
        self.path.write_bytes(self.whole)


@pytest.fixture
def source(tmp_path: Path) -> Iterator[Source]:
    yield Source(tmp_path)


def check_kept(source: Source, storage: DHTStorage) -> None:
    """Everything before the damage is there, whole, and nothing else."""
    with closing(source.open()) as old:
        for one, other in zip(list(storage.iterator()), old.iterator(), strict=False):
            assert one.tid == other.tid < source.tid
            assert {r.oid: r.data for r in one} == {r.oid: r.data for r in other}
    assert len(list(storage.iterator())) == VICTIM - 1
    base = storage.fshelper.base_dir
    assert sorted(files(base).values()) == sorted(b"file %d" % n for n in range(VICTIM - 2))


@pytest.mark.parametrize("name", DAMAGES)
def test_an_import_goes_on_after_the_repair(
    name: str, source: Source, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    says, peer = source.damage(name), tmp_path / "peer"
    command = ("import", source.path, peer, "--blob-dir", source.blobs)
    for _ in range(2):
        code, out, err = run(capsys, *command)
        assert (code, out) == (1, "") and says in err
    source.repair()
    with closing(DHTStorage(peer)) as storage:
        check_kept(source, storage)
    code, document, err = run(capsys, *command, "--verify", "--json")
    assert (code, err) == (0, "")
    assert (document["already_there"], document["copied"]["transactions"]) == (VICTIM - 1, COUNT - VICTIM + 1)
    assert document["copied"]["blobs"] == COUNT - VICTIM + 1
    verified = document["verified"]
    assert (verified["transactions"], verified["blobs"]) == (COUNT, COUNT - 1)
    code, document, _ = run(capsys, *command, "--verify", "--json")
    assert (code, document["copied"]["transactions"], document["verified"]) == (0, 0, verified)
    with closing(DHTStorage(peer)) as storage:
        assert [t.tid for t in storage.iterator()] == sorted({t.tid for t in storage.iterator()})
        assert sorted(files(storage.fshelper.base_dir).values()) == sorted(b"file %d" % n for n in range(COUNT - 1))


@pytest.mark.parametrize("name", DAMAGES)
def test_copytransactionsfrom_goes_on_after_the_repair(name: str, source: Source, storage: DHTStorage) -> None:
    says = source.damage(name)
    with closing(source.open()) as old, pytest.raises(Unreadable) as caught:
        storage.copyTransactionsFrom(old)
    assert says in str(caught.value)
    source.repair()
    check_kept(source, storage)
    following = p64(u64(storage.lastTransaction()) + 1)
    with closing(source.open()) as old:
        storage.copyTransactionsFrom(old, start_tid=following)
        for one, other in zip(storage.iterator(), old.iterator(), strict=True):
            assert (one.tid, one.description) == (other.tid, other.description)
            for record, original in zip(one, other, strict=True):
                assert (record.oid, record.data) == (original.oid, original.data)
    assert sorted(files(storage.fshelper.base_dir).values()) == sorted(b"file %d" % n for n in range(COUNT - 1))


def _flipped(source: Source, _: Path) -> None:
    at = source.places["record"] + 50
    source.path.write_bytes(source.whole[:at] + bytes([source.whole[at] ^ 1]) + source.whole[at + 1 :])


def _other_file(_: Source, victim: Path) -> None:
    victim.chmod(0o600)
    victim.write_bytes(b"FILE 9")


@pytest.mark.parametrize(("damage", "says"), [(_flipped, "has other data"), (_other_file, "has another file")])
def test_what_nobody_can_see_is_named_after_the_repair(
    damage: Callable[[Source, Path], None],
    says: str,
    source: Source,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A FileStorage keeps no checksum of a pickle or a blob: --verify names it once the source is right again."""
    peer = tmp_path / "peer"
    command = ("import", source.path, peer, "--blob-dir", source.blobs, "--verify")
    (victim,) = source.blobs.rglob(f"0x{source.tid.hex()}.blob")
    whole = victim.read_bytes()
    damage(source, victim)
    assert run(capsys, *command)[0] == 0
    source.repair()
    victim.unlink()
    victim.write_bytes(whole)
    code, _, err = run(capsys, *command)
    assert code == 1 and says in err and source.tid.hex() in err


def test_a_transaction_whose_tid_a_copy_had_to_mend_is_no_damage(storage: DHTStorage, tmp_path: Path) -> None:
    """ZODB's own copy gives a transaction that a clock set back a later tid, and its records keep the old one."""
    with closing(FileStorage(str(tmp_path / "Mended.fs"))) as mended:
        for tid, serial in ((p64(1 << 60), p64(1 << 60)), (p64((1 << 60) + 1), p64(1 << 59))):
            txn = TransactionMetaData()
            mended.tpc_begin(txn, tid, " ")
            mended.restore(p64(1), serial, b"data", "", None, txn)
            mended.tpc_vote(txn)
            mended.tpc_finish(txn)
        storage.copyTransactionsFrom(mended)
    assert [t.tid for t in storage.iterator()] == [p64(1 << 60), p64((1 << 60) + 1)]


def test_what_is_committed_while_the_file_is_read_is_no_damage(storage: DHTStorage, tmp_path: Path) -> None:
    """A first copy is made while the old site runs; a FileStorage's iterator calls what came after it truncated."""
    with closing(FileStorage(str(tmp_path / "Data.fs"))) as old:
        first = commit(old, (p64(1), z64, b"one"))
        iterator = old.iterator()
        second = commit(old, (p64(1), first, b"two" * 9000))
        storage.copyTransactionsFrom(iterator)
        assert [t.tid for t in storage.iterator()] == [first]
        storage.copyTransactionsFrom(old, start_tid=second)
        assert [t.tid for t in storage.iterator()] == [first, second]


@pytest.mark.parametrize("left", [1, 100, 9000])
def test_a_file_that_was_cut_is_damaged(left: int, storage: DHTStorage, tmp_path: Path) -> None:
    path = tmp_path / "Data.fs"
    with closing(FileStorage(str(path))) as old:
        first = commit(old, (p64(1), z64, b"one"))
        end = path.stat().st_size
        commit(old, (p64(1), first, b"two" * 9000))
    path.write_bytes(path.read_bytes()[: end + 23 + left])
    with closing(FileStorage(str(path), read_only=True)) as old, pytest.raises(Unreadable, match="truncated"):
        storage.copyTransactionsFrom(old)
    assert [t.tid for t in storage.iterator()] == [first]


def _no_index(path: Path) -> None:
    Path(f"{path}.index").write_bytes(b"")  # as a loss of power leaves it


def _voting(path: Path) -> None:
    """The site was killed, or is, between its vote and its finish: FileStorage forgets that transaction."""
    with closing(FileStorage(str(path))) as old:
        txn = TransactionMetaData()
        old.tpc_begin(txn)
        old.store(p64(99), z64, b"not committed", "", txn)
        old.tpc_vote(txn)
        left = path.read_bytes()
        old.tpc_abort(txn)
    path.write_bytes(left)


def _fast_clock(path: Path) -> None:
    with closing(FileStorage(str(path))) as old:
        txn = TransactionMetaData()
        old.tpc_begin(txn, TimeStamp(2200, 1, 1).raw(), " ")
        old.restore(p64(99), z64, b"a clock was wrong", "", None, txn)
        old.tpc_vote(txn)
        old.tpc_finish(txn)


@pytest.mark.parametrize(("make", "more"), [(_no_index, 0), (_voting, 0), (_fast_clock, 1)])
def test_what_filestorage_opens_without_a_loss_is_no_damage(
    make: Callable[[Path], None], more: int, source: Source, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make(source.path)
    command = ("import", source.path, tmp_path / "peer", "--blob-dir", source.blobs, "--verify", "--json")
    for copied in (COUNT + more, 0):
        code, document, err = run(capsys, *command)
        assert (code, err) == (0, "")
        assert (document["copied"]["transactions"], document["verified"]["transactions"]) == (copied, COUNT + more)


def test_a_file_whose_middle_says_that_it_is_not_committed_is_damaged(
    source: Source, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A FileStorage ends there without a word, and opened for writing cuts off all that follows."""
    at = source.places["header"] + 16
    source.path.write_bytes(source.whole[:at] + b"c" + source.whole[at + 1 :])
    code, _, err = run(capsys, "import", source.path, tmp_path / "peer", "--blob-dir", source.blobs)
    assert code == 1 and "before its last transaction" in err
