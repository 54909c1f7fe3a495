"""`zodb-dht import` and `zodb-dht export`: a database from and to any storage that ZODB can open."""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import sys
import time
from collections.abc import Iterator
from typing import Any, NoReturn

from ZODB.FileStorage import FileStorage
from ZODB.utils import maxtid, readable_tid_repr, z64

from . import conversion, copying, history_free
from .cli import tell
from .conversion import Report
from .errors import Usage
from .exits import DONE, FAILED, USAGE, exit_code
from .filestorage import Complaints
from .places import open_place
from .progress import Bar
from .storage import DHTStorage

PLACE = "the path of a Data.fs, a URI (zeo://..., file://...), or a ZConfig file with a storage in it"
AGAIN = """\
It can be interrupted and repeated: what is there is compared, what is missing is copied. {}

Exit: 0 done, 1 failed, 2 usage, 3 no majority, 4 outcome unknown, 5 corrupt
"""
IN_USE = {
    "import": "So a first copy is made while\nthe old site runs, and a short last one when it is stopped.",
    "export": "DIR must not be in use:\nstop the process that serves it first.",
}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise Usage(message)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="zodb-dht")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="COMMAND")
    for verb, what, names in (
        (
            "import",
            "copy a database into a peer directory, made if there is none",
            (("SOURCE", PLACE), ("DIR", "the peer directory")),
        ),
        ("export", "copy a peer's database to another storage", (("DIR", "the peer directory"), ("DEST", PLACE))),
    ):
        sub = verbs.add_parser(
            verb,
            description=what,
            epilog=AGAIN.format(IN_USE[verb]),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        for name, text in names:
            sub.add_argument(name.lower(), metavar=name, help=text)
        sub.add_argument("--section", metavar="NAME", help="which of several storages of the ZConfig file")
        sub.add_argument("--blob-dir", metavar="BLOBS", help="the directory of the Data.fs's blobs")
        sub.add_argument("--verify", action="store_true", help="at the end compare every record and blob of both")
        sub.add_argument("--json", action="store_true", help="print one JSON document")
    return parser


def run(arguments: list[str]) -> int:
    """Run one command line; returns its exit code."""
    handler = logging.StreamHandler()
    handler.setLevel(logging.ERROR)
    handler.addFilter(lambda record: not Complaints.harmless(record))
    logging.basicConfig(format="zodb-dht: %(message)s", handlers=[handler])
    try:
        options = _parser().parse_args([a for a in arguments if a != "--json"])
        options.json = "--json" in arguments
        return _convert(options)
    except SystemExit as e:  # --help
        return int(e.code or 0)
    except Usage as e:
        print(f"zodb-dht: {e}; see zodb-dht {_verb(arguments)} --help", file=sys.stderr)
        return USAGE
    except KeyboardInterrupt:
        print("zodb-dht: interrupted; the same command goes on from here", file=sys.stderr)
        return FAILED
    except Exception as e:
        print(f"zodb-dht: {e or type(e).__name__}", file=sys.stderr)
        return exit_code(e)


def _verb(arguments: list[str]) -> str:
    return next(a for a in arguments if not a.startswith("-"))


@contextlib.contextmanager
def _both(options: argparse.Namespace) -> Iterator[tuple[Any, Any]]:
    """(source, destination), opened, and closed at the end. The one that may be refused at no cost is opened first."""
    with contextlib.ExitStack() as stack:
        if options.verb == "import":
            with Complaints() as complaints:
                source = open_place(options.source, section=options.section, blob_dir=options.blob_dir)
                stack.callback(source.close)
            complaints.check(options.source)
            conversion.check_source(source)
            destination: Any = DHTStorage(options.dir, shared=True)
            stack.callback(destination.close)
        else:
            source = DHTStorage(options.dir, create=False, read_only=True, shared=True)
            stack.callback(source.close)
            destination = open_place(options.dest, write=True, section=options.section, blob_dir=options.blob_dir)
            stack.callback(destination.close)
        conversion.check_destination(destination)
        yield source, destination


def _convert(options: argparse.Namespace) -> int:
    started = time.monotonic()
    copied = Report()
    with _both(options) as (source, destination), Bar(sys.stderr) as bar:
        whole = history_free.keeps_history(source) and history_free.keeps_history(destination)
        compare = conversion if whole else history_free
        # Others may have nowhere to put a status.
        before = destination.lastTransaction() if isinstance(destination, (DHTStorage, FileStorage)) else maxtid
        transactions = compare.missing(source, destination, copied, bar.step)
        if options.verb == "import":
            copying.copy_transactions(source, transactions, destination._peer, copied, bar.step)
        else:
            conversion.restore(source, transactions, destination, copied, bar.step)
        verified = None
        if options.verify and whole:
            verified = conversion.verify(source, destination, bar.step, before)
        elif options.verify:
            verified = history_free.verify(source, destination, bar.step)
        last = destination.lastTransaction()
    document: dict[str, Any] = {
        "copied": {
            "transactions": copied.transactions,
            "records": copied.records,
            "bytes": copied.size,
            "blobs": copied.blobs,
            "blobs_without_file": copied.without_file,
        },
        "already_there": copied.already_there,
        "last_tid": f"0x{last.hex()}",
        "verified": None,
        "seconds": round(time.monotonic() - started, 3),
    }
    newest = "none" if last == z64 else readable_tid_repr(last)
    lines = [
        f"{copied.transactions} transactions copied, {copied.records} records, {copied.size} bytes,"
        f" {copied.blobs} blobs; {copied.already_there} were there; last {newest}"
    ]
    if verified is not None:
        report, digest = verified
        document["verified"] = {
            "transactions": report.transactions,
            "records": report.records,
            "blobs": report.blobs,
            "sha256": digest,
        }
        lines.append(
            f"verified: {report.transactions} transactions, {report.records} records, {report.blobs} blobs are equal,"
            f" sha256 {digest}"
        )
    if copied.without_file:
        print(
            f"zodb-dht: {copied.without_file} revisions of blobs have no file in the source, and have none in the copy",
            file=sys.stderr,
        )
    tell(json.dumps(document, indent=2) if options.json else "\n".join(lines))
    return DONE
