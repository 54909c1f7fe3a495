"""Counts what a storage is asked for: a <storage-loads> section around another storage's, and a WSGI filter.

The wrapper provides what the wrapped storage provides. Its counts are the thread's, so that the filter can tell those
of one request: they travel in its answer's X-Storage-* headers.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from time import perf_counter_ns
from typing import Any

import zope.interface
from ZODB.config import BaseConfig

COUNTED = ("load", "loadBefore", "store", "checkCurrentSerialInTransaction")


class Counts(threading.local):
    """How often each method was called by this thread, and the nanoseconds inside load and loadBefore."""

    def __init__(self) -> None:
        self.calls = dict.fromkeys(COUNTED, 0)
        self.load_ns = 0


COUNTS = Counts()


def _counting(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
    if name in ("load", "loadBefore"):

        def counting(*args: Any) -> Any:
            counts = COUNTS
            counts.calls[name] += 1
            start = perf_counter_ns()
            try:
                return method(*args)
            finally:
                counts.load_ns += perf_counter_ns() - start
    else:

        def counting(*args: Any) -> Any:
            COUNTS.calls[name] += 1
            return method(*args)

    return counting


class Counted:
    """A storage, or a view that one made, with its loads and stores counted."""

    def __init__(self, storage: Any) -> None:
        self._counted = storage
        zope.interface.directlyProvides(self, zope.interface.providedBy(storage))
        for name in COUNTED:
            method = getattr(storage, name, None)
            if method is not None:
                setattr(self, name, _counting(name, method))

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._counted, name)
        if name in ("new_instance", "undo_instance", "before_instance"):
            return lambda *args: Counted(value(*args))
        return value

    def __len__(self) -> int:
        return len(self._counted)

    def __bool__(self) -> bool:
        return True


class CountedFactory(BaseConfig):  # type: ignore[misc]
    """The datatype of <storage-loads>."""

    def open(self) -> Counted:
        return Counted(self.config.storage.open())


def filter_factory(global_conf: Any) -> Callable[[Any], Any]:
    """paste.filter_factory: the counts of each request in its answer's headers."""

    def wrap(app: Any) -> Any:
        def counted(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
            before, ns = dict(COUNTS.calls), COUNTS.load_ns

            def start(status: str, headers: list[tuple[str, str]], *exc_info: Any) -> Any:
                calls = {name: COUNTS.calls[name] - before[name] for name in COUNTED}
                # MVCCAdapter loads by loadBefore, a storage with views by load.
                counts = {
                    "loads": calls["load"] + calls["loadBefore"],
                    "load-ns": COUNTS.load_ns - ns,
                    "stores": calls["store"],
                    "checks": calls["checkCurrentSerialInTransaction"],
                }
                headers = headers + [(f"X-Storage-{name}", str(count)) for name, count in counts.items()]
                return start_response(status, headers, *exc_info)

            answer: Iterable[bytes] = app(environ, start)
            return answer

        return counted

    return wrap
