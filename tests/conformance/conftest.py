"""Tells how many tests of each of ZODB's suites ran and which wait; a skip that is not listed is a failure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from .suites import MADE, SUITES, WAITING, suite_of, tests_of

HERE = Path(__file__).parent


@pytest.fixture(autouse=True)
def _spawned_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    # ZEO forks its test servers otherwise, and a child of a process that has a peer open may have none.
    monkeypatch.setenv("ZEO_PROCESS_TYPE", "spawn")


class Report:
    """Who ran, who waits, in one run."""

    def __init__(self) -> None:
        self.ran: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()
        self.cases: Counter[str] = Counter()
        self.waiting: set[str] = set()
        self.not_here: dict[str, str] = {}


REPORT = pytest.StashKey[Report]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[REPORT] = Report()
    config.addinivalue_line("markers", "zodb_suite(suite, kind, name): a test of a suite that ZODB makes by a function")
    known = {f"{suite.__name__}.{name}" for suite in SUITES for name in tests_of(suite)}
    if gone := WAITING.keys() - known:
        raise pytest.UsageError(f"tests/conformance/suites.py lists as waiting what ZODB has not: {sorted(gone)}")


def _origin(item: pytest.Item) -> tuple[str, str] | None:
    """(suite, name of the test) of an item made from one of ZODB's suites."""
    if isinstance(item, pytest.Function) and (made := item.get_closest_marker("zodb_suite")):
        return made.args[0], made.args[2]
    if not isinstance(item, pytest.Function) or item.cls is None or HERE not in item.path.parents:
        return None
    name = item.originalname.removeprefix("test_") if item.originalname.startswith("test_check") else item.originalname
    suite = suite_of(item.cls, name) or suite_of(item.cls, item.originalname)
    return (suite.__name__, name if hasattr(suite, name) else item.originalname) if suite else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    report = config.stash[REPORT]
    waiting = []
    for item in items:
        origin = _origin(item)
        if origin and ".".join(origin) in WAITING:
            waiting.append(item)
            report.waiting.add(".".join(origin))
        elif origin and (why := getattr(item.cls, "not_here", {}).get(origin[1])):
            waiting.append(item)
            report.not_here[f"{item.cls.__name__}: {'.'.join(origin)}"] = why
    if waiting:
        config.hook.pytest_deselected(items=waiting)
        items[:] = [item for item in items if item not in waiting]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: Any) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    result = yield
    origin = _origin(item)
    if origin is None:
        return result
    if result.skipped:
        result.outcome = "failed"
        result.longrepr = f"{'.'.join(origin)} skipped itself, and is not listed as waiting: {result.longrepr}"
    report = item.config.stash[REPORT]
    if result.when == "call":
        report.ran[origin[0]] += 1
        made = item.get_closest_marker("zodb_suite")
        report.cases[f"{made.args[0]} on {made.args[1]}" if made else item.cls.__name__] += 1
    if result.failed:
        report.failed[origin[0]] += 1
    return result


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    report = config.stash[REPORT]
    if not report.ran:
        return
    terminalreporter.section("ZODB's own suites")
    for name in [*(suite.__name__ for suite in SUITES), *MADE]:
        waiting = sum(1 for test in WAITING if test.startswith(f"{name}."))
        failed = f", {report.failed[name]} failed" if report.failed[name] else ""
        waits = f", {waiting} waiting" if waiting else ""
        terminalreporter.line(f"{name:26} {report.ran[name]:3} ran{failed}{waits}")
    terminalreporter.line(f"{'all':26} {report.ran.total():3} ran, {report.failed.total()} failed; waiting:")
    for test, needs in WAITING.items():
        terminalreporter.line(f"  {test} needs {needs}")
    for test, why in report.not_here.items():
        terminalreporter.line(f"  {test} can't run there: {why}")
    cases = ", ".join(f"{name} {count}" for name, count in report.cases.items())
    terminalreporter.line(f"by test case: {cases}")
