"""Tests of ZODB, Products.ZCatalog and plone.app.contenttypes with their storage swapped: suites.py [STORAGE ...]

Each suite runs on the stock storage first (see swap.py), then on each STORAGE (dht and dht-shared). Prints how many
ran, failed, were skipped on each, and names each test that fails on a STORAGE and not on the stock one. EXPECTED says
which of these can't pass on another storage, and why; any other ends the run with exit 1.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from environment import BUILD, HERE, ensure, say

# The modules whose subject is another storage, its files or its tools, by pattern of zope-testrunner's --module.
OTHERS = (
    "!test(DemoStorage|FileStorage|MappingStorage|MVCCMappingStorage"
    "|Recover|fsIndex|fsoids|_fsdump|_storage|_racetest)$"
)


@dataclasses.dataclass(frozen=True)
class Suite:
    """What one run of zope-testrunner runs."""

    name: str
    arguments: Sequence[str]


SUITES = (
    Suite("ZODB", ("-s", "ZODB.tests", "--module", OTHERS)),
    Suite(
        "Products.ZCatalog",
        ("-s", "Products.ZCatalog", "-s", "Products.PluginIndexes", "-s", "Products.ZCTextIndex"),
    ),
    # The robot tests drive a browser that PyPI's packages don't bring.
    Suite("plone.app.contenttypes", ("-s", "plone.app.contenttypes", "--module", "!test_robot")),
)

LIMIT_SECONDS = 1800

NO_ADAPTER = "reaches into ZODB's MVCCAdapter, which a storage with snapshots of its own does not get"
OWN_CLOCK = "replaces time.time(), from which the stock storage makes its tids; the core has its own clock"
STOCK = "speaks of the stock storage: its class, its cleanup(), its lack of prefetch or of blobs"

EXPECTED: Mapping[str, str] = {
    "test_demo_config (ZODB.tests.testConfig.ZODBConfigTest.test_demo_config)": STOCK,
    "test_map_config1 (ZODB.tests.testConfig.ZODBConfigTest.test_map_config1)": STOCK,
    "test_map_config2 (ZODB.tests.testConfig.ZODBConfigTest.test_map_config2)": STOCK,
    "test_map_config1 (ZODB.tests.testblob.ZODBBlobConfigTest.test_map_config1)": STOCK,
    "passing_None_to_DB (ZODB.tests.testDB)": STOCK,
    "test_prefetch (ZODB.tests.test_prefetch.PrefetchTests.test_prefetch)": STOCK,
    "doctest_invalidate (ZODB.tests.testConnection.InvalidationTests)": NO_ADAPTER,
    "doctest_invalidateCache (ZODB.tests.testConnection)": NO_ADAPTER,
    "doctest_isReadOnly (ZODB.tests.testConnection.UserMethodTests)": NO_ADAPTER,
    "test_invalidateCache (ZODB.tests.testDB)": NO_ADAPTER,
    "test_mvccadapterNewTransactionVsInvalidations (ZODB.tests.testConnection.InvalidationTests"
    ".test_mvccadapterNewTransactionVsInvalidations)": NO_ADAPTER,
    "connectionDebugInfo (ZODB.tests.testDB)": OWN_CLOCK,
    "ZODB/historical_connections.rst": OWN_CLOCK,
}


@dataclasses.dataclass
class Counts:
    """What a run of a suite says of itself."""

    ran: int
    failures: int
    errors: int
    skipped: int
    bad: frozenset[str]
    seconds: float


RAN = re.compile(r"^\s+Ran (\d+) tests with (\d+) failures, (\d+) errors and (\d+) skipped", re.MULTILINE)
TOTAL = re.compile(r"^Total: (\d+) tests, (\d+) failures, (\d+) errors and (\d+) skipped", re.MULTILINE)
BAD = re.compile(r"^(?:Failure|Error) in test (.+?)\s*$", re.MULTILINE)
UNIMPORTABLE = re.compile(r"^Module: (\S+)\s*$", re.MULTILINE)


def run(bin_dir: Path, suite: Suite, storage: str) -> Counts:
    log = BUILD / "suites" / f"{suite.name}-{storage}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    [site_packages] = (bin_dir.parent / "lib").glob("python3*/site-packages")
    command = [bin_dir / "python", HERE / "swap.py", storage, f"--test-path={site_packages}", *suite.arguments]
    began = time.monotonic()
    with log.open("wb") as out, tempfile.TemporaryDirectory(prefix="swapped-") as files:
        environment = {**os.environ, "PYTHONWARNINGS": "ignore", "TMPDIR": files}
        subprocess.run(
            command,
            env=environment,
            cwd=log.parent,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            timeout=LIMIT_SECONDS,
        )
    text = log.read_text("utf-8", "replace")
    totals = TOTAL.findall(text) or RAN.findall(text)
    if not totals:
        raise SystemExit(f"{suite.name} on {storage}: the runner did not finish; {log}")
    ran, failures, errors, skipped = map(int, totals[-1])
    named = (name.replace(f"{site_packages}/", "") for name in BAD.findall(text))
    bad = frozenset(named) | frozenset(f"import of {m}" for m in UNIMPORTABLE.findall(text))
    seconds = time.monotonic() - began
    say(f"{suite.name} on {storage}: {ran} ran, {len(bad)} failed ({seconds:.0f} s); {log}")
    return Counts(ran, failures, errors, skipped, bad, seconds)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "storages", nargs="*", metavar="STORAGE", default=["dht", "dht-shared"], help="filestorage, dht, dht-shared"
    )
    parser.add_argument("--suite", action="append", choices=[s.name for s in SUITES], help="only this one")
    args = parser.parse_args()
    bin_dir = ensure("suites", dht=any(name.startswith("dht") for name in args.storages))
    unexpected = 0
    lines = [f"{'':24} {'storage':12} {'ran':>6} {'failed':>7} {'errors':>7} {'skipped':>8} {'s':>6}"]
    for suite in SUITES:
        if args.suite and suite.name not in args.suite:
            continue
        stock = run(bin_dir, suite, "stock")
        for storage in ("stock", *args.storages):
            c = stock if storage == "stock" else run(bin_dir, suite, storage)
            numbers = f"{c.ran:6} {c.failures:7} {c.errors:7} {c.skipped:8} {c.seconds:6.0f}"
            lines.append(f"{suite.name:24} {storage:12} {numbers}")
            for test in sorted(c.bad - stock.bad):
                reason = EXPECTED.get(test)
                unexpected += reason is None
                lines.append(f"{'':24}   {test}: {reason or 'NOT EXPECTED'}")
            if c.ran != stock.ran:
                unexpected += 1
                lines.append(f"{'':24}   {c.ran} tests ran, not {stock.ran}")
    print("\n".join(lines))
    return 1 if unexpected else 0


if __name__ == "__main__":
    sys.exit(main())
