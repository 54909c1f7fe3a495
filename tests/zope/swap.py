"""Runs tests of other packages with another storage below them: swap.py STORAGE ARGUMENTS-OF-ZOPE-TESTRUNNER

STORAGE is what the tests get where they ask for no storage in particular:
  stock        what they would get anyway, in memory: the numbers to compare with
  filestorage  FileStorage
  dht          DHTStorage: with its own snapshots below ZODB.DB, in shared mode below DemoStorage
  dht-shared   DHTStorage in shared mode, below ZODB's MVCCAdapter, too

They ask for none in particular in three ways. DemoStorage() without a base (Testing.custom_zodb, plone.testing's
EmptyZODB and Startup): its base is swapped, and in every DemoStorage, one for each test in the layers of plone.testing,
so are the changes. ZODB.DB(None) and its like. <mappingstorage> in a configuration text.
"""

from __future__ import annotations

import itertools
import os
import sys
import tempfile
from collections.abc import Callable
from typing import Any

import ZODB.config
import ZODB.DemoStorage
import ZODB.MappingStorage
from ZODB.DB import DB
from zope.testrunner import run

Factory = Callable[[], Any]


def factories(name: str) -> tuple[Factory, Factory]:
    """(a storage for ZODB.DB, a storage for DemoStorage), each new and empty, below one temporary directory."""
    # suites.py removes $TMPDIR when all is closed. The tests move tempfile.tempdir about.
    where = os.path.realpath(tempfile.mkdtemp(prefix="swap-"))
    numbers = itertools.count()

    def directory() -> str:
        path = os.path.join(where, str(next(numbers)))
        os.mkdir(path)
        return path

    def filestorage() -> Any:
        from ZODB.FileStorage import FileStorage

        path = directory()
        return FileStorage(f"{path}/Data.fs", blob_dir=f"{path}/blobs")

    def dht(**options: Any) -> Any:
        from zodb_dht import DHTStorage

        return DHTStorage(f"{directory()}/peer", cache_size="8MB", **options)

    if name == "filestorage":
        return filestorage, filestorage

    def shared() -> Any:
        return dht(shared=True)

    kinds = {"filestorage": (filestorage, filestorage), "dht": (dht, shared), "dht-shared": (shared, shared)}
    if name not in kinds:
        raise SystemExit(f"{name}: not stock, {', '.join(kinds)}")
    return kinds[name]


def swap(for_db: Factory, for_demo: Factory) -> None:
    """Put the factories where ZODB makes a storage of its own choice. Before any test is imported."""
    demo_init = ZODB.DemoStorage.DemoStorage.__init__

    def init(
        self: Any,
        name: str | None = None,
        base: Any = None,
        changes: Any = None,
        close_base_on_close: bool | None = None,
        close_changes_on_close: bool | None = None,
    ) -> None:
        # Closing a stack closes what is below it, which the tests go on using: a MappingStorage does not mind. Ours is
        # closed with the database that it was made for.
        if base is not None and close_base_on_close is None:
            close_base_on_close = False
        base = for_demo() if base is None else base
        changes = for_demo() if changes is None else changes
        demo_init(self, name, base, changes, close_base_on_close, close_changes_on_close)

    db_init = DB.__init__

    def init_db(self: Any, storage: Any, *args: Any, **options: Any) -> None:
        db_init(self, for_db() if storage is None else storage, *args, **options)

    ZODB.DemoStorage.DemoStorage.__init__ = init
    DB.__init__ = init_db
    ZODB.MappingStorage.DB = lambda *args, **options: DB(for_db(), *args, **options)  # ZODB.tests.util.DB
    ZODB.config.MappingStorage.open = lambda self: for_db()


def main() -> None:
    storage, *arguments = sys.argv[1:]
    if storage != "stock":
        swap(*factories(storage))
    # The runner runs some layers in a child: through this script as well, with the storage first.
    script = [os.path.abspath(__file__), storage]
    run([], ["zope-testrunner", *arguments], script_parts=script)


if __name__ == "__main__":
    main()
