"""The main job on real input: `python -m zodb_dht.demo [--docs N] [--dir DIR]`.

Builds a Products.ZCatalog over the documentation of the Python distributions installed here, asks it, edits it from
several threads at once, reopens and checks it: in a peer directory, and for comparison in a FileStorage beside it. The
two take turns at going first.
"""

from __future__ import annotations

import argparse
import gc
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

BATCH = 500  # documents a transaction
ROUNDS = 4  # of requests and of edits; even, so that each storage goes first equally often
THREADS = 4
EDITS = 75  # a thread and round


@dataclass
class Contender:
    """One storage, its open database, and the seconds that each part took."""

    name: str
    path: Path
    open_storage: Callable[[Path], Any]
    db: Any = None
    seconds: dict[str, list[float]] = field(default_factory=dict)
    loads: dict[str, int] = field(default_factory=dict)
    retries: int = 0

    def open(self) -> None:
        from .demo_catalog import open_db

        self.db = open_db(self.open_storage(self.path))

    def close(self) -> None:
        if self.db is not None:
            self.db.close()
            self.db = None

    def timed(self, part: str, work: Callable[[], Any]) -> Any:
        gc.collect()  # else one pays for the other's garbage
        start = time.perf_counter()
        result = work()
        self.note(part, time.perf_counter() - start)
        return result

    def note(self, part: str, seconds: float) -> None:
        self.seconds.setdefault(part, []).append(seconds)

    def disk_size(self) -> int:
        return sum(f.stat().st_size for f in self.path.rglob("*") if f.is_file())


def open_ours(path: Path) -> Any:
    from . import DHTStorage

    return DHTStorage(str(path))


def open_filestorage(path: Path) -> Any:
    from ZODB.FileStorage import FileStorage

    path.mkdir(exist_ok=True)
    return FileStorage(str(path / "Data.fs"))


def in_turn(contenders: Sequence[Contender], turn: int) -> list[Contender]:
    return [*contenders] if turn % 2 == 0 else [*reversed(contenders)]


def build(contenders: Sequence[Contender], sources: Sequence[Any]) -> None:
    from . import demo_catalog
    from .demo_progress import Progress

    for c in contenders:
        c.open()
        c.timed("build", partial(demo_catalog.create, c.db))
    with Progress("cataloguing", len(sources) * len(contenders)) as progress:
        for turn, start in enumerate(range(0, len(sources), BATCH)):
            batch = sources[start : start + BATCH]
            for c in in_turn(contenders, turn):
                c.timed("build", partial(demo_catalog.add, c.db, batch))
                progress.advance(len(batch))


def reopen(c: Contender) -> None:
    c.close()
    c.timed("reopen", c.open)


def requests(contenders: Sequence[Contender]) -> None:
    """Each request on a database that was just opened: no object, no record is cached."""
    from . import demo_catalog
    from .demo_progress import Progress

    with Progress("cold requests", ROUNDS * len(demo_catalog.REQUESTS) * len(contenders)) as progress:
        for turn in range(ROUNDS):
            for name, request in demo_catalog.REQUESTS:
                for c in in_turn(contenders, turn):
                    reopen(c)
                    gc.collect()
                    answer = demo_catalog.ask(c.db, request)
                    c.note(f"request {name}", answer.total_s)
                    c.note(f"request {name}, in load()", answer.load_s)
                    c.loads[name] = answer.loads
                    progress.advance()


def edit(contenders: Sequence[Contender], paths: Sequence[str]) -> int:
    """Returns how many edits each database must have."""
    from . import demo_catalog
    from .demo_progress import Progress

    with Progress("concurrent edits", ROUNDS * THREADS * EDITS * len(contenders)) as progress:
        for turn in range(ROUNDS):
            for c in in_turn(contenders, turn):
                editors = demo_catalog.Editors(c.db, paths, THREADS, EDITS, seed=turn)
                c.timed("edits", editors.run)
                c.retries += editors.retries
                progress.advance(THREADS * EDITS)
    return ROUNDS * THREADS * EDITS


