"""A storage by what an operator writes: the path of a Data.fs, a URI, or a ZConfig file with a storage in it."""

from __future__ import annotations

import dataclasses
import os
import re
import sys
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from zc.lockfile import LockError, LockFile
from ZODB.FileStorage import FileStorage
from ZODB.FileStorage.FileStorage import FileStorageFormatError

from .errors import DHTError, OptionError, Unreadable
from .zconfig import DHTStorageFactory

PYTHON_2 = b"FS21"
DATA_FS = (PYTHON_2, b"FS30")
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

    Unless it is to be written to it is opened read-only, whatever place says of that (URIs of schemes that are not
    known here as they are): a running site holds the lock of its Data.fs, and an open for writing makes a file or
    tables that are not there, and cuts a file that is damaged.

    section picks one of several storages or databases of a ZConfig file by its name. blob_dir is where the blobs of a
    Data.fs are; URIs and ZConfig files say that themselves.
    """
    path = Path(place)
    if not _is_uri(place) and not path.is_dir() and _is_data_fs(path, write):
        if section is not None:
            raise OptionError(f"{place}: --section goes with a ZConfig file; this is a Data.fs")
        return _data_fs(place, write, blob_dir)
    if blob_dir is not None:
        raise OptionError(f"{place}: --blob-dir goes with a Data.fs; a URI or a ZConfig file names its own")
    if place.startswith("zconfig:"):
        place, section = _of_zconfig_uri(place, section)
        return _zconfig(place, section, write)
    if _is_uri(place):
        return _uri(place, write)
    if path.is_dir():
        raise OptionError(f"{place}: a directory; want a Data.fs, a URI (dht:///directory) or a ZConfig file")
    return _zconfig(place, section, write)


def _is_uri(place: str) -> bool:
    return "://" in place or place.startswith("demo:(")


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
    if blob_dir is not None and not write and not os.path.isdir(blob_dir):  # it would be made
        raise OptionError(f"--blob-dir: {blob_dir}: there is no such directory")
    marker = None if blob_dir is None or not write else Path(blob_dir, ".layout")

    def open_it() -> Any:
        if marker is not None and _emptied(marker):
            marker.write_text("bushy")  # what it said; removed, ZODB would take the other layout
        return FileStorage(os.path.abspath(place), read_only=not write, blob_dir=blob_dir)

    storage = _opened(place, open_it)
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


def _opened(place: str, factory: Callable[[], Any]) -> Any:
    try:
        storage = factory()
    except DHTError:
        raise
    except Exception as e:  # damage has many classes, some of them that of a wrong value
        text = " ".join(str(e).split())  # a database's client writes several lines
        if isinstance(e, FileStorageFormatError) and _of_python_2(Path(str(e))):
            text += ": Python 2 wrote it, and ZODB opens it under no other; zodbupdate --convert-py3 converts it"
        raise Unreadable(f"{place}: it can't be opened: {type(e).__name__}: {text}") from e
    _forget_half_fetched(storage)
    return storage


def _of_python_2(path: Path) -> bool:
    with path.open("rb") as f:
        return f.read(len(PYTHON_2)) == PYTHON_2


def _forget_half_fetched(storage: Any) -> None:
    """Remove what a killed ZEO client left of the blobs that it was fetching: the next one would append to it.

    Each under the lock that clients fetch under, so that one that lives keeps its own.
    """
    module = sys.modules.get("ZEO.ClientStorage")
    if module is None or not isinstance(storage, module.ClientStorage):
        return
    if storage.fshelper is None or storage.shared_blob_dir:
        return
    for directory, _, files in os.walk(storage.fshelper.base_dir):
        halves = [name for name in files if name.endswith(".blob.dl")]
        if not halves:
            continue
        try:
            lock = LockFile(os.path.join(directory, ".lock"))
        except LockError:
            continue
        try:
            for name in halves:
                Path(directory, name).unlink(missing_ok=True)
        finally:
            lock.close()


READ_ONLY = {
    "dht": "read-only=on&create=off",
    **dict.fromkeys(("file", "zeo", "postgres", "mysql", "oracle", "sqlite"), "read_only=1"),
}
"""What a URI says to change nothing, by its scheme; the last four are RelStorage's."""

DEMO = re.compile(r"demo:\((.*)\)/\((.*)\)(#.*)?")
"""A DemoStorage's base and changes, as zodburi has it."""


def _option(pair: str) -> str:
    return pair.partition("=")[0].replace("-", "_")


def _changes_nothing(uri: str) -> str:
    """The same storage, opened for reading."""
    demo = DEMO.fullmatch(uri)
    if demo is not None:
        base, changes, rest = demo.groups(default="")
        return f"demo:({_changes_nothing(base)})/({_changes_nothing(changes)}){rest}"
    scheme = uri.partition(":")[0]
    if scheme == "zconfig":
        raise OptionError(f"{uri}: it can't be opened read-only within another URI; put both into one ZConfig file")
    option = READ_ONLY.get(scheme)
    if option is None:
        return uri
    uri, _, query = uri.partition("?")
    given = {_option(pair) for pair in option.split("&")}
    kept = [pair for pair in query.split("&") if pair and _option(pair) not in given]
    return uri + "?" + "&".join([*kept, option])


def _uri(place: str, write: bool) -> Any:
    try:
        import zodburi
    except ImportError:
        raise OptionError(f"{place}: URIs need zodburi: pip install zodb_dht[zodburi]") from None
    uri = place if write else _changes_nothing(place)
    try:
        factory, _ = zodburi.resolve_uri(uri)
    except DHTError:
        raise
    except Exception as e:
        text = e.args[0] if isinstance(e, KeyError) else e
        raise OptionError(f"{place}: {text}") from None
    return _opened(place, factory)


def _of_zconfig_uri(place: str, section: str | None) -> tuple[str, str | None]:
    """(path, section) of a zconfig:///path#section, which zodburi can't be told to open read-only."""
    parts = urlsplit(place)
    if parts.netloc or not parts.path:
        raise OptionError(f"{place}: want zconfig:///directory/file#section")
    return parts.path, section or parts.fragment or None


def _only_read(factory: Any) -> None:
    """A storage of a ZConfig file that changes nothing, nor do those that it is made of."""
    config = factory.config
    for name in config.getSectionAttributes():
        value = getattr(config, name)
        if name == "read_only":
            config.read_only = True
        elif name in ("create", "create_schema"):
            setattr(config, name, False)
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
        return _opened(place, next(iter(found.values())).open)
    if section is None or section not in found:
        names = ", ".join(sorted(name or "(without a name)" for name in found)) or "none"
        raise OptionError(f"{place}: --section picks one of its storages: {names}")
    return _opened(place, found[section].open)
