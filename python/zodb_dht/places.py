"""A storage by what an operator writes: the path of a Data.fs, a URI, or a ZConfig file with a storage in it."""

from __future__ import annotations

import os
from io import StringIO
from pathlib import Path
from typing import Any

from .errors import OptionError

DATA_FS = (b"FS21", b"FS30")
"""What a FileStorage's file begins with, written by Python 2 or 3."""

SCHEMA = """
<schema>
  <import package="ZODB"/>
  <multisection type="ZODB.storage" name="*" attribute="storages"/>
  <multisection type="ZODB.database" name="*" attribute="databases"/>
</schema>
"""


def open_place(place: str, *, write: bool = False, section: str | None = None) -> Any:
    """Open the storage that place names; the caller closes it. OptionError says what place could be, and is not.

    section picks one of several storages or databases of a ZConfig file by its name.
    """
    if "://" in place:
        return _uri(place)
    path = Path(place)
    if path.is_dir():
        raise OptionError(f"{place}: a directory; want a Data.fs, a URI (dht:///directory) or a ZConfig file")
    if not path.exists():
        if not write:
            raise OptionError(f"{place}: there is no such file")
        return _data_fs(place, write)
    with path.open("rb") as f:
        start = f.read(4)
    if start in DATA_FS or not start:
        return _data_fs(place, write)
    return _zconfig(place, section)


def _data_fs(place: str, write: bool) -> Any:
    from ZODB.FileStorage import FileStorage

    return FileStorage(os.path.abspath(place), read_only=not write)


def _uri(place: str) -> Any:
    try:
        import zodburi
    except ImportError:
        raise OptionError(f"{place}: URIs need zodburi: pip install zodb_dht[zodburi]") from None
    try:
        factory, _ = zodburi.resolve_uri(place)
    except KeyError as e:
        raise OptionError(f"{place}: {e.args[0]}") from None
    return factory()


def _zconfig(place: str, section: str | None) -> Any:
    import ZConfig

    schema = ZConfig.loadSchemaFile(StringIO(SCHEMA))
    try:
        config, _ = ZConfig.loadConfig(schema, os.path.abspath(place))
    except (ZConfig.ConfigurationError, UnicodeDecodeError) as e:
        raise OptionError(f"{place}: neither a Data.fs nor a ZConfig file with a storage: {e}") from None
    found = {}
    for factory in config.storages:
        found[factory.config.getSectionName() or ""] = factory
    for database in config.databases:
        found[database.config.getSectionName() or ""] = database.config.storage
    if section is None and len(found) == 1:
        return next(iter(found.values())).open()
    if section is None or section not in found:
        names = ", ".join(sorted(name or "(without a name)" for name in found)) or "none"
        raise OptionError(f"{place}: --section picks one of its storages: {names}")
    return found[section].open()
