"""The life of a site over HTTP: every kind of change that editors make, and what the site must hold after each.

`Life.expected` is the model: path -> Item. read_back() compares all of it, through plone.restapi and through the
catalog; offline.py compares it once more with the database itself.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from typing import Any
from urllib.parse import quote

import browser
import content
from browser import Browser, HTTPError

EDITOR, EDITOR_PASSWORD = "editor", "a longer password"
WRITERS = 4
ANSWERS_BEFORE_KILL = 10
REPEATS = 20
"""How often a writer repeats what Zope gave up after its three tries."""


class Mismatch(AssertionError):
    """The site does not hold what it must."""


@dataclasses.dataclass
class Item:
    """What a content object must be."""

    kind: str
    title: str
    uid: str
    text: str | None = None
    blob: str | None = None  # sha256

    @property
    def field(self) -> str:
        return {"File": "file", "Image": "image"}[self.kind]


def same(what: str, found: object, expected: object) -> None:
    if found != expected:
        a, b = str(found), str(expected)
        at = max(0, next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b))) - 20)
        raise Mismatch(f"{what}: from {at}, {a[at : at + 400]!r}, not {b[at : at + 400]!r}")


class Life:
    """One site's life. `size` is the number of documents in each folder; the other numbers follow from it."""

    def __init__(self, client: Browser, size: int) -> None:
        self.browser = client
        self.size = size
        self.expected: dict[str, Item] = {}
        self.removed: set[str] = set()
        self.repeats = 0
        self.in_flight: list[str] = []
        self._lock = threading.Lock()  # all of the above, while several writers run
        self._numbers = iter(range(1, 1 << 30))

    # The editors' operations: each changes the site, then the model.

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """One request; repeated when conflicts made Zope give up."""
        for _ in range(REPEATS):
            try:
                answer = self.browser.api(method, path, body)
            except HTTPError as e:
                if not e.conflict:
                    raise
                with self._lock:
                    self.repeats += 1
            else:
                return answer.json() if answer.body else None
        raise Mismatch(f"{method} {path}: conflicts, {REPEATS} times")

    def create(self, folder: str, body: dict[str, Any], text: str | None = None, blob: bytes | None = None) -> str:
        made = self.call("POST", folder or "/", body)
        path = f"{folder}/{made['id']}"
        digest = None if blob is None else content.sha256(blob)
        with self._lock:
            self.expected[path] = Item(body["@type"], body["title"], made["UID"], text, digest)
            self.removed.discard(path)
        return path

    def folder(self, parent: str, item_id: str) -> str:
        return self.create(parent, {"@type": "Folder", "id": item_id, "title": f"Folder {item_id}"})

    def document(self, folder: str, item_id: str) -> str:
        with self._lock:
            number = next(self._numbers)
        body = content.document(item_id, number, f"Document {item_id} {number}")
        return self.create(folder, body, body["text"]["data"])

    def file(self, folder: str, item_id: str, blob: bytes) -> str:
        upload = content.upload(blob, f"{item_id}.bin", "application/octet-stream")
        return self.create(folder, {"@type": "File", "id": item_id, "title": item_id, "file": upload}, blob=blob)

    def image(self, folder: str, item_id: str, blob: bytes) -> str:
        upload = content.upload(blob, f"{item_id}.png", "image/png")
        return self.create(folder, {"@type": "Image", "id": item_id, "title": item_id, "image": upload}, blob=blob)

    def edit(self, path: str, title: str) -> None:
        self.call("PATCH", path, {"title": title})
        self.expected[path].title = title

    def replace(self, path: str, blob: bytes) -> None:
        item = self.expected[path]
        upload = content.upload(blob, "replaced.bin", "application/octet-stream")
        self.call("PATCH", path, {item.field: upload})
        item.blob = content.sha256(blob)

    def _renamed(self, old: str, new: str) -> None:
        for path in [p for p in self.expected if p == old or p.startswith(f"{old}/")]:
            self.expected[new + path[len(old) :]] = self.expected.pop(path)
            self.removed.add(path)
            self.removed.discard(new + path[len(old) :])

    def rename(self, path: str, item_id: str) -> str:
        self.call("PATCH", path, {"id": item_id})
        new = f"{path.rpartition('/')[0]}/{item_id}"
        self._renamed(path, new)
        return new

    def move(self, path: str, folder: str) -> str:
        [moved] = self.call("POST", f"{folder}/@move", {"source": path})
        new = f"{folder}/{moved['target'].rpartition('/')[2]}"
        self._renamed(path, new)
        return new

    def copy(self, path: str, folder: str) -> str:
        [copied] = self.call("POST", f"{folder}/@copy", {"source": path})
        new = f"{folder}/{copied['target'].rpartition('/')[2]}"
        uid = self.call("GET", new)["UID"]
        self.expected[new] = dataclasses.replace(self.expected[path], uid=uid)
        self.removed.discard(new)
        return new

    def delete(self, path: str) -> None:
        self.call("DELETE", path)
        for gone in [p for p in self.expected if p == path or p.startswith(f"{path}/")]:
            del self.expected[gone]
            self.removed.add(gone)

    # The chapters of the life.

    def begin(self) -> None:
        """An editor with an account of the site's, and a token."""
        admin = self.browser
        body = {"username": EDITOR, "email": "e@example.org", "password": EDITOR_PASSWORD, "roles": ["Manager"]}
        admin.manage_api("POST", "/@users", body)
        self.login()

    def login(self) -> None:
        self.browser.login(EDITOR, EDITOR_PASSWORD)

    def write(self) -> None:
        """Folders in folders, documents, files of three sizes, images with their scales."""
        for name in ("a", "b"):
            folder = self.folder("", name)
            inner = self.folder(folder, "inner")
            for n in range(self.size):
                self.document(folder if n % 2 else inner, f"doc{n}")
            for n, size in enumerate((1, 100, 70_000, 3_000_000)):
                self.file(folder, f"file{n}", content.data(n, size))
            path = self.image(folder, "picture", content.png(1, 300))
            self.browser.page(f"/Plone{path}/@@images/image/thumb")  # a scale is made, and stored, when it is read

    def change(self) -> None:
        """Edit, replace a file, rename, move, copy, publish, go back to a version, delete."""
        documents = [p for p, i in self.expected.items() if i.kind == "Document"]
        for n, path in enumerate(documents[::3]):
            self.edit(path, f"Edited {n}")
        self.replace("/a/file1", content.data(77, 200_000))
        self.replace("/a/file2", content.data(78, 5))
        self.rename("/a/inner/doc0", "renamed")
        self.rename("/b/inner", "within")
        self.move("/a/file0", "/b")
        self.copy("/a/file3", "/b/within")
        self.copy("/a/picture", "/b/within")
        self.copy("/a/doc1", "/a")
        self.call("POST", "/a/@workflow/publish", {})
        self.edit("/a/doc1", "A second title")
        first = self.call("GET", "/a/doc1/@history")
        versions = [entry["version"] for entry in first if entry["type"] == "versioning"]
        self.call("PATCH", "/a/doc1/@history", {"version": min(versions)})
        self.expected["/a/doc1"].title = self.call("GET", f"/a/doc1/@history/{min(versions)}")["title"]
        self.delete("/b/file3")
        self.delete("/b/doc1")

    def write_together(self) -> None:
        """Four editors create and edit in one folder at once: their catalog BTrees are the same."""
        folder = self.folder("", "together")

        def editor(name: int) -> None:
            for n in range(max(2, self.size // 4)):
                path = self.document(folder, f"w{name}-{n}")
                self.edit(path, f"Together {name} {n}")

        with ThreadPoolExecutor(WRITERS) as pool:
            list(pool.map(editor, range(WRITERS)))

    def undo(self) -> None:
        """Undo a creation, and its undo; two edits at once; one by plone.restapi; a replaced file; what can't be."""
        before = set(self.browser.undoable())
        path = self.document("/a", "undone")
        made = [i for i in self.browser.undoable() if i not in before]
        self._undone(made)
        item = self.expected.pop(path)
        self._missing(path)
        self._undone(self.browser.undoable()[:1])
        self.expected[path] = item
        same(f"{path} after the undo of its undo", self.call("GET", path)["title"], item.title)

        title = item.title
        self.edit(path, "one")
        self.edit(path, "two")
        self._undone(self.browser.undoable()[:2])
        item.title = title
        self.edit(path, "by plone.restapi")
        [edited, *_] = self.call("GET", "/@transactions")
        self.call("PATCH", "/@transactions", {"transaction_ids": [edited["id"]]})
        item.title = title

        old = self.expected["/a/file1"].blob
        self.replace("/a/file1", content.data(79, 1000))
        self._undone(self.browser.undoable()[:1])
        self.expected["/a/file1"].blob = old

        self.edit(path, "three")
        between = self.browser.undoable()[:1]
        self.edit(path, "four")
        page = self.browser.undo(between)
        if "UndoError" not in page:
            raise Mismatch("the undo of an edit that a later one follows was not refused")

    def write_until_killed(self, kill: Callable[[], None]) -> None:
        """Four editors write; after some answers the process dies. What was answered is in the model."""
        answers = threading.Semaphore(0)

        def editor(name: int) -> None:
            n = 0
            while True:
                try:
                    self.document("/together", f"k{name}-{n}")
                except (OSError, HTTPException):
                    with self._lock:
                        self.in_flight.append(f"/together/k{name}-{n}")
                    return
                n += 1
                answers.release()

        with ThreadPoolExecutor(WRITERS) as pool:
            editors = [pool.submit(editor, name) for name in range(WRITERS)]
            wrote = [answers.acquire(timeout=browser.TIMEOUT_SECONDS) for _ in range(ANSWERS_BEFORE_KILL)]
            kill()
            for done in editors:
                done.result()
        same("answers before the kill", wrote, [True] * ANSWERS_BEFORE_KILL)

    def settle(self) -> int:
        """After the restart: what was in flight is there whole, or not at all; how many are there."""
        there = 0
        for path in self.in_flight:
            try:
                found = self.call("GET", path)
            except HTTPError as e:
                same(f"GET {path}", e.status, 404)
                self.removed.add(path)
            else:
                there += 1
                self.expected[path] = Item(found["@type"], found["title"], found["UID"], found["text"]["data"])
        self.in_flight.clear()
        return there

    def _undone(self, ids: list[str]) -> None:
        if not ids:
            raise Mismatch("the ZMI offers no transaction to undo")
        page = self.browser.undo(ids)
        if "alert-danger" in page:
            raise Mismatch(f"undo of {ids}: {page[page.index('alert-danger') :][:400]}")

    def _missing(self, path: str) -> None:
        """Nothing is at that path. Plone leads on to where something was moved from it."""
        try:
            found = self.call("GET", path)["@id"]
        except HTTPError as e:
            same(f"GET {path}", e.status, 404)
        else:
            if found.endswith(f"/Plone{path}"):
                raise Mismatch(f"{path} is still there")

    def pack(self) -> tuple[int, int]:
        """Pack to now; (bytes before, bytes after). Nothing before it can be undone any more."""
        before = self.call("GET", "/@database")["db_size"]
        self.browser.pack()
        after = self.call("GET", "/@database")["db_size"]
        return before, after

    # What must be so at any time.

    def read_back(self) -> int:
        """Compare all that the site shows with the model; the number of items compared."""
        for path, item in self.expected.items():
            found = self.call("GET", path)
            for name, value in (("@type", item.kind), ("title", item.title), ("UID", item.uid)):
                same(f"{path} {name}", found[name], value)
            if item.text is not None:
                same(f"{path} text", found["text"]["data"], item.text)
            if item.blob is not None:
                same(f"{path} {item.field}", content.sha256(self._download(path, item)), item.blob)
        for path in self.removed:
            self._missing(path)
        self.search()
        return len(self.expected)

    def _download(self, path: str, item: Item) -> bytes:
        return self.browser.api("GET", f"{path}/@@download/{item.field}").body

    def search(self) -> None:
        """The catalog's answers: by kind, all of them; by full text, the documents' own words."""
        for kind in ("Folder", "Document", "File", "Image"):
            wanted = {(p, i.title, i.uid) for p, i in self.expected.items() if i.kind == kind}
            query = f"/@search?portal_type={kind}&b_size=100000&metadata_fields=UID"
            found = self.call("GET", query)["items"]
            start = len(f"{self.browser.url}/Plone")
            same(f"@search {kind}", {(f["@id"][start:], f["title"], f["UID"]) for f in found}, wanted)
            same(f"@search {kind}, each once", len(found), len(wanted))
        words: dict[str, set[str]] = {}
        for path, item in self.expected.items():
            if item.text is not None:
                words.setdefault(item.text.rpartition("<p>")[2].removesuffix("</p>"), set()).add(path)
        for word, paths in words.items():
            found = self.call("GET", f"/@search?SearchableText={quote(word)}&b_size=1000")["items"]
            same(f"@search {word}", {f["@id"][len(f"{self.browser.url}/Plone") :] for f in found}, paths)

    def chapters(self) -> list[tuple[str, Callable[[], object]]]:
        return [
            ("log in", self.begin),
            ("write", self.write),
            ("change", self.change),
            ("four editors at once", self.write_together),
            ("read back", self.read_back),
            ("undo", self.undo),
            ("read back", self.read_back),
            ("pack", self.pack),
            ("read back", self.read_back),
        ]
