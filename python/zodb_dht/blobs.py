"""IBlobStorage and IBlobStorageRestoreable, alike for the root and its views.

The core stages, names and places the files; here are ZODB's methods, and its FilesystemHelper for tools that look into
the directory.
"""

from __future__ import annotations

import os
from typing import Any, BinaryIO, cast

from ZODB.blob import BlobFile, FilesystemHelper

from .errors import POSKeyError, Usage
from .reader import Reader


class Blobs(Reader):
    """What IBlobStorage adds. A file handed over by storeBlob or restoreBlob is the storage's from then on."""

    @property
    def fshelper(self) -> FilesystemHelper:
        """ZODB's names in the blob directory; where it is, says its base_dir."""
        return self._peer.fshelper

    def temporaryDirectory(self) -> str:
        """Where a blob's file is written so that storeBlob can rename it. Emptied when the storage is opened."""
        path: str = self._peer.fshelper.temp_dir
        return path

    def storeBlob(
        self,
        oid: bytes,
        oldserial: bytes | None,
        data: bytes,
        blobfilename: str | os.PathLike[str],
        version: str,
        transaction: Any,
    ) -> None:
        self.store(oid, oldserial, data, version, transaction)
        self._phase(transaction, "storeBlob").stage_blob(oid, _file(blobfilename))

    def restoreBlob(
        self,
        oid: bytes,
        serial: bytes | None,
        data: bytes,
        blobfilename: str | os.PathLike[str],
        prev_txn: bytes | None,
        transaction: Any,
    ) -> None:
        if data is None:
            raise Usage("restoreBlob: a deletion has no blob")
        self.restore(oid, serial, data, "", prev_txn, transaction)
        self._phase(transaction, "restoreBlob").stage_blob(oid, _file(blobfilename))

    def loadBlob(self, oid: bytes, serial: bytes) -> str:
        """The name of the committed file; nobody may write to it. POSKeyError: the revision has none."""
        return self._peer.node.blob_file(oid, serial)

    def openCommittedBlobFile(self, oid: bytes, serial: bytes, blob: Any = None) -> BinaryIO:
        filename = self.loadBlob(oid, serial)
        try:
            return cast("BinaryIO", open(filename, "rb") if blob is None else BlobFile(filename, "r", blob))
        except FileNotFoundError:  # packed away at this moment
            raise POSKeyError(oid) from None


def _file(name: str | os.PathLike[str]) -> str:
    path = os.fspath(name)
    if not isinstance(path, str) or not os.path.isfile(path):
        raise Usage(f"a blob's file: {name!r} is not the name of a file")
    return os.path.abspath(path)
