"""The command zodb-dht as the wheel installs it, on a directory that Python wrote. (Its own tests: cmd/zodb-dht.)"""

from __future__ import annotations

import base64
import hashlib
import importlib.metadata
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import IO, Any

import pytest
import transaction
from persistent.mapping import PersistentMapping
from ZODB.blob import Blob
from ZODB.DB import DB
from ZODB.utils import maxtid, oid_repr, readable_tid_repr, z64
from zodb_dht import DHTStorage

DONE, FAILED, USAGE, CORRUPT = 0, 1, 2, 5


def zodb_dht(*args: object, stdout: int | IO[str] = subprocess.PIPE) -> subprocess.CompletedProcess[str]:
    command = shutil.which("zodb-dht", path=str(Path(sys.executable).parent)) or shutil.which("zodb-dht")
    assert command is not None, "the wheel installs zodb-dht beside Python"
    command_line = [command, *map(str, args)]
    return subprocess.run(command_line, stdout=stdout, stderr=subprocess.PIPE, text=True, check=False)


def answer(*args: object) -> Any:
    done = zodb_dht(*args, "--json")
    assert (done.returncode, done.stderr) == (DONE, ""), done
    return json.loads(done.stdout)


@pytest.fixture
def peer(tmp_path: Path) -> Path:
    """Three transactions: the root, a mapping in it, the mapping changed."""
    db = DB(DHTStorage(str(tmp_path / "peer")))
    conn = db.open()
    conn.root()["a"] = PersistentMapping(text="first")
    transaction.get().note("a mapping\nis made")
    transaction.commit()
    conn.root()["a"]["text"] = "second"
    transaction.commit()
    conn.close()
    db.close()
    return tmp_path / "peer"


def test_what_python_wrote_is_sound_and_counted(peer: Path) -> None:
    status, report = answer("status", peer), answer("verify", peer)
    assert (status["objects"], status["records"]) == (2, 4)
    assert report["sound"] and (report["records"], report["transactions"]) == (4, 3)
    assert report["digest"] == status["digest"] and report["last_tid"] == status["last_tid"]


def test_dump_gives_the_bytes_that_the_storage_gives(peer: Path) -> None:
    storage = DHTStorage(str(peer))
    try:
        data, tid, _ = storage.loadBefore(z64, maxtid)
        history = storage.history(z64, 10)
    finally:
        storage.close()
    dumped = answer("dump", peer, "0")
    assert base64.b64decode(dumped["data"]) == data
    assert (
        dumped["tid"] == readable_tid_repr(tid).split()[0] and dumped["class"] == "persistent.mapping.PersistentMapping"
    )
    assert dumped["oid"] == oid_repr(z64)
    assert [h["tid"] for h in answer("history", peer, "0x00")] == [f"0x{h['tid'].hex()}" for h in history]


def test_dump_and_history_tell_the_cid_of_a_blobs_file(tmp_path: Path) -> None:
    db = DB(DHTStorage(str(tmp_path / "peer")))
    with db.transaction() as conn:
        conn.root()["file"] = blob = Blob(b"first")
    with db.transaction() as conn, conn.root()["file"].open("w") as f:
        f.write(b"second")
    oid = oid_repr(blob._p_oid)
    db.close()
    # A file of one chunk is a block of its own: CIDv1, raw, sha2-256.
    cids = [
        "b" + base64.b32encode(b"\x01\x55\x12\x20" + hashlib.sha256(content).digest()).decode().lower().rstrip("=")
        for content in (b"second", b"first")
    ]
    history = answer("history", tmp_path / "peer", oid)
    assert [h["blob"] for h in history] == [{"cid": cids[0], "size": 6}, {"cid": cids[1], "size": 5}]
    assert answer("dump", tmp_path / "peer", oid)["blob"] == history[0]["blob"]
    assert answer("dump", tmp_path / "peer", oid, "--tid", history[1]["tid"])["blob"] == history[1]["blob"]
    assert cids[0] in zodb_dht("dump", tmp_path / "peer", oid).stdout
    lines = zodb_dht("history", tmp_path / "peer", oid).stdout.splitlines()
    assert [cid for cid, line in zip(cids, lines, strict=True) if f"blob {cid}" in line] == cids
    assert "blob" not in answer("dump", tmp_path / "peer", "0")


def test_a_description_of_several_lines_stays_on_one(peer: Path) -> None:
    lines = zodb_dht("history", peer, 0).stdout.splitlines()
    assert len(lines) == 2 and "a mapping is made" in lines[0]


def test_a_directory_in_use_names_the_process(peer: Path) -> None:
    storage = DHTStorage(str(peer))
    try:
        done = zodb_dht("verify", peer)
    finally:
        storage.close()
    assert done.returncode == FAILED and re.search(rf"\b{os.getpid()}\b", done.stderr), done


