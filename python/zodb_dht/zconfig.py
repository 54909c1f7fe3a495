"""<dhtstorage> of ZConfig: %import zodb_dht. Its keys are in component.xml."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ZODB.config import BaseConfig

from .config import OPTIONS, Settings

if TYPE_CHECKING:
    from .storage import DHTStorage


class DHTStorageFactory(BaseConfig):  # type: ignore[misc]
    """A checked <dhtstorage> section; open() makes the storage. A bad value raises here, while the file is read."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.settings = Settings.of({o.name: getattr(config, o.keyword) for o in OPTIONS})

    def open(self, database_name: str = "unnamed", databases: Any = None) -> DHTStorage:
        from .storage import DHTStorage

        return DHTStorage.from_settings(self.settings)
