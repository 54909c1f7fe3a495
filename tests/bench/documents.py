"""Text for the catalog: modules, classes and functions of the Python distributions installed here, parsed, not run."""

from __future__ import annotations

import ast
import importlib.metadata
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path

from DateTime import DateTime
from persistent import Persistent

MAX_TEXT = 20_000  # characters of one docstring: a few modules hold whole books
_Defined = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


class Document(Persistent):
    """One documented thing, as a site would keep it."""

    def __init__(self, path: str, kind: str, text: str, names: list[str], lines: int, modified: float) -> None:
        self.path = path
        self.title = path.rpartition("/")[2]
        self.kind = kind
        self.text = text
        self.names = names
        self.lines = lines
        self.modified = DateTime(modified)

    def getPhysicalPath(self) -> tuple[str, ...]:
        return tuple(self.path.split("/"))


def documents(wanted: int) -> list[Document]:
    """`wanted` documents, those with a docstring first, in an order that only the installed files decide."""
    documented: list[Document] = []
    bare: list[Document] = []
    seen: set[str] = set()
    for root, file in _files():
        for doc in _parse(root, file):
            if doc.path in seen:  # defined twice, under an if
                continue
            seen.add(doc.path)
            (documented if doc.text else bare).append(doc)
    return (documented + bare)[:wanted]


def _files() -> Iterator[tuple[Path, Path]]:
    stdlib = Path(sysconfig.get_path("stdlib"))
    for file in sorted(stdlib.rglob("*.py")):
        if not {"site-packages", "dist-packages", "test", "tests"} & set(file.parts):
            yield stdlib, file
    for dist in sorted(importlib.metadata.distributions(), key=lambda d: str(d.metadata["Name"]).lower()):
        root = Path(str(dist.locate_file("")))
        for entry in sorted(dist.files or [], key=str):
            if entry.suffix == ".py":
                yield root, Path(str(dist.locate_file(entry)))


def _parse(root: Path, file: Path) -> Iterator[Document]:
    """None if the file can't be read: sources for another Python, templates."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about other people's escape sequences
            tree = ast.parse(file.read_bytes())
        path = "/" + str(file.relative_to(root).with_suffix(""))
    except (OSError, SyntaxError, ValueError, RecursionError):
        return
    yield from _walk(tree, path, float(int(file.stat().st_mtime)))


def _walk(node: ast.Module | _Defined, path: str, modified: float) -> Iterator[Document]:
    names: set[str] = set()
    lines = 0
    for child in node.body:
        lines = max(lines, getattr(child, "end_lineno", 0) or 0)
    if isinstance(node, ast.ClassDef):
        names = {ast.unparse(base)[:100] for base in node.bases}
    elif not isinstance(node, ast.Module):
        names = {a.arg for a in node.args.posonlyargs + node.args.args + node.args.kwonlyargs}
    # A surrogate from an escape in a docstring is no text.
    text = (ast.get_docstring(node) or "").encode("utf-8", "replace").decode()[:MAX_TEXT]
    yield Document(path, type(node).__name__, text, sorted(names), lines, modified)
    for child in node.body:
        if isinstance(child, _Defined):
            yield from _walk(child, f"{path}/{child.name}", modified)
