"""Which of ZODB's and ZEO's own suites run on DHTStorage, and which of their tests wait for blobs."""

from __future__ import annotations

import inspect
from typing import TypeVar

from ZEO.tests import Cache, CommitLockTests, IterationTests, ThreadTests, testZEO
from ZODB.tests import (
    BasicStorage,
    ConflictResolution,
    HistoryStorage,
    IteratorStorage,
    MTStorage,
    PackableStorage,
    PersistentStorage,
    ReadOnlyStorage,
    RecoveryStorage,
    RevisionStorage,
    Synchronization,
    TransactionalUndoStorage,
    racetest,
    testMVCCMappingStorage,
    testZODB,
)

PREFIXES = ("test", "check")
"""ZODB's tests are named either way; unittest and pytest know the first only."""

SUITES: tuple[type, ...] = (
    BasicStorage.BasicStorage,
    racetest.RaceTests,
    Synchronization.SynchronizedStorage,
    MTStorage.MTStorage,
    ConflictResolution.ConflictResolvingStorage,
    ConflictResolution.ConflictResolvingTransUndoStorage,
    TransactionalUndoStorage.TransactionalUndoStorage,
    testMVCCMappingStorage.MVCCTests,
    PersistentStorage.PersistentStorage,
    IteratorStorage.IteratorStorage,
    IteratorStorage.ExtendedIteratorStorage,
    ReadOnlyStorage.ReadOnlyStorage,
    RecoveryStorage.RecoveryStorage,
    RevisionStorage.RevisionStorage,
    PackableStorage.PackableStorage,
    PackableStorage.PackableStorageWithOptionalGC,
    HistoryStorage.HistoryStorage,
    PackableStorage.PackableUndoStorage,
    testZODB.ZODBTests,
    CommitLockTests.CommitLockVoteTests,
    ThreadTests.ThreadTests,
    IterationTests.IterationTests,
    testZEO.MiscZEOTests,
    Cache.TransUndoStorageWithCache,
    testZEO.FullGenericTests,
    testZEO.CommonBlobTests,
    testZEO.BlobAdaptedFileStorageTests,
)

# Tests of the suites above that can't run yet.
WAITING: dict[str, str] = {}

BLOB_SUITE, GC_SUITE, HISTORICAL_SUITE = MADE = (
    "storage_reusable_suite",
    "IExternalGC_suite",
    "testhistoricalconnections",
)
"""Functions that make a suite: ZODB.tests.testblob's, PackableStorage's, and a test_suite: test_made.py."""


def tests_of(suite: type) -> list[str]:
    """The names of a suite's tests, inherited ones included."""
    return [n for n, _ in inspect.getmembers(suite, inspect.isfunction) if n.startswith(PREFIXES)]


def suite_of(case: type, name: str) -> type | None:
    """The suite that a test case has this test from."""
    for suite in case.__mro__:
        if name in vars(suite):
            return suite if suite in SUITES else None
    return None


Case = TypeVar("Case", bound=type)


def with_checks(case: Case) -> Case:
    """Make a test case's check* tests known to the runner, each as test_check*; nothing is overridden."""
    for name in tests_of(case):
        if name.startswith("check"):
            alias = f"test_{name}"
            assert not hasattr(case, alias)
            setattr(case, alias, getattr(case, name))
    return case
