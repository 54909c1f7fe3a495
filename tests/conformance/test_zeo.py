"""ZEO's and ZODB's own suites on clients of a real ZEO server process that serves the shared mode.

Wired as ZEO/tests/testZEO.py does for FileStorage.
"""

from __future__ import annotations

from typing import Any

import pytest
from ZEO.tests import CommitLockTests, IterationTests, ThreadTests, testZEO
from ZODB.tests import (
    BasicStorage,
    ConflictResolution,
    IteratorStorage,
    MTStorage,
    ReadOnlyStorage,
    RecoveryStorage,
    RevisionStorage,
    StorageTestBase,
    Synchronization,
)
from ZODB.tests.hexstorage import HexStorage

from .suites import with_checks

SECTION = """
    <dhtstorage 1>
      path {path}
      shared on
    </dhtstorage>
"""


@pytest.fixture(autouse=True)
def _spawned_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    # ZEO forks its test servers otherwise, and a child of a process that has a peer open may have none.
    monkeypatch.setenv("ZEO_PROCESS_TYPE", "spawn")


def config(section: str) -> str:
    return f"%import zodb_dht\n{section}"


@with_checks
class TestZEO(
    testZEO.GenericTestBase,
    BasicStorage.BasicStorage,
    Synchronization.SynchronizedStorage,
    MTStorage.MTStorage,
    ReadOnlyStorage.ReadOnlyStorage,
    ConflictResolution.ConflictResolvingStorage,
    RevisionStorage.RevisionStorage,
    IteratorStorage.IteratorStorage,
    CommitLockTests.CommitLockVoteTests,
    ThreadTests.ThreadTests,
    IterationTests.IterationTests,
    testZEO.MiscZEOTests,
):
    """Clients of a server, as ZEO's FullGenericTests."""

    open = testZEO.GenericTests.open
    _do_store_in_separate_thread = testZEO.GenericTests._do_store_in_separate_thread

    def getConfig(self) -> str:
        return config(SECTION.format(path="peer"))


@with_checks
class TestZEOResolvingAtTheClient(testZEO.ClientConflictResolutionTests):
    """Conflicts come back to the client, which has the classes."""

    def getConfig(self) -> str:
        return config(SECTION.format(path="peer"))


@with_checks
class TestZEOHex(
    testZEO.GenericTestBase,
    BasicStorage.BasicStorage,
    ConflictResolution.ConflictResolvingStorage,
    RevisionStorage.RevisionStorage,
    IteratorStorage.IteratorStorage,
):
    """A wrapper at the clients, and its counterpart at the server, which resolves conflicts."""

    use_extension_bytes = True

    def getConfig(self) -> str:
        section = f"%import ZODB.tests\n<serverhexstorage>{SECTION.format(path='peer')}</serverhexstorage>"
        return config(section)

    def _wrap_client(self, client: Any) -> Any:
        return HexStorage(client)


@with_checks
class TestZEORecovery(StorageTestBase.StorageTestBase, RecoveryStorage.RecoveryStorage):
    """Copying transactions from one server to another."""

    setUp = testZEO.FileStorageRecoveryTests.setUp
    tearDown = testZEO.FileStorageRecoveryTests.tearDown
    new_dest = testZEO.FileStorageRecoveryTests.new_dest
    _new_storage = testZEO.FileStorageRecoveryTests._new_storage
    _peers = 0

    def getConfig(self) -> str:
        self._peers += 1
        return config(SECTION.format(path=f"peer{self._peers}"))
