"""MVCCStorage: each connection of a ZODB.DB reads through a view of its own (IMVCCStorage)."""

from __future__ import annotations

from typing import Any, NoReturn

import zope.interface
from ZODB.interfaces import IMVCCStorage, IStorageWrapper

from .errors import Unsupported
from .storage import DHTStorage
from .view import DHTView


@zope.interface.implementer(IMVCCStorage)
class MVCCStorage(DHTStorage):
    """What DHTStorage opens unless it is told `shared`: ZODB.DB puts no adapter on top."""

    def registerDB(self, wrapper: Any) -> None:
        # A wrapper hands on new_instance() and with it connections that read and write past the wrapper: what it
        # transforms would be mixed with what it does not.
        if IStorageWrapper.providedBy(wrapper):
            raise Unsupported(
                f"{type(wrapper).__name__} wraps {self._settings.path}, whose connections would bypass it: open the"
                " storage with `shared` on"
            )
        super().registerDB(wrapper)

    @property
    def _lock(self) -> NoReturn:
        raise AttributeError(f"{self._settings.path}: only a storage with `shared` on has a lock for what wraps it")

    def new_instance(self) -> DHTView:
        """A view for one connection."""
        self._peer  # noqa: B018 - Closed
        return DHTView(self)

    def release(self) -> None:
        """The root holds no snapshot."""

    def poll_invalidations(self) -> list[bytes]:
        """The root always reads the newest state, so nothing that it returned is a cached snapshot."""
        return []

    def sync(self, force: bool = True) -> None:
        """The peer is in this process: lastTransaction is all that it has acknowledged."""
