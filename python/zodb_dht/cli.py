"""The zodb-dht command: the program that the wheel brings, but for the verbs that need Python."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

IN_PYTHON = ("import", "export")


def main() -> None:
    try:
        _main(sys.argv[1:])
    except KeyboardInterrupt:  # while a verb's modules are loaded, which takes longest
        sys.exit("zodb-dht: interrupted")


def _main(arguments: list[str]) -> None:
    verb = next((a for a in arguments if not a.startswith("-")), None)
    if verb in IN_PYTHON:
        from .commands import run

        sys.exit(run(arguments))
    program = Path(__file__).parent / "_bin" / "zodb-dht"
    if not program.exists():
        sys.exit(f"zodb-dht: {program} is missing: install zodb_dht from its wheel or sdist")
    # Garbage collection reads pickles; without it, and for help, the program does it all.
    if verb == "pack" and not {"--no-gc", "--no-gc=true", "--help", "-h"} & set(arguments):
        from .cli_pack import main as pack

        sys.exit(pack([a for n, a in enumerate(arguments) if n != arguments.index("pack")]))
    os.execv(program, ["zodb-dht", *arguments])


def tell(result: str) -> None:
    """Print what a verb of Python did. Where nobody reads it SIGPIPE ends the process, as the other verbs."""
    before = signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    try:
        print(result, flush=True)
    finally:
        signal.signal(signal.SIGPIPE, before)


if __name__ == "__main__":
    main()
