"""One table of options behind the keywords of DHTStorage, ZConfig and zodburi."""

from __future__ import annotations

import inspect
import io
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
import ZConfig
import zodb_dht.zodburi
import zodburi
from ZODB.config import databaseFromURL, getStorageSchema, storageFromString
from ZODB.interfaces import IStorage
from zodb_dht import DHTStorage
from zodb_dht.config import BY_KEYWORD, MB, OPTIONS, Settings
from zodb_dht.errors import OptionError
from zodb_dht.zconfig import DHTStorageFactory

from .conftest import Opener

# An accepted text of each option that is not its default.
OTHERS: dict[str, tuple[str, Any]] = {
    "create": ("off", False),
    "read-only": ("on", True),
    "shared": ("on", True),
    "cache-size": ("16MB", 16 * MB),
    "max-object-size": ("1048576", MB),
    "vote-wait": ("500ms", 0.5),
    "lease": ("1m", 60.0),
    "finish-timeout": ("2.5s", 2.5),
    "pack-gc": ("off", False),
    "pack-wait": ("2m", 120.0),
    "blob-dir": ("/blobs", "/blobs"),
    "name": ("main", "main"),
}

# (option, value, what the message says besides the option's name)
BAD: list[tuple[str, str, str]] = [
    ("cache-size", "12 bananas", "such as 256MB"),
    ("cache-size", "1KB", "not within"),
    ("cache-size", "nan", "such as 256MB"),
    ("cache-size", "8000000.5", "whole number"),
    ("read-only", "maybe", "neither on nor off"),
    ("shared", "perhaps", "neither on nor off"),
    ("vote-wait", "-1", "not within"),
    ("vote-wait", "0", "not within"),
    ("vote-wait", "11s", "exceeds lease"),
    ("lease", "1000h", "not within"),
    ("finish-timeout", "soon", "such as 10s"),
    ("max-object-size", "1GB", "not within"),
    ("cash-size", "1MB", "did you mean cache-size"),
    ("zzz", "1", "no such option"),
]


def from_section(body: str) -> Settings:
    """What a <dhtstorage> with this body says; the storage is not opened."""
    text = f"%import zodb_dht\n<dhtstorage>\n{body}\n</dhtstorage>\n"
    config, _ = ZConfig.loadConfigFile(getStorageSchema(), io.StringIO(text))
    factory = config.storage
    assert isinstance(factory, DHTStorageFactory)
    return factory.settings


def section_keys() -> dict[str, Any]:
    """What component.xml says of each key."""
    schema = '<schema><import package="ZODB"/><import package="zodb_dht"/></schema>'
    return dict(ZConfig.loadSchemaFile(io.StringIO(schema)).gettype("dhtstorage"))


def from_uri(uri: str) -> Settings:
    """What a URI says; the storage is not opened."""
    factory, _ = zodb_dht.zodburi.resolver(uri)
    settings = inspect.getclosurevars(factory).nonlocals["settings"]
    assert isinstance(settings, Settings)
    return settings


def test_all_three_ways_have_the_same_defaults() -> None:
    want = Settings.of({"path": "/somewhere"})
    assert from_section("path /somewhere") == want
    assert from_uri("dht:///somewhere") == want
    for name, parameter in inspect.signature(DHTStorage).parameters.items():
        if name != "path":
            assert parameter.default == BY_KEYWORD[name].default, name


def test_all_three_ways_have_the_same_names() -> None:
    names = {o.name for o in OPTIONS}
    assert {p.replace("_", "-") for p in inspect.signature(DHTStorage).parameters} == names
    assert section_keys().keys() == names
    assert set(OTHERS) | {"path"} == names


def test_component_xml_says_what_the_table_says() -> None:
    keys = section_keys()
    for option in OPTIONS:
        info = keys[option.name]
        assert " ".join(info.description.split()) == option.doc
        assert info.getdefault() is None, "defaults live in config.py"


@pytest.mark.parametrize("name", OTHERS)
def test_a_value_means_the_same_everywhere(name: str) -> None:
    text, value = OTHERS[name]
    option = BY_KEYWORD[name.replace("-", "_")]
    assert value != option.default
    want = Settings.of({"path": "/p", name: text})
    assert getattr(want, option.keyword) == value
    assert Settings.of({"path": "/p", option.keyword: value}) == want
    assert from_section(f"path /p\n{name} {text}") == want
    assert from_uri(f"dht:///p?{name}={text}") == want
    assert from_uri(f"dht:///p?{option.keyword}={text}") == want


