"""What the tests of full disks share: the disk, and the process that fills it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent


@pytest.fixture
def small_disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, of the size that the test's module names by DISK."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={request.module.DISK}", "tmpfs", str(disk)],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode != 0:
        pytest.skip(f"WAITING: a full disk needs the right to mount a tmpfs (root): {mounted.stderr.strip()}")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


@pytest.fixture
def ended() -> Callable[..., Any]:
    """Runs a script of this directory, which must live on, and returns what its last line says."""

    def run(script: str, *args: str) -> Any:
        done = subprocess.run(
            [sys.executable, str(HERE / script), *args], capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, f"the process died ({done.returncode}): {done.stderr[-2000:]}"
        return json.loads(done.stdout.splitlines()[-1])

    return run
