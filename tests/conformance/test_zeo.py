"""ZEO's and ZODB's own suites on clients of a real ZEO server process that serves the shared mode.

Wired as ZEO/tests/testZEO.py does for FileStorage.
"""

from __future__ import annotations

from typing import Any, ClassVar

from ZEO.tests import testZEO
from ZODB.tests import RecoveryStorage, StorageTestBase
from ZODB.tests.hexstorage import HexStorage

from .suites import with_checks

SECTION = """
    <dhtstorage 1>
      path {path}
      shared on
      {options}
    </dhtstorage>
"""


def config(path: str = "peer", options: str = "", around: str = "{}") -> str:
    return f"%import zodb_dht\n{around.format(SECTION.format(path=path, options=options))}"


EMPTY = {"testPackUndoLog": "ZEO leaves it empty, and runs it as checkPackUndoLog"}


@with_checks
class TestZEO(testZEO.BlobAdaptedFileStorageTests):
    """All of ZEO's; blobs are sent to the clients and kept in their caches."""

    not_here: ClassVar[dict[str, str]] = EMPTY

    def getConfig(self) -> str:
        return config(options="blob-dir blobs")


@with_checks
class TestZEOHex(testZEO.FullGenericTests):
    """A wrapper at the clients, and its counterpart at the server, which resolves conflicts."""

    not_here: ClassVar[dict[str, str]] = EMPTY
    use_extension_bytes = True

    def getConfig(self) -> str:
        return config(around="%import ZODB.tests\n<serverhexstorage>{}</serverhexstorage>")

    def _wrap_client(self, client: Any) -> Any:
        return HexStorage(client)


@with_checks
class TestZEOSharedBlobs(testZEO.GenericTestBase, testZEO.CommonBlobTests):
    """Blobs in a directory that the clients have in common with the server."""

    blob_cache_dir = "blobs"
    shared_blob_dir = True

    def getConfig(self) -> str:
        return config(options="blob-dir blobs")


@with_checks
class TestZEOResolvingAtTheClient(testZEO.ClientConflictResolutionTests):
    """Conflicts come back to the client, which has the classes."""

    def getConfig(self) -> str:
        return config()


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
        return config(f"peer{self._peers}")
