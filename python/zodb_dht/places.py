"""A storage by what an operator writes: the path of a Data.fs, a URI, or a ZConfig file with a storage in it."""

from __future__ import annotations

import dataclasses
import os
from io import StringIO
from pathlib import Path
from typing import Any

from .errors import OptionError, Unreadable
from .zconfig import DHTStorageFactory

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

    Unless it is to be written to it is opened read-only, whatever place says of that (URIs of other schemes than
    READ_ONLY's as they are): a running site holds the lock of its Data.fs, and an open for writing makes a file that
    is not there, and cuts one that is damaged.

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
    return _zconfig(place, section, write)


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
    marker = None if blob_dir is None or not write else Path(blob_dir, ".layout")
    try:
        if marker is not None and _emptied(marker):
            marker.write_text("bushy")  # what it said; removed, ZODB would take the other layout
        storage = FileStorage(os.path.abspath(place), read_only=not write, blob_dir=blob_dir)
    except Exception as e:  # damage has many classes, some of them that of a wrong value
        raise Unreadable(f"{place}: it can't be opened: {type(e).__name__}: {e}") from e
    if marker is not None:
        try:
            _sync(marker)
            _sync(marker.parent)
        except BaseException:
            storage.close()
            raise
    return storage


def _emptied(marker: Path) -> bool:
    """Whether a loss of power emptied the marker of a directory that has no blobs yet: ZODB does not sync it."""
    unused = marker.is_file() and {p.name for p in marker.parent.iterdir()} <= {marker.name, "tmp"}
    return unused and marker.stat().st_size == 0


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


READ_ONLY = {"file": "read_only=1", "zeo": "read_only=1", "dht": "read-only=on&create=off"}
"""What a URI says to change nothing, by its scheme."""


def _option(pair: str) -> str:
    return pair.partition("=")[0].replace("-", "_")


def _uri(place: str, write: bool) -> Any:
    try:
        import zodburi
    except ImportError:
        raise OptionError(f"{place}: URIs need zodburi: pip install zodb_dht[zodburi]") from None
    uri, option = place, READ_ONLY.get(place.partition("://")[0])
    if not write and option is not None:
        uri, _, query = place.partition("?")
        given = {_option(pair) for pair in option.split("&")}
        kept = [pair for pair in query.split("&") if pair and _option(pair) not in given]
        uri += "?" + "&".join([*kept, option])
    try:
        factory, _ = zodburi.resolve_uri(uri)
    except KeyError as e:
        raise OptionError(f"{place}: {e.args[0]}") from None
    return factory()


def _only_read(factory: Any) -> None:
    """A storage of a ZConfig file that changes nothing, nor do those that it is made of."""
    config = factory.config
    for name in config.getSectionAttributes():
        value = getattr(config, name)
        if name == "read_only":
            config.read_only = True
        elif name == "create":
            config.create = False
        for part in value if isinstance(value, list) else [value]:
            if hasattr(part, "config"):
                _only_read(part)
    if isinstance(factory, DHTStorageFactory):  # it has read its section already
        factory.settings = dataclasses.replace(factory.settings, read_only=True, create=False)


def _zconfig(place: str, section: str | None, write: bool) -> Any:
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
    if not write:
        for factory in found.values():
            _only_read(factory)
    if section is None and len(found) == 1:
        return next(iter(found.values())).open()
    if section is None or section not in found:
        names = ", ".join(sorted(name or "(without a name)" for name in found)) or "none"
        raise OptionError(f"{place}: --section picks one of its storages: {names}")
    return found[section].open()
