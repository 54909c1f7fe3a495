"""Progress of the demo on stderr: a tqdm bar where tqdm is installed, else a plain line every two seconds."""

from __future__ import annotations

import importlib
import sys
import time
from types import TracebackType
from typing import Any

INTERVAL_S = 2.0


class Progress:
    """A count of work done; used by one thread."""

    def __init__(self, what: str, total: int) -> None:
        self.what, self.total, self.done = what, total, 0
        self._bar: Any = None
        self._next = time.monotonic() + INTERVAL_S
        try:
            tqdm = importlib.import_module("tqdm")
        except ImportError:
            return
        self._bar = tqdm.tqdm(total=total, desc=what, unit="", file=sys.stderr, mininterval=0.2, dynamic_ncols=True)

    def advance(self, n: int = 1) -> None:
        self.done += n
        if self._bar is not None:
            self._bar.update(n)
        elif time.monotonic() >= self._next:
            self._next = time.monotonic() + INTERVAL_S
            self._line()

    def _line(self) -> None:
        print(f"{self.what}: {self.done} of {self.total}", file=sys.stderr, flush=True)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.close()
        else:
            self._line()