def check(contenders: Sequence[Contender], edits: int) -> list[str]:
    from . import demo_checks

    said = []
    for c in contenders:
        reopen(c)
        demo_checks.counted(c.db, edits)
        objects, trees = demo_checks.trees(c.db, c.name)
        said.append(f"{c.name}: all {edits} edits there once, {objects} objects, {trees} BTrees sound")
        said.append(f"{c.name}: {c.retries} conflicts repeated")
    if len(contenders) == 2:
        demo_checks.same_answers(contenders[0].db, contenders[1].db)
        said.append("both answer every request alike")
    for c in contenders:
        c.close()
        if c.open_storage is open_ours:
            r = demo_checks.verify(c.path)
            said.append(
                f"zodb-dht verify: {r['records']} records hashed, {r['transactions']} transactions chained, sound"
            )
    return said


def table(contenders: Sequence[Contender], documents: int, edits: int) -> str:
    """What was done, and how long it took; ratios are the first storage's time over the second's."""
    loads = contenders[0].loads
    rows: list[tuple[str, list[float], str]] = []

    def row(label: str, part: str, combine: Callable[[list[float]], float], unit: str = "s") -> None:
        rows.append((label, [combine(c.seconds[part]) for c in contenders], unit))

    row(f"catalog {documents} documents", "build", sum)
    for name, n in loads.items():
        row(f"cold request {name!r}, {n} loads", f"request {name}", statistics.median)
        row("  of that inside load()", f"request {name}, in load()", statistics.median)
    row(f"{edits} edits by {THREADS} threads", "edits", sum)
    row("reopen", "reopen", statistics.median)
    rows.append(("on disk", [c.disk_size() / 2**20 for c in contenders], "MiB"))
    width = max(len(label) for label, _, _ in rows)
    ratio = f"{'ratio':>10}" if len(contenders) == 2 else ""
    lines = [" " * width + "".join(f"{c.name:>16}" for c in contenders) + ratio]
    for label, values, unit in rows:
        line = f"{label:{width}}" + "".join(f"{f'{v:.3f} {unit}':>16}" for v in values)
        lines.append(line + (f"{values[0] / values[1]:>10.2f}" if len(values) == 2 and values[1] else ""))
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m zodb_dht.demo", description=__doc__.split("\n\n")[0])
    parser.add_argument("--docs", type=int, default=12_000, help="documents to catalog (default: %(default)s)")
    parser.add_argument("--dir", type=Path, help="keep the databases here (default: a temporary directory, removed)")
    parser.add_argument("--only", choices=("dht", "filestorage"), help="leave the other one out")
    options = parser.parse_args(argv)
    if options.docs < 1:
        parser.error("--docs: want at least 1")
    try:
        from . import demo_catalog  # noqa: F401
    except ImportError as error:
        print(f"The demo needs Products.ZCatalog: pip install Products.ZCatalog ({error})", file=sys.stderr)
        return 1
    if options.dir is not None and options.dir.exists() and any(options.dir.iterdir()):
        parser.error(f"--dir: {options.dir} is not empty")
    where = options.dir or Path(tempfile.mkdtemp(prefix="zodb-dht-demo-"))
    where.mkdir(parents=True, exist_ok=True)
    try:
        return demo(where, options.docs, options.only)
    finally:
        if options.dir is None:
            shutil.rmtree(where)


def demo(where: Path, docs: int, only: str | None) -> int:
    from .demo_checks import CheckFailed
    from .demo_documents import collect

    contenders = [
        c
        for key, c in (
            ("dht", Contender("zodb_dht", where / "peer", open_ours)),
            ("filestorage", Contender("FileStorage", where / "filestorage", open_filestorage)),
        )
        if only in (None, key)
    ]
    sources = collect(docs)
    if len(sources) < docs:
        print(f"The distributions installed here hold {len(sources)} documents only.", file=sys.stderr)
    try:
        build(contenders, sources)
        requests(contenders)
        edits = edit(contenders, [s.path for s in sources])
        said = check(contenders, edits)
    except CheckFailed as error:
        print(f"FAILED: {error}", file=sys.stderr)
        return 1
    finally:
        for c in contenders:
            c.close()
    print(f"\n{table(contenders, len(sources), edits)}\n")
    print("\n".join(f"- {line}" for line in said))
    return 0


if __name__ == "__main__":
    sys.exit(main())
