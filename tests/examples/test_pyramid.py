"""examples/pyramid as a user installs and starts it: what it answered is there after kill -9."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
EXAMPLE = ROOT / "examples" / "pyramid"


@pytest.fixture(scope="module")
def python() -> Path:
    """The interpreter of a virtualenv in build/pyramid with the wheel of build/wheel and the example's requirements."""
    where = ROOT / "build" / "pyramid"
    python = where / "bin" / "python"
    requirements = EXAMPLE / "requirements.txt"
    [wheel] = (ROOT / "build" / "wheel").glob("*.whl")  # ./build.sh wheel makes it
    stamp = where / "stamp"
    inputs = hashlib.sha256(requirements.read_bytes() + wheel.read_bytes()).hexdigest()
    if not stamp.exists() or stamp.read_text() != inputs:
        subprocess.run([sys.executable, "-m", "venv", where], check=True)
        pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "--force-reinstall", f"{wheel}[zodburi]", "-r", requirements], check=True)
        stamp.write_text(inputs)
    return python


@contextmanager
def running(python: Path, peer: Path) -> Iterator[str]:
    """The application's URL; killed at the end."""
    command = [python, "-W", "ignore", EXAMPLE / "app.py", peer, "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True) as app:
        try:
            said = []
            for line in app.stderr or ():
                said.append(line)
                if "Serving on http://" in line:
                    yield line.split("Serving on ")[1].strip()
                    break
            else:
                raise AssertionError("".join(said))
        finally:
            app.kill()


def ask(method: str, url: str, body: object = None) -> object:
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(url, data, method=method), timeout=60) as answer:
        return json.load(answer)


def test_the_guestbook_keeps_what_four_visitors_write_at_once(python: Path, tmp_path: Path) -> None:
    names = [f"visitor{n}" for n in range(40)]
    expected = {name: f"Hello from {name}" for name in names}
    with running(python, tmp_path / "peer") as url, ThreadPoolExecutor(4) as visitors:
        list(visitors.map(lambda name: ask("PUT", f"{url}/{name}", {"text": expected[name]}), names))
        assert ask("GET", f"{url}/") == expected
    with running(python, tmp_path / "peer") as url:
        assert ask("GET", f"{url}/") == expected
