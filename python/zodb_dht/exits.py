"""Exit codes of the commands that run in Python: the table of cmd/zodb-dht."""

from __future__ import annotations

from .errors import Corrupt, InDoubt, Unavailable, Usage

DONE, FAILED, USAGE, NO_MAJORITY, IN_DOUBT, CORRUPT = range(6)


def exit_code(error: Exception) -> int:
    """What a command ends with behind an error."""
    for kind, code in ((Corrupt, CORRUPT), (InDoubt, IN_DOUBT), (Unavailable, NO_MAJORITY), (Usage, USAGE)):
        if isinstance(error, kind):
            return code
    return FAILED
