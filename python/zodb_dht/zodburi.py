"""dht: URIs for zodburi: dht:///directory?option=value&database_name=main.

Options are those of <dhtstorage>, spelt with - or _. database_name and connection_* are zodburi's own, for ZODB.DB.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, unquote

from .config import Settings
from .errors import OptionError

if TYPE_CHECKING:
    from .storage import DHTStorage

SCHEME = "dht://"


def resolver(uri: str) -> tuple[Callable[[], DHTStorage], dict[str, str]]:
    """(a factory of the storage, what is left for ZODB.DB)."""
    if not uri.startswith(SCHEME):
        raise OptionError(f"{uri}: not a {SCHEME} URI")
    path, _, query = uri.removeprefix(SCHEME).partition("?")
    options: dict[str, object] = {}
    database: dict[str, str] = {}
    try:
        path = unquote(path, errors="strict")
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query), errors="strict")
    except ValueError as e:
        raise OptionError(f"{uri}: {e}") from None
    for key, value in pairs:
        if key == "path":
            raise OptionError("path: it stands before the ?")
        if key in options or key in database:
            raise OptionError(f"{key}: given twice", option=key)
        if key.startswith(("database_", "connection_")):
            database[key] = value
        else:
            options[key] = value
    settings = Settings.of({"path": path, **options})

    def factory() -> DHTStorage:
        from .storage import DHTStorage

        return DHTStorage.from_settings(settings)

    return factory, database
