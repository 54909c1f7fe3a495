"""The zodb-dht command: hands over to the program that the wheel brings, but for what needs Python (packing)."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def main() -> None:
    program = Path(__file__).parent / "_bin" / "zodb-dht"
    if not program.exists():
        sys.exit(f"zodb-dht: {program} is missing: install zodb_dht from its wheel or sdist")
    arguments = sys.argv[1:]
    # Garbage collection reads pickles; without it, and for help, the program does it all.
    if "pack" in arguments[:2] and not {"--no-gc", "--no-gc=true", "--help", "-h"} & set(arguments):
        from .cli_pack import main as pack

        sys.exit(pack([a for n, a in enumerate(arguments) if n != arguments.index("pack")]))
    os.execv(program, ["zodb-dht", *arguments])
