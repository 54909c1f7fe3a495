"""A storage by what an operator writes: the path of a Data.fs, a URI, or a ZConfig file with a storage in it."""

from __future__ import annotations

import os
from io import StringIO
from pathlib import Path
from typing import Any

from .errors import OptionError, Unreadable
from .zodburi import SCHEME as DHT

DATA_FS = (b"FS21", b"FS30")
"""What a FileStorage's file begins with, written by Python 2 or 3."""

SCHEMA = """
<schema>
  <import package="ZODB"/>
  <multisection type="ZODB.storage" name="*" attribute="storages"/>
  <multisection type="ZODB.database" name="*" attribute="databases"/>
</schema>
"""


def open_place(place: str, *, write: bool = False, section: str | None = None, blob_dir: str | None = None) -> Any:
    """Open the storage that place names; the caller closes it. OptionError says what place could be, and is not.

    section picks one of several storages or databases of a ZConfig file by its name. blob_dir is where the blobs of a
    Data.fs are; URIs and ZConfig files say that themselves.
    """
    path = Path(place)
    if "://" not in place and not path.is_dir() and _is_data_fs(path, write):
        if section is not None:
            raise OptionError(f"{place}: --section goes with a ZConfig file; this is a Data.fs")
        return _data_fs(place, write, blob_dir)
    if blob_dir is not None:
        raise OptionError(f"{place}: --blob-dir goes with a Data.fs; a URI or a ZConfig file names its own")
    if "://" in place:
        return _uri(place, write)
    if path.is_dir():
        raise OptionError(f"{place}: a directory; want a Data.fs, a URI (dht:///directory) or a ZConfig file")
    return _zconfig(place, section)


def _is_data_fs(path: Path, write: bool) -> bool:
    if not path.exists():
        if not write:
            raise OptionError(f"{path}: there is no such file")
        return True
    if not path.is_file():  # a device or a pipe may have no end
        raise OptionError(f"{path}: not a regular file")
    with path.open("rb") as f:
        start = f.read(4)
    if not start and not write:
        raise OptionError(f"{path}: an empty file, not a Data.fs")
    return start in DATA_FS or not start


def _data_fs(place: str, write: bool, blob_dir: str | None) -> Any:
    from ZODB.FileStorage import FileStorage

    if blob_dir is not None and not write and not os.path.isdir(blob_dir):  # it would be made
        raise OptionError(f"--blob-dir: {blob_dir}: there is no such directory")
    try:
        return FileStorage(os.path.abspath(place), read_only=not write, blob_dir=blob_dir)
    except Exception as e:  # damage has many classes, some of them that of a wrong value
        raise Unreadable(f"{place}: it can't be opened: {type(e).__name__}: {e}") from e


def _uri(place: str, write: bool) -> Any:
    try:
        import zodburi
    except ImportError:
        raise OptionError(f"{place}: URIs need zodburi: pip install zodb_dht[zodburi]") from None
    try:
        if not write and place.startswith(DHT):  # what is read is not made
            place += "&create=off" if "?" in place else "?create=off"
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
