"""zodb_dht: a ZODB storage without a central server.

DHTStorage is loaded on first use, and the native library with it. The library's threads start when a storage is opened,
not before: a fork after that leaves the child without them.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .storage import DHTStorage

__all__ = ["DHTStorage", "version"]


def version() -> str:
    """The installed package's version."""
    from importlib.metadata import version as installed

    return installed("zodb_dht")


def __getattr__(name: str) -> Any:
    if name == "DHTStorage":
        from . import mvcc, shared  # noqa: F401 - one of them is what it opens: not to be waited for then

        if sys.platform == "linux":  # elsewhere it starts its threads at once: bridge/start.h
            from . import _core  # noqa: F401
        from .storage import DHTStorage

        return DHTStorage
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
