"""Opens each storage that the benchmark compares, from the description that the driver hands over as JSON.

Caches are ample in every one of them (`cache_mb`), and every commit is on disk when it returns: where a storage's own
default is less than that, the description says so here.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

Spec = dict[str, Any]
MB = 1 << 20
CACHE_MB = 300
"""Larger than every database whose warm loads are measured."""


def open_storage(spec: Spec, cache_mb: int = CACHE_MB) -> Any:
    """The storage that spec {"kind", and "path" or "host" or "dsn" or "masters"} names; made if it does not exist."""
    return _OPENERS[spec["kind"]](spec, cache_mb)


def _filestorage(spec: Spec, cache_mb: int) -> Any:
    from ZODB.FileStorage import FileStorage

    os.makedirs(spec["path"], exist_ok=True)
    return FileStorage(os.path.join(spec["path"], "Data.fs"))


def _zeo(spec: Spec, cache_mb: int) -> Any:
    from ZEO.ClientStorage import ClientStorage

    return ClientStorage((spec["host"], spec["port"]), cache_size=cache_mb * MB, wait_timeout=30)


def _postgresql(spec: Spec, cache_mb: int) -> Any:
    from relstorage.adapters.postgresql import PostgreSQLAdapter
    from relstorage.options import Options
    from relstorage.storage import RelStorage

    options = Options(cache_local_mb=cache_mb, driver="psycopg2")
    return RelStorage(PostgreSQLAdapter(dsn=spec["dsn"], options=options), options=options)


def _sqlite(spec: Spec, cache_mb: int) -> Any:
    from relstorage.adapters.sqlite.adapter import Sqlite3Adapter
    from relstorage.options import Options
    from relstorage.storage import RelStorage

    os.makedirs(spec["path"], exist_ok=True)
    options = Options(cache_local_mb=cache_mb)
    # RelStorage's own default, NORMAL, may lose the last commits with the power.
    pragmas = {"synchronous": 2}
    return RelStorage(Sqlite3Adapter(spec["path"], pragmas=pragmas, options=options), options=options)


def _neo(spec: Spec, cache_mb: int) -> Any:
    from neo.client.Storage import Storage

    return Storage(spec["masters"], spec["cluster"], cache_size=cache_mb * MB)


def _dht(spec: Spec, cache_mb: int) -> Any:
    from zodb_dht import DHTStorage

    return DHTStorage(spec["path"], cache_size=cache_mb * MB)


_OPENERS = {
    "filestorage": _filestorage,
    "zeo": _zeo,
    "postgresql": _postgresql,
    "sqlite": _sqlite,
    "neo": _neo,
    "dht": _dht,
}


@contextmanager
def opened(spec: Spec, cache_mb: int = CACHE_MB) -> Iterator[Any]:
    """The storage, closed afterwards."""
    storage = open_storage(spec, cache_mb)
    try:
        yield storage
    finally:
        storage.close()


@contextmanager
def opened_db(spec: Spec, cache_mb: int = CACHE_MB, objects: int = 400_000) -> Iterator[Any]:
    """A ZODB.DB on the storage, whose connections keep up to `objects` objects; closed afterwards."""
    from ZODB.DB import DB

    db = DB(open_storage(spec, cache_mb), cache_size=objects, pool_size=64)
    try:
        yield db
    finally:
        db.close()
