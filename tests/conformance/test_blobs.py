"""ZODB's suite for blob storages, unchanged, on DHTStorage: its doctests and test cases, one item each."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import unittest
from collections.abc import Iterator

import pytest
from ZODB.tests import testblob
from zodb_dht import DHTStorage

from .suites import BLOB_SUITE


def create_storage(name: str, blob_dir: str) -> DHTStorage:
    return DHTStorage(name, blob_dir=blob_dir)


def flat(suite: unittest.TestSuite) -> Iterator[unittest.TestCase]:
    for test in suite:
        if isinstance(test, unittest.TestSuite):
            yield from flat(test)
        else:
            assert isinstance(test, unittest.TestCase)
            yield test


CASES = {
    case.id().split("/")[-1].removeprefix("ZODB.tests.testblob."): case
    for case in flat(
        testblob.storage_reusable_suite(
            "DHT", create_storage, test_blob_storage_recovery=True, test_packing=True, test_undo=True
        )
    )
}


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


@pytest.mark.zodb_suite(BLOB_SUITE)
@pytest.mark.parametrize("name", CASES)
def test_blobs(name: str) -> None:
    result = unittest.TestResult()
    with permissions_count():
        CASES[name].run(result)
    assert result.testsRun == 1
    assert not result.skipped, f"it skipped itself: {result.skipped}"
    assert result.wasSuccessful(), "\n".join(text for _, text in result.failures + result.errors)
