"""The virtualenv of the Plone runs, in build/plone: made again for another Python or requirements.

It is not the package's own .venv: a site pins the versions of some 280 packages.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
BUILD = ROOT / "build" / "plone"
BIN = BUILD / "venv" / "bin"
WHEELS = ROOT / "build" / "wheel"


class SetupError(Exception):
    """What is missing, and what makes it."""


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _pip(*args: str | os.PathLike[str]) -> None:
    pip = [BIN / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, *args], check=True)


def _once(name: str, inputs: bytes, install: list[str | os.PathLike[str]], what: str) -> None:
    """Install unless the stamp of that name says that these inputs are installed."""
    stamp = BUILD / "venv" / f"stamp-{name}"
    digest = hashlib.sha256(inputs).hexdigest()
    if stamp.exists() and stamp.read_text() == digest:
        return
    say(f"installing {what} into {BUILD / 'venv'} ...")
    began = time.monotonic()
    _pip(*install)
    stamp.write_text(digest)
    say(f"installed {what} in {time.monotonic() - began:.0f} s")


def ensure(*names: str, dht: bool = False) -> Path:
    """The bin directory, with requirements.txt and each requirements-NAME.txt installed; with dht the wheel, too."""
    settings = BUILD / "venv" / "pyvenv.cfg"
    if not settings.exists() or f"version = {platform.python_version()}" not in settings.read_text().splitlines():
        BUILD.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(BUILD / "venv", ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", BUILD / "venv"], check=True)
    constraints = HERE / "constraints.txt"
    for name in ("", *names):
        requirements = HERE / f"requirements{'-' if name else ''}{name}.txt"
        inputs = requirements.read_bytes() + constraints.read_bytes()
        _once(requirements.stem, inputs, ["-c", constraints, "-r", requirements], requirements.name)
    if dht:
        wheels = sorted(WHEELS.glob("*.whl"))
        if len(wheels) != 1:
            raise SetupError(f"{WHEELS}: found {len(wheels)} wheels, not one; ./build.sh wheel makes it")
        install = ["--force-reinstall", "--no-deps", wheels[0]]
        _once("wheel", wheels[0].read_bytes(), install, wheels[0].name)
    return BIN
