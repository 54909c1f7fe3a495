"""Storages on fresh peer directories, closed at the end of the test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import transaction
from zodb_dht import DHTStorage

Opener = Callable[..., DHTStorage]


@pytest.fixture
def open_storage(tmp_path: Path) -> Iterator[Opener]:
    """open_storage(name="peer", **options): a storage in the test's own directory."""
    storages: list[DHTStorage] = []

    def open_one(directory: str = "peer", **options: Any) -> DHTStorage:
        storage = DHTStorage(tmp_path / directory, **options)
        storages.append(storage)
        return storage

    yield open_one
    transaction.abort()
    for storage in reversed(storages):
        storage.close()


@pytest.fixture
def storage(open_storage: Opener) -> DHTStorage:
    return open_storage()
