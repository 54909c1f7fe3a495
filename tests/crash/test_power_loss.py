"""A loss of power, not only of the process: what the file system had not written yet is gone.

ext4 in a file, mounted, and shut down without a flush of its journal (EXT4_IOC_SHUTDOWN): what was synced is there at
the next mount, what was not is lost, or empty under a name that is there. ZODB_DHT_SOAK_ROUNDS sets the rounds,
ZODB_DHT_SEED replays the draws.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import random
import shutil
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from blob_committer import content
from test_kill import THREADS, Heard, check
from test_kill_import import SLOW, TRANSACTIONS, fill, finished
from ZODB.utils import p64
from zodb_dht import DHTStorage

HERE = Path(__file__).parent
ROUNDS = int(os.environ.get("ZODB_DHT_SOAK_ROUNDS", "120")) // 12
EXT4_IOC_SHUTDOWN = 0x8004587D
NO_LOG_FLUSH = 2


class Disk:
    """A file system that can lose its power."""

    def __init__(self, image: Path, at: Path) -> None:
        self.image, self.at = image, at

    def make(self) -> None:
        self.at.mkdir()
        with self.image.open("wb") as f:
            f.truncate(1 << 30)  # sparse
        subprocess.run(["mkfs.ext4", "-q", "-F", str(self.image)], check=True)
        self.mount()

    def mount(self) -> None:
        subprocess.run(
            ["mount", "-t", "ext4", "-o", "loop", str(self.image), str(self.at)], check=True, capture_output=True
        )

    def cut(self) -> None:
        fd = os.open(self.at, os.O_RDONLY)
        try:
            fcntl.ioctl(fd, EXT4_IOC_SHUTDOWN, struct.pack("I", NO_LOG_FLUSH))
        finally:
            os.close(fd)

    def back(self) -> None:
        """Nobody uses it any more."""
        subprocess.run(["umount", str(self.at)], check=True)
        self.mount()


@contextlib.contextmanager
def mounted(at: Path) -> Iterator[Disk]:
    disk = Disk(at.with_suffix(".image"), at)
    try:
        disk.make()
    except (OSError, subprocess.CalledProcessError) as e:
        pytest.skip(f"WAITING: a loss of power needs mkfs.ext4 and the right to mount its file (root): {e}")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk.at)], check=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    with mounted(tmp_path / "disk") as disk:
        yield disk


def lines_until(
    disks: list[Disk], draw: random.Random, command: list[str], lines: int = 60, *, may_end: bool = False
) -> list[str]:
    """What a command said until the power went, at a drawn moment behind a drawn line, or until it ended."""
    last, delay, said = draw.randrange(1, lines), draw.random() * 0.02, []
    disks = draw.sample(disks, len(disks))
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE, stderr=errors, text=True) as child,
    ):
        assert child.stdout is not None
        cut = threading.Event()

        def end() -> None:
            for disk in disks:
                disk.cut()
                cut.set()  # what is said behind the first one's end is not counted
            child.kill()

        timer = threading.Timer(delay, end)
        for count, line in enumerate(child.stdout):
            if count == last:
                timer.start()
            if not cut.is_set():
                said.append(line)
        if not timer.is_alive() and not cut.is_set():
            errors.seek(0)
            assert may_end and child.wait() == 0, f"{command[0]} ended by itself after {said[-1:]}: {errors.read()}"
            end()
        elif timer.is_alive():
            timer.join()
    return said


def test_what_commit_returned_for_outlives_the_power(disk: Disk) -> None:
    seed = int(os.environ.get("ZODB_DHT_SEED", time.time_ns()))
    print(f"replay the draws with ZODB_DHT_SEED={seed}")
    draw, heard, untold = random.Random(seed), Heard(), 0
    for _ in range(ROUNDS):
        for line in lines_until(
            [disk], draw, [str(HERE / "committer.py"), str(disk.at / "peer"), str(seed), str(THREADS)]
        ):
            heard.hear(line)
        disk.back()
        untold += check(disk.at / "peer", seed, heard)
    print(f"{ROUNDS} rounds: {len(heard.done)} acknowledged commits found, {untold} that nobody was told of")
    assert heard.done, "no commit in any round: nothing was shown"


@pytest.mark.parametrize("apart", [False, True])
def test_blobs_outlive_the_power(disk: Disk, tmp_path: Path, apart: bool) -> None:
    """apart: the blobs are on a disk of their own, whose journal knows nothing of the log's."""
    seed = int(os.environ.get("ZODB_DHT_SEED", time.time_ns()))
    print(f"replay the draws with ZODB_DHT_SEED={seed}")
    draw, done = random.Random(seed), 0
    with contextlib.ExitStack() as stack:
        disks = [disk, stack.enter_context(mounted(tmp_path / "blobs"))] if apart else [disk]
        for n in range(ROUNDS):
            peer = disk.at / f"peer {n // 2}"  # a new one, then one that was cut off before
            blobs = tmp_path / "blobs" / f"of {n // 2}" if apart else peer / "blobs"
            committer = [str(HERE / "blob_committer.py"), str(peer), str(seed), ""]
            told = {}
            for line in lines_until(disks, draw, [*committer, str(blobs)] if apart else committer):
                words = line.split()
                if words[0] == "done":
                    told[int(words[1])] = bytes.fromhex(words[2])
            done += len(told)
            for each in disks:
                each.back()
            whole(peer, blobs, seed, told)
            if n % 2:
                shutil.rmtree(peer)
                shutil.rmtree(blobs, ignore_errors=True)
    assert done, "no blob in any round: nothing was shown"


