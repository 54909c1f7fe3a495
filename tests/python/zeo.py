"""A ZEO server in a process of its own, started as an operator starts it."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ZEO.ClientStorage import ClientStorage


@contextlib.contextmanager
def server(directory: Path, section: str) -> Iterator[str]:
    """runzeo -C with a storage section, until the end of the block; the path of its socket."""
    directory.mkdir(exist_ok=True)
    address, conf, log = directory / "zeo.sock", directory / "zeo.conf", directory / "zeo.log"
    conf.write_text(f"%import zodb_dht\n<zeo>\n  address {address}\n</zeo>\n{section}\n")
    with log.open("wb") as out:
        child = subprocess.Popen([sys.executable, "-m", "ZEO.runzeo", "-C", str(conf)], stdout=out, stderr=out)
    try:
        yield str(address)
        assert child.poll() is None, f"the server ended: {log.read_text()}"
    finally:
        child.terminate()
        try:
            child.wait(30)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def client(address: str, **options: Any) -> ClientStorage:
    """A connected client; it waits for a server that is starting."""
    return ClientStorage(address, wait=True, wait_timeout=60, **options)
