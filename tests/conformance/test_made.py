"""What ZODB makes suites of by functions, unchanged: for blob storages, for external garbage collectors, and historical
connections. One item for each of their doctests and test cases.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import sys
import unittest
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import ZODB.MappingStorage
import ZODB.tests.util
from ZEO.ClientStorage import ClientStorage
from ZEO.tests import forker, testZEO
from ZODB import DB
from ZODB.tests import PackableStorage, testblob, testhistoricalconnections
from ZODB.tests.hexstorage import HexStorage
from zodb_dht import DHTStorage
from zope.testing.renormalizing import RENormalizing

from .suites import BLOB_SUITE, GC_SUITE, HISTORICAL_SUITE
from .test_zeo import config


class Served(ClientStorage):  # type: ignore[misc]
    """A client with a server of its own."""

    def __init__(self, name: str, blob_dir: str, *, shared: bool = False, options: str = "") -> None:
        at_server = blob_dir if shared else f"server-{blob_dir}"
        address, stop = forker.start_zeo_server(config(name, f"blob-dir {at_server}\n{options}"))
        self._stop: Callable[[], None] | None = stop
        super().__init__(address, blob_dir=blob_dir, shared_blob_dir=shared, wait_timeout=60)

    def close(self) -> None:
        super().close()
        stop, self._stop = self._stop, None
        if stop is not None:
            stop()


class ServedForGC(Served):
    """As ZEO's tests have it: a pack is waited for, and clears the caches, which it does not by itself."""

    pack = testZEO.ServerManagingClientStorageForIExternalGCTest.pack


def own(name: str, blob_dir: str, **options: Any) -> DHTStorage:
    return DHTStorage(name, blob_dir=blob_dir, **options)


def hexed(name: str, blob_dir: str, **options: Any) -> Any:
    return HexStorage(own(name, blob_dir, shared=True, **options))


FACTORIES: dict[str, Callable[..., Any]] = {"DHT": own, "Shared": partial(own, shared=True), "Hex": hexed}
"""HexStorage asks each pack for garbage collection, so it is no case of IExternalGC's."""
AT_SERVER: dict[str, Callable[..., Any]] = {"ZEO": Served, "ZEOSharedBlobs": partial(Served, shared=True)}


def flat(suite: unittest.TestSuite) -> Iterator[unittest.TestCase]:
    for test in suite:
        if isinstance(test, unittest.TestSuite):
            yield from flat(test)
        else:
            assert isinstance(test, unittest.TestCase)
            yield test


def historical(kind: str) -> unittest.TestSuite:
    """It names no storage but MappingStorage.DB, which is another one meanwhile."""
    suite = testhistoricalconnections.test_suite()
    assert isinstance(suite, unittest.TestSuite)
    for case in flat(suite):
        case.addCleanup(setattr, ZODB.MappingStorage, "DB", ZODB.MappingStorage.DB)
        run = case.run

        def on_ours(result: Any = None, run: Any = run) -> Any:
            ZODB.MappingStorage.DB = lambda: DB(DHTStorage("peer", shared=kind == "Shared"))
            return run(result)

        case.run = on_ours  # type: ignore[method-assign]
    return suite


PACKED_AWAY = re.compile(r"ZODB\.POSException\.ReadConflictError: (load|blob of) oid 0x0\d .*the database was packed.*")


def external_gc(factory: Callable[[], Any]) -> unittest.TestSuite:
    """A read in the past of what was packed away since is a ReadConflictError here, whose transaction is repeated.

    FileStorage has a POSKeyError for it: the one thing that the doctest has otherwise.
    """
    suite: unittest.TestSuite = PackableStorage.IExternalGC_suite(factory)
    checker = RENormalizing([(PACKED_AWAY, "ZODB.POSException.POSKeyError: ...")])
    for case in flat(suite):
        case._dt_checker = ZODB.tests.util.checker + checker  # type: ignore[attr-defined]
    return suite


def made() -> Iterator[tuple[str, str, unittest.TestSuite]]:
    """(function, kind of storage, what it made)."""
    for kind, factory in FACTORIES.items():
        yield (
            BLOB_SUITE,
            kind,
            testblob.storage_reusable_suite(
                kind, factory, test_blob_storage_recovery=True, test_packing=True, test_undo=True
            ),
        )
        if kind != "Hex":
            yield GC_SUITE, kind, external_gc(partial(factory, "data", "blobs", pack_gc=False))
    for kind, factory in AT_SERVER.items():
        yield BLOB_SUITE, kind, testblob.storage_reusable_suite(kind, factory)  # as ZEO does for FileStorage
    yield GC_SUITE, "ZEO", external_gc(partial(ServedForGC, "data", "blobs", options="pack-gc off"))
    for kind in ("DHT", "Shared"):
        yield HISTORICAL_SUITE, kind, historical(kind)


def items() -> Iterator[Any]:
    for suite, kind, tests in made():
        for case in flat(tests):
            name = case.id().split("/")[-1].removeprefix("ZODB.tests.testblob.")
            yield pytest.param(case, id=f"{kind}-{name}", marks=pytest.mark.zodb_suite(suite, kind, name))


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Sets(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


@contextlib.contextmanager
def permissions_count() -> Iterator[None]:
    """root may write to any file; ZODB's doctests expect that a committed one refuses. Linux: without CAP_DAC_OVERRIDE
    in this thread it does."""
    if os.geteuid() != 0 or sys.platform != "linux":
        yield
        return
    libc = ctypes.CDLL(None, use_errno=True)
    header, sets = _Header(0x20080522, 0), (_Sets * 2)()
    assert libc.capget(ctypes.byref(header), sets) == 0, os.strerror(ctypes.get_errno())
    had = sets[0].effective
    sets[0].effective = had & ~(1 << 1)
    assert libc.capset(ctypes.byref(header), sets) == 0, os.strerror(ctypes.get_errno())
    try:
        yield
    finally:
        sets[0].effective = had
        libc.capset(ctypes.byref(header), sets)


@pytest.mark.parametrize("case", list(items()))
def test_made(case: unittest.TestCase) -> None:
    result = unittest.TestResult()
    with permissions_count():
        case.run(result)
    assert result.testsRun == 1
    assert not result.skipped, f"it skipped itself: {result.skipped}"
    assert result.wasSuccessful(), "\n".join(text for _, text in result.failures + result.errors)
