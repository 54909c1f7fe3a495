"""Child processes on the extension, and the test build of it that panics on request."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

import pytest
import zodb_dht

ROOT = Path(__file__).parents[2]
HANGING = 60
"""Seconds: no child of these tests takes more than a few."""

Child = Callable[..., str]


@pytest.fixture(scope="session")
def panicking(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the installed package whose extension panics where $ZODB_DHT_PANIC says."""
    where = tmp_path_factory.mktemp("panicking")
    shutil.copytree(Path(zodb_dht.__file__).parent, where / "zodb_dht", ignore=shutil.ignore_patterns("_core*.so"))
    undefined = "-Wl,--unresolved-symbols=ignore-all"
    if sys.platform == "darwin":
        undefined = "-Wl,-undefined,dynamic_lookup"
    env = dict(os.environ, CGO_ENABLED="1", CGO_LDFLAGS=undefined, CGO_LDFLAGS_ALLOW="-Wl,.*")
    env["CGO_CFLAGS"] = f"-O2 -I{sysconfig.get_paths()['include']}"
    command = ["go", "build", "-trimpath", "-buildmode=c-shared", "-tags=python,pebblegozstd,bridgepanic"]
    subprocess.run([*command, "-o", where / "zodb_dht" / "_core.abi3.so", "./bridge"], cwd=ROOT, env=env, check=True)
    return where


@pytest.fixture
def child(tmp_path: Path) -> Child:
    """child(script, *args, package=None): what a Python process prints that runs the script in the test's directory."""

    def run(script: str, *args: str, package: Path | None = None) -> str:
        env = dict(os.environ, ZODB_DHT_PANIC=str(tmp_path / "panic"))
        if package is not None:
            env["PYTHONPATH"] = str(package)
        done = subprocess.run(
            [sys.executable, "-X", "faulthandler", "-c", script, *args],
            cwd=tmp_path,
            env=env,
            capture_output=True,
            text=True,
            timeout=HANGING,
            check=False,
        )
        assert done.returncode == 0, f"exit {done.returncode}\n{done.stdout}\n{done.stderr[-3000:]}"
        return done.stdout

    return run
