"""What tells damage of a FileStorage's file from what a crash, a clock or a running site leaves there."""

from __future__ import annotations

import logging
import os
import struct
from typing import Any

from ZODB.FileStorage.format import TRANS_HDR, TRANS_HDR_LEN
from ZODB.utils import u64

from .errors import Unreadable


class Complaints(logging.Handler):
    """What a FileStorage says of damage in its file: it logs it, and leaves out what it can't read."""

    NAME = "ZODB.FileStorage"
    # rising mends it; the index is made anew; tids of a clock that was wrong are tids
    HARMLESS = ("time-stamp reduction", "Ignoring index", "loading index", "seconds in the future")

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.heard: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if not self.harmless(record) and not _grown(record):
            self.heard.append(record.getMessage())

    @classmethod
    def harmless(cls, record: logging.LogRecord) -> bool:
        """Whether it tells of no damage."""
        text = record.getMessage()
        return record.name == cls.NAME and any(harmless in text for harmless in cls.HARMLESS)

    def __enter__(self) -> Complaints:
        logger = logging.getLogger(self.NAME)
        self._level = logger.level
        if not logger.isEnabledFor(logging.WARNING):
            logger.setLevel(logging.WARNING)
        logger.addHandler(self)
        return self

    def __exit__(self, *args: object) -> None:
        logger = logging.getLogger(self.NAME)
        logger.removeHandler(self)
        logger.setLevel(self._level)

    def check(self, where: str) -> None:
        """Unreadable if there was one since the last check."""
        heard, self.heard = self.heard, []
        if heard:
            raise Unreadable(f"{where}: the source is damaged: {heard[0]}")


def _grown(record: logging.LogRecord) -> bool:
    """Whether a transaction that is called truncated is whole: it was committed after the iterator looked at the size.

    Its status is written last, so the iterator that found no "c" there, and complained, came after its last byte.
    """
    if "truncated" not in str(record.msg) or not isinstance(record.args, tuple) or len(record.args) != 2:
        return False
    name, position = record.args
    try:
        with open(str(name), "rb") as f:
            f.seek(int(str(position)) + 8)  # behind the tid
            length = f.read(8)
            f.seek(int(str(position)) + u64(length))
            return f.read(8) == length
    except (OSError, OverflowError, ValueError, struct.error):
        return False


def uncommitted(source: Any, last: bytes) -> bool:
    """Whether last, what a FileStorage calls its last transaction, was never one.

    Opened for reading it takes for that what it finds behind the last one: a transaction that was voted for, by a site
    that runs, or that was killed. Damage may look so, too, but then more comes behind it.
    """
    name, end = getattr(source, "_file_name", None), getattr(source, "_pos", None)
    if name is None or end is None:
        return False
    with open(name, "rb") as f:
        size = os.fstat(f.fileno()).st_size  # before the status: the site may go on
        if end > 4:
            f.seek(end - 8)
            f.seek(end - 8 - u64(f.read(8)))
            if f.read(8) == last:
                return False
        f.seek(end)
        header = f.read(TRANS_HDR_LEN)
    if len(header) < TRANS_HDR_LEN:  # it was aborted since
        return True
    _, length, status, *_ = struct.unpack(TRANS_HDR, header)
    return bool(status != b"c" or end + length + 8 >= size)