def whole(peer: Path, blobs: Path, seed: int, told: dict[int, bytes]) -> None:
    storage = DHTStorage(peer)
    try:
        assert not told or storage.fshelper.base_dir.rstrip("/") == str(blobs)
        for k, tid in told.items():
            for oid in (2 * k + 1, 2 * k + 2):
                with storage.openCommittedBlobFile(p64(oid), tid) as f:
                    assert f.read() == content(seed, oid)
    finally:
        storage.close()
    if told:
        verified = subprocess.run(
            [sys.executable, "-m", "zodb_dht.cli", "verify", "--json", str(peer)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert verified.returncode == 0, verified
        assert json.loads(verified.stdout)["orphans"] == [], verified


def test_an_import_goes_on_after_a_loss_of_power(disk: Disk, tmp_path: Path) -> None:
    seed = int(os.environ.get("ZODB_DHT_SEED", time.time_ns()))
    print(f"replay the draws with ZODB_DHT_SEED={seed}")
    draw = random.Random(seed)
    source, peer = tmp_path / "Data.fs", disk.at / "peer"
    blobs = fill(source, draw)
    arguments = ["import", str(source), str(peer), "--blob-dir", f"{source}.blobs"]
    for _ in range(ROUNDS):
        lines_until([disk], draw, ["-c", SLOW, *arguments], TRANSACTIONS, may_end=True)
        disk.back()
    finished(source, peer, blobs)


def test_an_export_goes_on_after_a_loss_of_power(disk: Disk, tmp_path: Path) -> None:
    """What the Data.fs has by then it has whole, with its blobs."""
    seed = int(os.environ.get("ZODB_DHT_SEED", time.time_ns()))
    print(f"replay the draws with ZODB_DHT_SEED={seed}")
    draw = random.Random(seed)
    source, peer = tmp_path / "Data.fs", tmp_path / "peer"
    blobs = fill(source, draw)
    command = [sys.executable, "-m", "zodb_dht.cli"]
    subprocess.run([*command, "import", str(source), str(peer), "--blob-dir", f"{source}.blobs"], check=True)
    there = 0
    for n in range(max(ROUNDS // 2, 1)):
        back = disk.at / f"Back {n}.fs"
        arguments = ["export", str(peer), str(back), "--blob-dir", f"{back}.blobs"]
        lines_until([disk], draw, ["-c", SLOW, *arguments], TRANSACTIONS, may_end=True)
        disk.back()
        done = subprocess.run([*command, *arguments, "--verify", "--json"], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done
        document = json.loads(done.stdout)
        there += document["already_there"]
        assert document["verified"]["transactions"] == TRANSACTIONS
        assert document["verified"]["blobs"] == blobs
        back.unlink()
        shutil.rmtree(f"{back}.blobs")
    assert there, "each loss came before anything was durable: nothing was shown"
