"""zodb_dht: a ZODB storage without a central server.

The native library is loaded when a storage is opened, not before: a fork after that hangs the child.
"""

from __future__ import annotations

from .mvcc import MVCCStorage
from .shared import SharedStorage
from .storage import DHTStorage

__all__ = ["DHTStorage", "MVCCStorage", "SharedStorage", "version"]


def version() -> str:
    """The installed package's version."""
    from importlib.metadata import version as installed

    return installed("zodb_dht")
