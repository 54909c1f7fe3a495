"""HTTP to a Plone site: plone.restapi with a token, forms of the ZMI with the administrator's password. Thread-safe."""

from __future__ import annotations

import base64
import dataclasses
import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from html.parser import HTMLParser
from typing import Any

TIMEOUT_SECONDS = 120
DATABASE = "/Control_Panel/Database/main"


class HTTPError(Exception):
    """An answer that is not a success; status and the body's beginning."""

    def __init__(self, method: str, url: str, status: int, body: bytes) -> None:
        super().__init__(f"{method} {url}: {status} {body[:600].decode('utf-8', 'replace')}")
        self.status = status
        self.conflict = status in (500, 503) and b'ConflictError"' in body
        """Zope tried three times, and met a conflict each time: nothing was committed."""


@dataclasses.dataclass(frozen=True)
class Answer:
    """A successful answer, and what the storage was asked for it (storage_loads; empty without)."""

    body: bytes
    storage: Mapping[str, int]
    url: str

    def json(self) -> Any:
        return json.loads(self.body)


class _Checkboxes(HTMLParser):
    def __init__(self, name: str) -> None:
        super().__init__()
        self._name = name
        self.values: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        found = dict(attributes)
        if tag == "input" and found.get("name") == self._name:
            self.values.append(found.get("value") or "")


class Browser:
    """A client of one Zope. Paths are relative to its root, or, with `api`, to the Plone site."""

    def __init__(self, url: str, user: str, password: str) -> None:
        self.url = url.rstrip("/")
        self._basic = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
        self._token = ""

    def request(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        url = path if path.startswith("http") else f"{self.url}{path}"
        asked = urllib.request.Request(url, data=body, method=method, headers=dict(headers or {}))
        try:
            with urllib.request.urlopen(asked, timeout=TIMEOUT_SECONDS) as answer:
                storage = {
                    name.lower().removeprefix("x-storage-"): int(value)
                    for name, value in answer.headers.items()
                    if name.lower().startswith("x-storage-")
                }
                return Answer(answer.read(), storage, answer.url)
        except urllib.error.HTTPError as e:
            with e:
                raise HTTPError(method, url, e.code, e.read()) from None

    def page(self, path: str) -> Answer:
        """What an anonymous visitor sees."""
        return self.request("GET", path)

    def login(self, user: str, password: str) -> None:
        """A token of plone.restapi for one of the site's members, for the calls of api()."""
        self._token = ""
        self._token = self.api("POST", "/@login", {"login": user, "password": password}).json()["token"]

    def api(self, method: str, path: str, body: Any = None) -> Answer:
        """A call of plone.restapi, as the member that logged in."""
        return self._json(method, path, body, f"Bearer {self._token}" if self._token else "")

    def manage_api(self, method: str, path: str, body: Any = None) -> Answer:
        """A call of plone.restapi, as Zope's administrator."""
        return self._json(method, path, body, self._basic)

    def _json(self, method: str, path: str, body: Any, authorization: str) -> Answer:
        headers = {"Accept": "application/json"}
        if authorization:
            headers["Authorization"] = authorization
        data = None
        if body is not None:
            headers["Content-Type"] = "application/json"
            data = json.dumps(body).encode()
        if not path.startswith("http"):
            path = f"/Plone{path}"
        return self.request(method, path, data, headers)

    def manage(self, path: str, form: Sequence[tuple[str, str]] | None = None) -> Answer:
        """A page of the ZMI, or with a form what its button does."""
        data = None if form is None else urllib.parse.urlencode(form).encode()
        return self.request("POST" if data is not None else "GET", path, data, {"Authorization": self._basic})

    def undoable(self) -> list[str]:
        """The ids of the newest transactions, newest first, as the ZMI's undo form offers them."""
        form = _Checkboxes("transaction_info:list")
        form.feed(self.manage(f"{DATABASE}/manage_UndoForm").body.decode())
        return form.values

    def undo(self, ids: Sequence[str]) -> str:
        """Undo transactions in one; the page that the ZMI answers with."""
        form = [("transaction_info:list", i) for i in ids]
        return self.manage(f"{DATABASE}/manage_undo_transactions", form).body.decode()

    def pack(self, days: float = 0) -> None:
        self.manage(f"{DATABASE}/manage_pack", [("days:float", str(days))])

    def minimize(self) -> None:
        """Empty the object caches of all connections."""
        self.manage(f"{DATABASE}/manage_minimize", [])
