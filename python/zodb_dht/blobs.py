"""IBlobStorage and IBlobStorageRestoreable, alike for the root and its views.

The core stages, names and places the files; here are ZODB's methods, and its FilesystemHelper for tools that look into
the directory.
"""

from __future__ import annotations

import contextlib
import os
from typing import Any, BinaryIO, cast

from ZODB.blob import BlobFile, FilesystemHelper, rename_or_copy_blob
from ZODB.utils import oid_repr

from .errors import Closed, POSKeyError, Usage
from .reader import Reader
from .tpc import Phase


class Blobs(Reader):
    """What IBlobStorage adds. A file handed over by storeBlob or restoreBlob is the storage's from then on."""

    fshelper: FilesystemHelper
    """ZODB's names in the blob directory; where it is, says its base_dir."""

    def temporaryDirectory(self) -> str:
        """Where a blob's file is written so that storeBlob can rename it. Emptied when the storage is opened."""
        path: str = self.fshelper.temp_dir
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
        self._stage(oid, blobfilename, self._phase(transaction, "storeBlob"))

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
        self._stage(oid, blobfilename, self._phase(transaction, "restoreBlob"))

    def _stage(self, oid: bytes, filename: str | os.PathLike[str], phase: Phase) -> None:
        """Bring the file onto the blobs' file system, by a copy if it must be, and hand it to the core.

        With ZODB's own function, though the core renames and copies, too: it logs the copy.
        """
        if not os.path.isfile(filename):
            raise Usage(f"the blob of oid {oid_repr(oid)}: {filename!r} is not the name of a file")
        handed = os.path.join(self.fshelper.temp_dir, f"{phase.txn_id.hex()}-{oid.hex()}")
        try:
            rename_or_copy_blob(os.fspath(filename), handed)
            phase.stage_blob(oid, handed)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):  # half a copy, on a full disk
                os.remove(handed)
            raise

    def loadBlob(self, oid: bytes, serial: bytes) -> str:
        """The name of the committed file; nobody may write to it. POSKeyError: the revision has none."""
        try:
            return self._peer.node.blob_file(oid, serial, False)
        except Closed:  # the files outlive the storage, and ZODB's TmpStore asks for them then
            filename: str = self.fshelper.getBlobFilename(oid, serial)
            if not os.path.exists(filename):
                raise
            return filename

    def verify_blob(self, oid: bytes, serial: bytes) -> str:
        """loadBlob, after reading the file to its end: Corrupt if any byte is not what was committed."""
        return self._peer.node.blob_file(oid, serial, True)

    def openCommittedBlobFile(self, oid: bytes, serial: bytes, blob: Any = None) -> BinaryIO:
        filename = self.loadBlob(oid, serial)
        try:
            return cast("BinaryIO", open(filename, "rb") if blob is None else BlobFile(filename, "r", blob))
        except FileNotFoundError:  # packed away at this moment
            self.loadBlob(oid, serial)  # ReadConflictError for a snapshot from before the pack
            raise POSKeyError(oid) from None
