"""Blobs beside FileStorage's, interleaved, each round in a process of its own: `blobs.py [--sizes N ...] DIR`.

upload    open("w"), write in pieces of 1 MiB, commit: until commit() returned, and until it is on the disk.
          (FileStorage syncs no blob: its second figure is the first one and a sync of the file that it left.)
consume   consumeFile of a file that is there already, commit
download  open() in a new connection, read in pieces of 1 MiB
memory    the peak of the process above what it was before the first transaction, without the pieces themselves

Prints a line a size with the medians and the ratios: above 1 zodb_dht is faster.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

KB, MB, GB = 1 << 10, 1 << 20, 1 << 30
PIECE = MB
KINDS = ("filestorage", "dht")
METRICS = ("upload", "upload_durable", "consume", "consume_durable", "download")


def open_storage(kind: str, path: str) -> Any:
    if kind == "filestorage":
        from ZODB.FileStorage import FileStorage

        os.makedirs(path)
        return FileStorage(os.path.join(path, "Data.fs"), blob_dir=os.path.join(path, "blobs"))
    from zodb_dht import DHTStorage

    return DHTStorage(path)


def write(f: Any, size: int, piece: bytes) -> None:
    for at in range(0, size, PIECE):
        f.write(piece if size - at >= PIECE else piece[: size - at])


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KB


def sync(name: str) -> None:
    with open(name, "rb") as f:
        os.fsync(f.fileno())


def touch_memory(name: str, size: int, piece: bytes) -> None:
    """Write a file and remove it, so that its memory is at hand for the files that are measured.

    A virtual machine's host gives memory at the first touch, ten times as slowly as a file is written to it.
    """
    with open(name, "wb") as f:
        write(f, size, piece)
    os.remove(name)


def worker(kind: str, path: str, size: int, count: int, each: int = 1) -> dict[str, float]:
    """Seconds for each metric, for `count` blobs of `size`, `each` of them a transaction, and bytes of memory."""
    import transaction
    from ZODB.blob import Blob
    from ZODB.DB import DB

    db = DB(open_storage(kind, path))
    piece = os.urandom(PIECE)
    connection = db.open()
    connection.root()["warm"] = Blob(b"the first commit makes directories")
    transaction.commit()
    touch_memory(path + ".touched", size * count, piece)
    took = dict.fromkeys(METRICS, 0.0)
    before = peak()
    for n in range(0, count, each):
        blobs = [Blob() for _ in range(each)]
        connection.root().update(enumerate(blobs, n))
        start = time.perf_counter()
        for blob in blobs:
            with blob.open("w") as f:
                write(f, size, piece)
        transaction.commit()
        returned = time.perf_counter()
        if kind == "filestorage":
            for blob in blobs:
                sync(blob.committed())
        took["upload"] += returned - start
        took["upload_durable"] += time.perf_counter() - start
    for n in range(count):
        name = os.path.join(db.storage.temporaryDirectory(), "consumed")
        with open(name, "wb") as f:
            write(f, size, piece)
        connection.root()["consumed", n] = blob = Blob()
        start = time.perf_counter()
        blob.consumeFile(name)
        transaction.commit()
        returned = time.perf_counter()
        if kind == "filestorage":
            sync(blob.committed())
        took["consume"] += returned - start
        took["consume_durable"] += time.perf_counter() - start
    grown = peak() - before
    connection.close()
    reader = db.open()
    reader.cacheMinimize()
    start = time.perf_counter()
    for n in range(count):
        with reader.root()[n].open() as f:
            while f.read(PIECE):
                pass
    took["download"] = time.perf_counter() - start
    reader.close()
    db.close()
    return {**took, "memory": grown}


def workload(spec: dict[str, Any], sizes: dict[str, int]) -> Iterator[tuple[str, float]]:
    """`compare --only blobs`: MB/s for blobs of each size; "8x64k" are eight a transaction."""
    for name, size in sizes.items():
        count = max(1, min(200, 64 * MB // size))
        path = fresh(spec["path"], name)
        each = int(name.partition("x")[0]) if "x" in name else 1
        for metric, took in worker(spec["kind"], path, size, count, each).items():
            if metric in ("upload", "upload_durable", "download"):
                yield f"blob-{name}-{metric.replace('_', '-')}", size * count / took / 1e6
        leave(path, size)


def fresh(directory: str, name: str) -> str:
    """A new path below a directory. What others left for the disk to write is written first: nobody pays for it."""
    os.makedirs(directory, exist_ok=True)
    os.sync()
    return os.path.join(tempfile.mkdtemp(prefix=f"{name}-", dir=directory), "storage")


def leave(path: str, size: int) -> None:
    """Many small files stay until all is measured: ext4 without a journal, when it makes a file, looks at each inode
    that was freed in the last minutes, for 0.3 ms after one round's removal. Large ones would fill the disk."""
    if size > MB:
        shutil.rmtree(os.path.dirname(path))


def measure(directory: Path, size: int, count: int, rounds: int) -> dict[str, dict[str, list[float]]]:
    """Results by kind and metric, a figure a round; the kinds take turns."""
    results: dict[str, dict[str, list[float]]] = {kind: {} for kind in KINDS}
    for n in range(rounds):
        for kind in KINDS if n % 2 == 0 else KINDS[::-1]:
            path = fresh(str(directory), f"{kind}-{size}-{n}")
            done = subprocess.run(
                [sys.executable, __file__, "--worker", kind, path, str(size), str(count)],
                check=True,
                capture_output=True,
                text=True,
            )
            for metric, value in json.loads(done.stdout).items():
                results[kind].setdefault(metric, []).append(value)
            leave(path, size)
    return results


def report(size: int, count: int, results: dict[str, dict[str, list[float]]]) -> None:
    def median(kind: str, metric: str) -> float:
        return statistics.median(results[kind][metric])

    print(f"{size} bytes, {count} a round, {len(results['dht']['upload'])} rounds; MB/s:")
    for metric in METRICS:
        speed = {kind: size * count / median(kind, metric) / 1e6 for kind in KINDS}
        ratio = speed["dht"] / speed["filestorage"]
        print(f"  {metric:16} filestorage {speed['filestorage']:8.1f}  dht {speed['dht']:8.1f}  ratio {ratio:.2f}")
    memory = {kind: max(results[kind]["memory"]) / MB for kind in KINDS}
    print(
        f"  memory           filestorage {memory['filestorage']:8.1f}  dht {memory['dht']:8.1f}  MiB more at the peak"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path, help="a directory on the disk to measure; made, and emptied afterwards")
    parser.add_argument("--sizes", type=int, nargs="+", default=[64 * KB, 16 * MB], help=f"bytes; {GB} is the big one")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    for size in given.sizes:
        count = max(1, min(200, 64 * MB // size))
        report(size, count, measure(given.directory, size, count, given.rounds))
    shutil.rmtree(given.directory)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        print(json.dumps(worker(sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5]))))
    else:
        main()
