"""zodb-convert, from and to FileStorage, RelStorage and a ZEO server; and our own import and export of the same."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from persistent.mapping import PersistentMapping
from ZODB import DB
from ZODB.config import storageFromString
from zodb_dht import conversion

from .zeo import server

KINDS: dict[str, str] = {
    "filestorage": "<filestorage{name}>\npath {dir}/Data.fs\n</filestorage>",
    "relstorage": "%import relstorage\n<relstorage{name}>\nkeep-history true\n"
    "<sqlite3>\ndata-dir {dir}/sqlite\n</sqlite3>\n</relstorage>",
    "zeo": "%import ZEO\n<clientstorage{name}>\nserver {dir}/zeo/zeo.sock\nwait-timeout 60\n</clientstorage>",
    "dht": "%import zodb_dht\n<dhtstorage{name}>\npath {dir}/peer\n</dhtstorage>",
    "dht-shared": "%import zodb_dht\n<dhtstorage{name}>\npath {dir}/peer\nshared on\n</dhtstorage>",
}
OTHERS = ["filestorage", "relstorage", "zeo"]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Callable[[str, str], Path]]:
    """place(kind, directory): where a storage of that kind is, with its server running."""
    with ExitStack() as servers:

        def make(kind: str, directory: str) -> Path:
            path = tmp_path / directory
            path.mkdir()
            if kind == "zeo":
                servers.enter_context(server(path / "zeo", f"<filestorage 1>\npath {path}/Data.fs\n</filestorage>"))
            return path

        yield make


def section(kind: str, path: Path, name: str = "") -> str:
    return KINDS[kind].format(dir=path, name=f" {name}" if name else "")


def fill(kind: str, path: Path, count: int = 12) -> None:
    db = DB(storageFromString(section(kind, path)))
    for n in range(count):
        with db.transaction(f"édit {n}") as connection:
            pages = connection.root().setdefault("pages", PersistentMapping())
            pages[len(pages)] = PersistentMapping(text="a page " * n)
            pages[len(pages) // 2]["n"] = n
            connection.transaction_manager.get().setUser("ada")
            connection.transaction_manager.get().setExtendedInfo("n", n)
    db.close()


def equal(one: tuple[str, Path], other: tuple[str, Path]) -> int:
    """How many transactions both have; Mismatch."""
    storages = [storageFromString(section(*place)) for place in (one, other)]
    try:
        report, _ = conversion.verify(*storages, lambda *_: None)
        assert storages[0].lastTransaction() == storages[1].lastTransaction()
        return report.transactions
    finally:
        for storage in storages:
            storage.close()


def convert(source: tuple[str, Path], destination: tuple[str, Path], conf: Path, *options: str) -> None:
    conf.write_text(f"{section(*source, 'source')}\n{section(*destination, 'destination')}\n")
    command = [sys.executable, "-c", "import sys; from zodb_convert.cli import main; sys.exit(main())"]
    done = subprocess.run([*command, str(conf), "-v", *options], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("options", [(), ("--workers", "4")], ids=["restore", "workers"])
@pytest.mark.parametrize("kind", OTHERS)
def test_zodb_convert_there_and_back(
    kind: str, options: tuple[str, ...], place: Callable[[str, str], Path], tmp_path: Path
) -> None:
    pytest.importorskip("zodb_convert", reason="zodb-convert is not installed; build.sh test installs it")
    source, ours, back = (kind, place(kind, "source")), ("dht", place("dht", "ours")), (kind, place(kind, "back"))
    fill(*source)
    convert(source, ours, tmp_path / "convert.conf", *options)
    assert equal(source, ours) == 13
    fill(*source, 3)
    convert(source, ours, tmp_path / "convert.conf", "--incremental", *options)
    assert equal(source, ours) == 16
    convert(ours, back, tmp_path / "convert.conf")
    assert equal(source, back) == 16


@pytest.mark.parametrize("kind", OTHERS)
def test_import_and_export_there_and_back(kind: str, place: Callable[[str, str], Path], tmp_path: Path) -> None:
    source, peer, back = place(kind, "source"), tmp_path / "peer", place(kind, "back")
    fill(kind, source)
    confs = []
    for path in (source, back):
        confs.append(tmp_path / f"{path.name}.conf")
        confs[-1].write_text(section(kind, path))
    for grown, there, copied in ((0, 0, 13), (3, 13, 3)):
        fill(kind, source, grown)
        found = run("import", confs[0], peer)
        assert (found["already_there"], found["copied"]["transactions"]) == (there, copied)
        exported = run("export", peer, confs[1])
        assert (exported["already_there"], exported["copied"]["transactions"]) == (there, copied)
        assert exported["verified"] == found["verified"]
    assert equal((kind, source), (kind, back)) == 16


def test_zodb_convert_of_the_shared_mode(place: Callable[[str, str], Path], tmp_path: Path) -> None:
    pytest.importorskip("zodb_convert", reason="zodb-convert is not installed; build.sh test installs it")
    source, ours = ("filestorage", place("filestorage", "source")), ("dht-shared", place("dht", "ours"))
    fill(*source)
    convert(source, ours, tmp_path / "convert.conf")
    assert equal(source, ours) == 13


def run(*arguments: object) -> Any:
    command = [sys.executable, "-m", "zodb_dht.cli", *map(str, arguments), "--verify", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