def test_init_makes_a_peer_that_python_opens(tmp_path: Path) -> None:
    assert answer("init", tmp_path / "new") == {"created": True, "path": str(tmp_path / "new")}
    DB(DHTStorage(str(tmp_path / "new"))).close()
    assert answer("status", tmp_path / "new")["objects"] == 1
    assert zodb_dht("init", tmp_path / "new").returncode == FAILED


def test_damage_is_exit_5(peer: Path) -> None:
    for table in (peer / "db").glob("*.sst"):
        data = bytearray(table.read_bytes())
        data[len(data) // 3] ^= 0x10
        table.write_bytes(data)
    done = zodb_dht("verify", peer)
    assert done.returncode == CORRUPT, done


def test_the_version_is_the_packages() -> None:
    assert answer("version")["version"] == importlib.metadata.version("zodb_dht")


def test_a_directory_called_pack_is_not_a_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Before, `verify pack` packed a directory called verify.
    monkeypatch.chdir(tmp_path)
    for name in ("pack", "import", "verify"):
        assert answer("init", name)["path"] == name
        assert answer("verify", name)["path"] == name
        assert answer("status", name).get("horizon") is None


def test_init_refuses_a_path_that_no_application_could_open(tmp_path: Path) -> None:
    done = zodb_dht("init", os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))
    assert done.returncode == USAGE and "not a path in UTF-8" in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_pack_says_the_same_time_with_or_without_gc(peer: Path) -> None:
    lines = [zodb_dht("pack", peer, *gc, "--to", "2030-01-01 12:00Z").stdout for gc in ([], ["--no-gc"])]
    (with_gc,), (without,) = (re.findall(r"\S+\.\d{3}Z(?=:)", line) for line in lines)
    assert with_gc == without, lines


def test_a_mistake_is_exit_2() -> None:
    assert zodb_dht("verfy").returncode == USAGE


@pytest.mark.parametrize("gc", [[], ["--no-gc"]])
@pytest.mark.parametrize(
    ("option", "value", "says"),
    [("--days", "-1", "want a number of days"), ("--days", "x", ""), ("--to", "x", "want 2026-01-31 or")],
)
def test_a_mistake_in_a_packs_time_is_told_with_or_without_gc(
    option: str, value: str, says: str, gc: list[str], peer: Path
) -> None:
    done = zodb_dht("pack", peer, *gc, option, value)
    assert done.returncode == USAGE
    assert option in done.stderr and says in done.stderr and "_" not in done.stderr


@pytest.mark.parametrize("verb", ["status", "verify", "pack"])
def test_what_can_not_be_printed_is_exit_1(peer: Path, verb: str) -> None:
    with open("/dev/full", "w") as full:
        done = zodb_dht(verb, peer, stdout=full)
    assert done.returncode == FAILED
    assert done.stderr.startswith("zodb-dht: ") and done.stderr.count("\n") == 1


def test_no_progress_without_a_terminal(peer: Path) -> None:
    assert zodb_dht("verify", peer).stderr == ""


def test_a_source_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    done = zodb_dht("import", f"dht://{tmp_path}/misspelt", tmp_path / "peer")
    assert done.returncode == FAILED
    assert "misspelt does not exist" in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_time_that_no_tid_can_hold_is_a_mistake(peer: Path) -> None:
    done = zodb_dht("pack", peer, "--to", "9999-12-31")
    assert done.returncode == USAGE
    assert "no time to pack to" in done.stderr
    assert answer("status", peer).get("horizon") is None


@pytest.mark.parametrize("verb", ["pack", "export"])
def test_a_process_without_stderr_works(verb: str, peer: Path, tmp_path: Path) -> None:
    destination = [str(tmp_path / "Data.fs")] if verb == "export" else []
    command = [str(Path(sys.executable).parent / "zodb-dht"), verb, str(peer), *destination]
    done = subprocess.run(["sh", "-c", '"$@" 2>&-', "sh", *command], stdout=subprocess.PIPE, check=False)
    assert done.returncode == DONE
    assert done.stdout


@pytest.mark.parametrize("verb", ["pack", "import", "export"])
def test_an_interrupt_while_modules_are_loaded_is_one_line(verb: str, peer: Path, tmp_path: Path) -> None:
    """The first module of ZODB's that is loaded sends the signal, as a key would."""
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / "ZODB.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    done = subprocess.run(
        [
            str(Path(sys.executable).parent / "zodb-dht"),
            verb,
            str(peer),
            *([str(tmp_path / "x")] if verb != "pack" else []),
        ],
        env={**os.environ, "PYTHONPATH": str(tmp_path / "path")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (FAILED, "zodb-dht: interrupted\n"), done


@pytest.mark.parametrize("verb", ["status", "pack", "pack --no-gc", "export"])
def test_a_reader_that_left_ends_each_verb_by_sigpipe(verb: str, peer: Path, tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    more = [tmp_path / "copy"] if verb == "export" else []
    with open(writer, "w") as stdout:
        done = zodb_dht(*verb.split(), peer, *more, stdout=stdout)
    assert (done.returncode, done.stderr) == (-signal.SIGPIPE, "")