@pytest.mark.parametrize(("name", "value", "says"), BAD)
def test_a_bad_value_is_named_everywhere(name: str, value: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=f"^{name}: .*{says}"):
        Settings.of({"path": "/p", name: value})
    with pytest.raises(OptionError, match=f"^{name}: .*{says}"):
        from_uri(f"dht:///p?{name}={value}")
    with pytest.raises(ZConfig.ConfigurationError, match=name):
        from_section(f"path /p\n{name} {value}")
    keyword = name.replace("-", "_")
    options: dict[str, Any] = {keyword: value}
    with pytest.raises((OptionError, TypeError), match=f"{name}|{keyword}"):
        DHTStorage(tmp_path / "p", **options)
    assert not (tmp_path / "p").exists()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("cache-size", float("inf")),
        ("cache-size", "1" * 400 + ".0"),
        ("vote-wait", 10**400),
        ("vote-wait", "9" * 400 + "ms"),
        ("path", "/p\0q"),
        ("path", os.fsdecode(b"/p\xff")),
        ("blob-dir", "/p\0q"),
        ("blob-dir", os.fsdecode(b"/p\xff")),
    ],
)
def test_a_value_beyond_all_numbers_and_paths_is_named(name: str, value: object) -> None:
    with pytest.raises(OptionError, match=f"^{name}: "):
        Settings.of({"path": "/p"} | {name: value})


def test_a_path_is_required() -> None:
    for options in ({}, {"path": None}, {"path": ""}):
        with pytest.raises(OptionError, match=r"^path: "):
            Settings.of(options)
    with pytest.raises(ZConfig.ConfigurationError, match="path"):
        from_section("read-only on")
    with pytest.raises(OptionError, match=r"^path: "):
        from_uri("dht://?read-only=on")


def test_a_uri_gives_zodburi_its_own_keys(tmp_path: Path) -> None:
    uri = f"dht://{tmp_path}/a%20b?read_only=0&database_name=main&connection_cache_size=77"
    factory, left = zodb_dht.zodburi.resolver(uri)
    assert left == {"database_name": "main", "connection_cache_size": "77"}
    assert zodburi._get_dbkw(left) == {"database_name": "main", "cache_size": 77, "pool_size": 7}
    storage = factory()
    assert storage.getName() == f"{tmp_path}/a b"
    storage.close()


@pytest.mark.parametrize(
    ("uri", "says"),
    [
        ("file:///p", "not a dht:// URI"),
        ("dht:///p?read-only=1&read-only=0", "given twice"),
        ("dht:///p?read-only=1&read_only=0", "given twice"),
        ("dht:///p?path=/q", "path: "),
        ("dht:///p?read-only", "read-only"),
        ("dht:///p?database_name=a&database_name=b", "given twice"),
        ("dht:///p%ff", "utf-8"),
        ("dht:///p?name=%ff", "utf-8"),
    ],
)
def test_a_bad_uri_is_refused(uri: str, says: str) -> None:
    with pytest.raises(OptionError, match=says):
        zodb_dht.zodburi.resolver(uri)


def test_a_home_is_meant_as_in_filestorage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    for settings in (
        from_section("path ~/peer\nblob-dir ~/blobs"),
        from_uri("dht://~/peer?blob-dir=~/blobs"),
        Settings.of({"path": "~/peer", "blob-dir": "~/blobs"}),
    ):
        assert (settings.path, settings.blob_dir) == ("/home/somebody/peer", "/home/somebody/blobs")
    assert Settings.of({"path": Path("/p/~/q")}).path == "/p/~/q"


def test_none_is_the_default(open_storage: Opener, tmp_path: Path) -> None:
    none = dict.fromkeys(o.keyword for o in OPTIONS if o.name != "path")
    assert open_storage(**none)._settings == Settings.of({"path": tmp_path / "peer"})


def test_the_core_gets_what_it_knows() -> None:
    settings = json.loads(Settings.of({"path": "/p", "vote-wait": "500ms"}).to_json())
    assert settings == {
        "create": True,
        "read-only": False,
        "cache-size": 256 * MB,
        "max-object-size": 64 * MB,
        "vote-wait": 0.5,
        "lease": 10.0,
        "finish-timeout": 30.0,
        "pack-wait": 60.0,
        "blob-dir": None,
        "temp-dir": tempfile.gettempdir(),
    }


def test_zconfig_says_where_the_blobs_are(tmp_path: Path) -> None:
    section = f"%import zodb_dht\n<dhtstorage>\npath {tmp_path}/peer\nblob-dir {tmp_path}/blobs\n</dhtstorage>\n"
    storage = storageFromString(section)
    assert storage.temporaryDirectory() == f"{tmp_path}/blobs/tmp"
    storage.close()


def test_a_zconfig_file_opens_a_database(tmp_path: Path) -> None:
    conf = tmp_path / "zodb.conf"
    conf.write_text(
        f"""\
%import zodb_dht
<zodb main>
  cache-size 1000
  <dhtstorage>
    path {tmp_path}/peer
    cache-size 16MB
    name the-storage
  </dhtstorage>
</zodb>
"""
    )
    for opening in (1, 2):
        db = databaseFromURL(str(conf))
        assert IStorage.providedBy(db.storage)
        assert db.storage.getName() == "the-storage"
        with db.transaction() as connection:
            root = connection.root()
            root["opened"] = root.get("opened", 0) + 1
            assert root["opened"] == opening
        db.close()
