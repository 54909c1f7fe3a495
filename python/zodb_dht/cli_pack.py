"""`zodb-dht pack` with garbage collection; what it prints and its exit codes are those of cmd/zodb-dht."""

from __future__ import annotations

import argparse
import datetime
import json
import math
import sys
import time
from typing import Any, NoReturn

from persistent.timestamp import TimeStamp
from ZODB.serialize import referencesf

from . import packing
from .cli import tell
from .exits import DONE, FAILED, USAGE, exit_code
from .storage import DHTStorage


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(USAGE, f"zodb-dht: pack: {message}; see zodb-dht help\n")


def _days(text: str) -> float:
    try:
        days = float(text)
    except ValueError:
        days = math.nan
    if not 0 <= days < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r}: want a number of days")
    return time.time() - days * 86400


def _moment(text: str) -> float:
    try:
        moment = datetime.datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: want 2026-01-31 or 2026-01-31T12:00, in UTC") from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=datetime.timezone.utc)
    return moment.timestamp()


def _arguments(arguments: list[str]) -> argparse.Namespace:
    parser = _Parser(prog="zodb-dht pack", add_help=False, allow_abbrev=False)
    parser.add_argument("directory", metavar="DIR")
    when = parser.add_mutually_exclusive_group()
    when.add_argument("--days", type=_days, dest="to", metavar="N")
    when.add_argument("--to", type=_moment, dest="to", metavar="TIME")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args(arguments)


class _Progress:
    """A bar for each phase (tqdm), or a line for it where tqdm is not installed; nothing without a terminal."""

    def __init__(self) -> None:
        self._phase = ""
        self._bar: Any = None
        try:
            from tqdm import tqdm
        except ModuleNotFoundError:
            tqdm = None
        self._tqdm = tqdm

    def __call__(self, phase: str, done: int, total: int) -> None:
        if sys.stderr is None or not sys.stderr.isatty():  # None: the process was started without
            return
        if phase != self._phase:
            self.close()
            self._phase = phase
            if self._tqdm is None:
                print(f"pack: {phase} ...", file=sys.stderr)
            else:
                self._bar = self._tqdm(desc=f"pack: {phase}", total=total or None, leave=False, file=sys.stderr)
        if self._bar is not None:
            self._bar.total = total or None
            self._bar.update(done - self._bar.n)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def _size(n: float) -> str:
    units = iter(("B", "KiB", "MiB", "GiB", "TiB", "PiB"))
    unit = next(units)
    while n >= 1024 and unit != "PiB":
        n, unit = n / 1024, next(units)
    return f"{n:.1f} {unit}" if unit != "B" else f"{n} B"


def _pack(arguments: argparse.Namespace) -> dict[str, Any]:
    storage = DHTStorage(arguments.directory, create=False)
    try:
        before = storage.getSize()
        progress = _Progress()
        to = packing.tid_of(time.time() if arguments.to is None else arguments.to)
        try:
            packed = packing.pack(storage._peer.node, to, referencesf, progress)
        finally:
            progress.close()
        stats = storage._stats()
        return {
            "path": arguments.directory,
            "packed": packed,
            "to": stats["horizon"],
            "gc": True,
            "objects": stats["objects"],
            "records": stats["records"],
            "size_before": before,
            "size_after": storage.getSize(),
        }
    finally:
        storage.close()


def _line(doc: dict[str, Any]) -> str:
    moment = str(TimeStamp(bytes.fromhex(doc["to"].removeprefix("0x"))))[:23].replace(" ", "T") + "Z"
    what = f"packed to {moment}" if doc["packed"] else f"nothing to pack since {moment}"
    sizes = f"{_size(doc['size_after'])} of {_size(doc['size_before'])}"
    return f"{doc['path']}: {what}: {doc['records']} records of {doc['objects']} objects, {sizes}"


def main(arguments: list[str]) -> int:
    """Run the command; its exit code."""
    parsed = _arguments(arguments)
    try:
        doc = _pack(parsed)
        tell(json.dumps(doc, indent=2) if parsed.json else _line(doc))
    except KeyboardInterrupt:
        print("zodb-dht: pack: interrupted; the next pack or open goes on with what was begun", file=sys.stderr)
        return FAILED
    except Exception as error:
        print(f"zodb-dht: pack {parsed.directory}: {error}", file=sys.stderr)
        return exit_code(error)
    return DONE
