"""ZODB's own suites, unchanged, on the shared mode and on what people wrap around it."""

from __future__ import annotations

from typing import Any, ClassVar

import ZODB.tests.util
from zc.zlibstorage import ZlibStorage
from ZODB import DB
from ZODB.DemoStorage import DemoStorage
from ZODB.MappingStorage import MappingStorage
from ZODB.tests.hexstorage import HexStorage
from ZODB.tests.StorageTestBase import StorageTestBase
from zodb_dht import DHTStorage

from . import test_zodb

NO_PACK = "ZODB's DemoStorage can't pack changes that it was given: it asks for an attribute that it lacks then"
PACKS = (
    "testPackAfterUndoDeletion",
    "testPackAfterUndoManyTimes",
    "testPackAllRevisions",
    "testPackAllRevisionsNoGC",
    "testPackEmptyStorage",
    "testPackJustOldRevisions",
    "testPackLotsWhileWriting",
    "testPackNowWhileWriting",
    "testPackOnlyOneObject",
    "testPackTomorrow",
    "testPackUndoLog",
    "testPackUnlinkedFromRoot",
    "testPackWhileWriting",
    "testPackWithMultiDatabaseReferences",
    "testPackYesterday",
    "testRedundantPack",
    "testTransactionalUndoAfterPack",
    "testTransactionalUndoAfterPackWithObjectUnlinkFromRoot",
)
NO_UNDO = "the changes are a MappingStorage, which has no undo"
UNDOS = (
    "testCreationUndoneGetTid",
    "testIndicesInUndoInfo",
    "testIndicesInUndoLog",
    "testLoadBeforeUndo",
    "testNotUndoable",
    "testPackAfterUndoDeletion",
    "testPackAfterUndoManyTimes",
    "testPackUndoLog",
    "testPackUnlinkedFromRoot",
    "testSimpleTransactionalUndo",
    "testTransactionalUndoAfterPack",
    "testTransactionalUndoAfterPackWithObjectUnlinkFromRoot",
    "testTransactionalUndoIterator",
    "testTwoObjectUndo",
    "testTwoObjectUndoAgain",
    "testTwoObjectUndoAtOnce",
    "testUndoConflictResolution",
    "testUndoCreationBranch1",
    "testUndoCreationBranch2",
    "testUndoLogMetadata",
    "testUndoMultipleConflictResolution",
    "testUndoMultipleConflictResolutionReversed",
    "testUndoUnresolvable",
    "testUndoZombie",
)
ONE_CLIENT = "a DemoStorage hears of no invalidations but its own"


class TestShared(test_zodb.TestStorage):
    """As a ZEO server or a wrapper has it."""

    def wrap(self, storage: Any) -> Any:
        return storage

    def open(self, **options: Any) -> None:
        self._storage = self.wrap(DHTStorage("peer", shared=True, **options))

    def _new_storage_client(self) -> Any:
        return self.wrap(self._storage.new_client())


class TestHex(TestShared):
    """In the wrapper that ZODB tests wrappers with."""

    def wrap(self, storage: Any) -> Any:
        return HexStorage(storage)


class TestZlib(TestShared):
    """In zc.zlibstorage."""

    def wrap(self, storage: Any) -> Any:
        return ZlibStorage(storage)


class TestDemoChanges(TestShared):
    """As the changes of a DemoStorage."""

    not_here: ClassVar[dict[str, str]] = {
        "test_race_load_vs_external_invalidate": ONE_CLIENT,
        "test_race_external_invalidate_vs_disconnect": ONE_CLIENT,
        "testWriteMethods": "a DemoStorage refuses less than the storages it is made of",
        **dict.fromkeys(PACKS, NO_PACK),
    }

    def wrap(self, storage: Any) -> Any:
        return DemoStorage(base=MappingStorage(), changes=storage)


class TestDemoBase(TestShared):
    """As the base of a DemoStorage."""

    not_here: ClassVar[dict[str, str]] = {
        "test_race_load_vs_external_invalidate": ONE_CLIENT,
        "test_race_external_invalidate_vs_disconnect": ONE_CLIENT,
        "testUpdatesPersist": "a DemoStorage's own changes are in memory",
        "testRedundantPack": "the changes are a MappingStorage, which packs to no earlier time",
        **dict.fromkeys(UNDOS, NO_UNDO),
        "testReadMethods": "a DemoStorage is writable on a base that is not",
        "testWriteMethods": "a DemoStorage is writable on a base that is not",
    }

    def wrap(self, storage: Any) -> Any:
        return DemoStorage(base=storage)


class TestSharedRecovery(test_zodb.TestRecovery):
    """Copying transactions between two of the shared mode."""

    def setUp(self) -> None:
        StorageTestBase.setUp(self)
        self._storage = self.new("source")
        self._dst = self.new_dest()

    def new(self, path: str) -> Any:
        return DHTStorage(path, shared=True)

    def new_dest(self) -> Any:
        return self.new("destination")


class TestHexRecovery(TestSharedRecovery):
    """The same between two wrapped ones."""

    def new(self, path: str) -> Any:
        return HexStorage(super().new(path))


class TestSharedZODB(test_zodb.TestZODB):
    """Databases and connections, through ZODB's own adapter."""

    def new(self) -> Any:
        return DHTStorage("peer", shared=True)

    def setUp(self) -> None:
        ZODB.tests.util.TestCase.setUp(self)
        self._storage = self.new()
        self._db = DB(self._storage)


class TestHexZODB(TestSharedZODB):
    """The same around a wrapper."""

    def new(self) -> Any:
        return HexStorage(super().new())
