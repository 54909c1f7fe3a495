"""Real documents for the demo: the modules, classes and functions of the Python distributions installed here.

Sources are parsed, never imported. What a document holds is what their authors wrote: docstring, names, arguments,
decorators, the date of the file.
"""

from __future__ import annotations

import ast
import datetime
import importlib.metadata
import sysconfig
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from persistent import Persistent

from .demo_progress import Progress

MAX_TEXT = 20_000  # characters of one docstring: a few modules hold whole books


@dataclass(frozen=True)
class Source:
    """What becomes one document."""

    path: str  # /distribution/package/module/Class/method
    title: str
    kind: str  # module, class or function
    distribution: str
    text: str
    names: tuple[str, ...]  # arguments, bases, decorators
    lines: int
    modified: datetime.datetime


class Document(Persistent):  # type: ignore[misc,unused-ignore]  # untyped base
    """One document, as an application would keep it."""

    def __init__(self, source: Source) -> None:
        self.path = source.path
        self.title = source.title
        self.kind = source.kind
        self.distribution = source.distribution
        self.text = source.text
        self.names = source.names
        self.lines = source.lines
        self.modified = source.modified
        self.edition = 0

    def getPhysicalPath(self) -> tuple[str, ...]:
        return tuple(self.path.split("/"))


def collect(wanted: int) -> list[Source]:
    """The first `wanted` documents: documented ones first, then others, in an order that only the files decide."""
    documented: list[Source] = []
    bare: list[Source] = []
    seen: set[str] = set()
    with Progress("reading documents", wanted) as progress:
        for distribution, root, file in files():
            for source in parse(distribution, root, file):
                if source.path in seen:  # defined twice, under an if
                    continue
                seen.add(source.path)
                (documented if source.text else bare).append(source)
                if source.text:
                    progress.advance()
                if len(documented) == wanted:
                    return documented
    return (documented + bare)[:wanted]


def files() -> Iterator[tuple[str, Path, Path]]:
    """(distribution, root, file) of the standard library, then of each distribution by name."""
    stdlib = Path(sysconfig.get_path("stdlib"))
    for file in sorted(stdlib.rglob("*.py")):
        if not {"site-packages", "dist-packages", "test", "tests"} & set(file.parts):
            yield "stdlib", stdlib, file
    for dist in sorted(importlib.metadata.distributions(), key=lambda d: str(d.metadata["Name"]).lower()):
        root = Path(str(dist.locate_file("")))
        for entry in sorted(dist.files or [], key=str):
            if entry.suffix == ".py":
                yield str(dist.metadata["Name"]), root, Path(str(dist.locate_file(entry)))


def parse(distribution: str, root: Path, file: Path) -> Iterator[Source]:
    """The documents of one file; none if it can't be read (sources for another Python, templates)."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about other people's escape sequences
            tree = ast.parse(file.read_bytes())
        modified = datetime.datetime.fromtimestamp(int(file.stat().st_mtime))
    except (OSError, SyntaxError, ValueError, RecursionError):
        return
    try:
        relative = file.relative_to(root)
    except ValueError:
        return
    parts = [*relative.parts[:-1]] if file.name == "__init__.py" else [*relative.parts[:-1], file.stem]
    module = "/".join(["", distribution, *parts])
    yield from _walk(tree, module, ".".join(parts) or distribution, distribution, modified)


def _walk(
    node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef,
    path: str,
    title: str,
    distribution: str,
    modified: datetime.datetime,
) -> Iterator[Source]:
    kind, names = "function", []
    lines = (getattr(node, "end_lineno", None) or 0) - getattr(node, "lineno", 0) + 1
    if isinstance(node, ast.Module):
        kind = "module"
        lines = max((getattr(n, "end_lineno", 0) for n in node.body), default=0)
    elif isinstance(node, ast.ClassDef):
        kind = "class"
        names = [ast.unparse(n) for n in node.bases + node.decorator_list]
    else:
        a = node.args
        names = [x.arg for x in a.posonlyargs + a.args + a.kwonlyargs] + [ast.unparse(n) for n in node.decorator_list]
    # A surrogate from an escape in a docstring is no text.
    text = (ast.get_docstring(node) or "").encode("utf-8", "replace").decode()[:MAX_TEXT]
    unique = tuple(sorted({n[:100].encode("utf-8", "replace").decode() for n in names}))
    yield Source(path, title, kind, distribution, text, unique, lines, modified)
    for child in node.body:
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _walk(child, f"{path}/{child.name}", f"{title}.{child.name}", distribution, modified)
