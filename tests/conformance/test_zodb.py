"""ZODB's own suites, unchanged, on DHTStorage; wired as ZODB/tests/testFileStorage.py does for FileStorage."""

from __future__ import annotations

from typing import Any

import ZODB.tests.util
from ZODB import DB
from ZODB.tests import (
    BasicStorage,
    ConflictResolution,
    HistoryStorage,
    IteratorStorage,
    MTStorage,
    PersistentStorage,
    ReadOnlyStorage,
    RecoveryStorage,
    RevisionStorage,
    StorageTestBase,
    Synchronization,
    TransactionalUndoStorage,
    testMVCCMappingStorage,
    testZODB,
)
from zodb_dht import DHTStorage

from .suites import with_checks


@with_checks
class TestStorage(
    StorageTestBase.StorageTestBase,
    BasicStorage.BasicStorage,
    RevisionStorage.RevisionStorage,
    Synchronization.SynchronizedStorage,
    ConflictResolution.ConflictResolvingStorage,
    ConflictResolution.ConflictResolvingTransUndoStorage,
    TransactionalUndoStorage.TransactionalUndoStorage,
    HistoryStorage.HistoryStorage,
    IteratorStorage.IteratorStorage,
    IteratorStorage.ExtendedIteratorStorage,
    PersistentStorage.PersistentStorage,
    MTStorage.MTStorage,
    ReadOnlyStorage.ReadOnlyStorage,
    testMVCCMappingStorage.MVCCTests,
):
    """The storage as an application opens it."""

    use_extension_bytes = True

    def open(self, **options: Any) -> None:
        self._storage = DHTStorage("peer", **options)

    def setUp(self) -> None:
        super().setUp()
        self.open()

    def _new_storage_client(self) -> DHTStorage:
        return self._storage.new_client()


@with_checks
class TestRecovery(StorageTestBase.StorageTestBase, RecoveryStorage.RecoveryStorage):
    """Copying transactions from one peer to another."""

    def setUp(self) -> None:
        super().setUp()
        self._storage = DHTStorage("source")
        self._dst = DHTStorage("destination")

    def tearDown(self) -> None:
        self._dst.close()
        super().tearDown()

    def new_dest(self) -> DHTStorage:
        return DHTStorage("destination")


@with_checks
class TestZODB(testZODB.ZODBTests):
    """Databases and connections."""

    def setUp(self) -> None:
        ZODB.tests.util.TestCase.setUp(self)
        self._storage = DHTStorage("peer")
        self._db = DB(self._storage)
