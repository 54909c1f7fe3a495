"""The options of a storage: name, type, default, limits and meaning, in one table.

DHTStorage's keywords, the keys of ZConfig's <dhtstorage> (component.xml, checked against this table by a test), those
of a dht: URI and the settings that the core gets are all made of it. An option is spelt `read-only` in text and
`read_only` in Python.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from typing import Any

from .errors import OptionError

KB, MB, GB, TB = 1 << 10, 1 << 20, 1 << 30, 1 << 40
_SIZES = {"kb": KB, "mb": MB, "gb": GB, "tb": TB, "b": 1}
_TIMES = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_FLAGS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


def temporary_directory() -> str:
    """What tempfile.gettempdir() is going to say, without its proof: asked for the first time it makes a file there and
    removes it, which is slow in an open. A wrong guess costs nothing but time: blobs are written elsewhere, unwatched.
    """
    if tempfile.tempdir is not None:
        return tempfile.gettempdir()
    candidates = [os.environ.get(name) for name in ("TMPDIR", "TEMP", "TMP")]
    for path in [*candidates, "/tmp", "/var/tmp", "/usr/tmp"]:  # as tempfile does
        if path and os.access(path, os.W_OK | os.X_OK):
            return os.path.abspath(path)
    return tempfile.gettempdir()


def parse_flag(value: object) -> bool:
    """A boolean as ZConfig and zodburi write it."""
    if isinstance(value, (bool, int)) and value in (0, 1):
        return bool(value)
    if isinstance(value, str) and value.strip().lower() in _FLAGS:
        return _FLAGS[value.strip().lower()]
    raise ValueError(f"{value!r} is neither on nor off")


def _with_unit(value: object, units: Mapping[str, float], example: str) -> float:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return value
    if isinstance(value, str):
        text = value.strip().lower()
        number = text.rstrip("abcdefghijklmnopqrstuvwxyz")
        unit = text[len(number) :]
        try:
            return (float(number) if "." in number else int(number)) * (units[unit] if unit else 1)
        except (ValueError, KeyError):
            pass
    raise ValueError(f"{value!r} is not {example}")


def parse_size(value: object) -> int:
    """A number of bytes, as a number or with KB, MB, GB, TB."""
    size = _with_unit(value, _SIZES, "a size such as 256MB")
    if size != int(size):
        raise ValueError(f"{value!r} is not a whole number of bytes")
    return int(size)


def parse_seconds(value: object) -> float:
    """A duration, as a number of seconds or with ms, s, m, h."""
    seconds = _with_unit(value, _TIMES, "a duration such as 10s")
    if seconds != seconds:
        raise ValueError(f"{value!r} is not a duration such as 10s")
    return float(seconds)


def parse_text(value: object) -> str:
    """Any text but an empty one."""
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if not isinstance(value, str) or not value:
        raise ValueError(f"{value!r} is not a text")
    return value


def parse_path(value: object) -> str:
    """A path, made absolute: the process may change its directory. ~ in a text is a home, as in <filestorage>."""
    text = parse_text(value)
    path = os.path.abspath(os.path.expanduser(text) if isinstance(value, str) else text)
    try:
        clean = "\0" not in path and bool(path.encode())
    except UnicodeEncodeError:  # the core is told, and tells, in UTF-8
        clean = False
    if not clean:
        raise ValueError(f"{path!r} is not a path in UTF-8")
    return path


@dataclasses.dataclass(frozen=True)
class Option:
    """What the table says of one option; low and high are inclusive."""

    name: str
    parse: Callable[[object], Any]
    default: Any
    doc: str
    low: float | None = None
    high: float | None = None
    core: bool = True  # handed to the core, else used in Python only

    @property
    def keyword(self) -> str:
        return self.name.replace("-", "_")

    def read(self, value: object) -> Any:
        """The value, converted and within the limits."""
        try:
            parsed = self.parse(value)
        except (ValueError, OverflowError) as e:
            raise OptionError(f"{self.name}: {e}", option=self.name) from None
        if (self.low is not None and parsed < self.low) or (self.high is not None and parsed > self.high):
            raise OptionError(f"{self.name}: {value} is not within {self.low} and {self.high}", option=self.name)
        return parsed


def _option(parse: Callable[[object], Any], default: Any, doc: str, **limits: Any) -> Any:
    given = {} if default is dataclasses.MISSING else {"default": default}
    return dataclasses.field(**given, metadata={"parse": parse, "doc": doc, **limits})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """The options of one storage, checked. Make one with `Settings.of`."""

    path: str = _option(
        parse_path, dataclasses.MISSING, "The peer directory. Required. No two processes open it at once.", core=False
    )
    create: bool = _option(
        parse_flag, True, "Make the directory, and a group of this one peer, if there is none. Default: on."
    )
    read_only: bool = _option(parse_flag, False, "Refuse whatever writes objects, and make no directory. Default: off.")
    shared: bool = _option(
        parse_flag,
        False,
        "Serve what wraps a storage: a ZEO server, DemoStorage, zc.zlibstorage and the like. Connections then read"
        " through ZODB's own adapter instead of the core's snapshots. Default: off.",
        core=False,
    )
    cache_size: int = _option(
        parse_size,
        256 * MB,
        "Memory for records and table blocks, in bytes, shared by all connections. Default: 256MB.",
        low=8 * MB,
        high=TB,
    )
    max_object_size: int = _option(
        parse_size, 64 * MB, "The largest data record that is stored, in bytes. Default: 64MB.", low=1, high=256 * MB
    )
    vote_wait: float = _option(
        parse_seconds,
        10.0,
        "How long a commit waits for others that hold the same objects, before it fails and may be repeated. At most"
        " lease. Default: 10s.",
        low=0.001,
        high=600.0,
    )
    lease: float = _option(
        parse_seconds,
        10.0,
        "How long a voted transaction is kept without a word of its process. Default: 10s.",
        low=0.001,
        high=600.0,
    )
    finish_timeout: float = _option(
        parse_seconds,
        30.0,
        "How long the end of a commit may take before its outcome is called unknown. Default: 30s.",
        low=0.001,
        high=600.0,
    )
    pack_gc: bool = _option(
        parse_flag, True, "Whether a pack removes the objects that the root does not reach. Default: on.", core=False
    )
    pack_wait: float = _option(
        parse_seconds,
        60.0,
        "How long a pack holds back for transactions that began before its position; then they get ReadConflictError."
        " Default: 60s.",
        low=0.001,
        high=86400.0,
    )
    blob_dir: str | None = _option(
        parse_path,
        None,
        "The directory of blobs; the peer remembers it. Default: blobs in the peer directory, or where it is already.",
    )
    name: str | None = _option(
        parse_text, None, "The storage's name in ZODB's pages and logs. Default: the path.", core=False
    )

    @classmethod
    def of(cls, options: Mapping[str, object]) -> Settings:
        """Settings of options as texts or values, by either spelling; None means the default."""
        values: dict[str, Any] = {}
        for given, value in options.items():
            option = BY_KEYWORD.get(given.replace("-", "_"))
            if option is None:
                near = difflib.get_close_matches(given, [o.name for o in OPTIONS], 1)
                hint = f"; did you mean {near[0]}?" if near else ""
                raise OptionError(f"{given}: there is no such option{hint}", option=given)
            if option.keyword in values:
                raise OptionError(f"{option.name}: given twice", option=option.name)
            if value is not None or option.default is dataclasses.MISSING:
                values[option.keyword] = option.read(value)
        if "path" not in values:
            raise OptionError("path: required", option="path")
        settings = cls(**values)
        if settings.vote_wait > settings.lease:
            text = f"vote-wait: {settings.vote_wait}s exceeds lease {settings.lease}s"
            raise OptionError(text, option="vote-wait")
        return settings

    def to_json(self) -> str:
        """What the core is opened with; names as in ZConfig, durations in seconds."""
        options = {o.name: getattr(self, o.keyword) for o in OPTIONS if o.core}
        return json.dumps({**options, "temp-dir": temporary_directory()})


OPTIONS: tuple[Option, ...] = tuple(
    Option(name=f.name.replace("_", "-"), default=f.default, **f.metadata) for f in dataclasses.fields(Settings)
)
BY_KEYWORD: Mapping[str, Option] = {o.keyword: o for o in OPTIONS}
