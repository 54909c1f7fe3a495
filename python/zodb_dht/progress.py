"""A line of progress on a terminal, by tqdm if it is installed."""

from __future__ import annotations

import time
from typing import Any, TextIO

from ZODB.utils import readable_tid_repr

EVERY = 0.2
"""Seconds between two drawings."""


class Bar:
    """Counts transactions of one phase after another; draws nothing unless the stream is a terminal. One thread."""

    def __init__(self, stream: TextIO | None) -> None:  # None: the process was started without
        self._stream = stream if stream is not None and stream.isatty() else None
        self._phase = ""
        self._count = 0
        self._drawn = 0.0
        self._bar: Any = None

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *args: object) -> None:
        self._end()

    def step(self, phase: str, tid: bytes) -> None:
        """One more transaction."""
        if self._stream is None:
            return
        if phase != self._phase:
            self._begin(phase)
        self._count += 1
        now = time.monotonic()
        if now - self._drawn >= EVERY:
            self._drawn = now
            self._draw(tid)

    def _begin(self, phase: str) -> None:
        self._end()
        self._phase, self._count, self._drawn = phase, 0, 0.0
        try:
            from tqdm import tqdm
        except ImportError:
            return
        self._bar = tqdm(desc=phase, unit=" transactions", file=self._stream, leave=False, mininterval=EVERY)

    def _draw(self, tid: bytes) -> None:
        when = readable_tid_repr(tid).split(" ", 1)[-1]
        if self._bar is not None:
            self._bar.set_postfix_str(when, refresh=False)
            self._bar.update(self._count - self._bar.n)
        elif self._stream is not None:
            print(f"\r{self._phase}: {self._count} transactions, {when}\x1b[K", end="", file=self._stream, flush=True)

    def _end(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        elif self._phase and self._stream is not None:
            print("\r\x1b[K", end="", file=self._stream, flush=True)
