"""The zodb-dht command: hands over to the program that the wheel brings."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def main() -> None:
    program = Path(__file__).parent / "_bin" / "zodb-dht"
    if not program.exists():
        sys.exit(f"zodb-dht: {program} is missing: install zodb_dht from its wheel or sdist")
    os.execv(program, ["zodb-dht", *sys.argv[1:]])
