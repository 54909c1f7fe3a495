"""What a build from source needs: where it is missing, one line says what to install."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parents[2]


def program(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def link(bin_: Path, name: str) -> None:
    found = shutil.which(name)
    assert found is not None
    (bin_ / name).symlink_to(found)


def build(bin_: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """A build that finds its tools in bin_ only."""
    link(bin_, "sh")
    return subprocess.run(
        [sys.executable, "setup.py", "-q", "build_ext", "--build-lib", bin_ / "lib", "--build-temp", bin_ / "temp"],
        cwd=HERE,
        env={"PATH": str(bin_), **env},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("go", "cc", "told"),
    [
        (None, "exit 0", "go was not found; install Go 1.26 or newer"),
        ("echo go version go1.19 linux/amd64", "exit 0", "(go version go1.19 linux/amd64); install Go 1.26 or newer"),
        ("echo go.mod requires go 1.26 >&2; exit 1", "exit 0", "(go.mod requires go 1.26); install Go 1.26 or newer"),
        ("echo go version go1.26.1 linux/amd64", None, "cc was not found; install a C compiler"),
        (
            "echo go version go1.26.1 linux/amd64",
            "echo 'fatal error: Python.h: No such file or directory' >&2; exit 1",
            "(fatal error: Python.h: No such file or directory); install the headers of Python and libc (Debian:"
            " apt-get install python3-dev libc6-dev), then run pip again",
        ),
    ],
)
def test_what_a_build_misses_is_one_line(tmp_path: Path, go: str | None, cc: str | None, told: str) -> None:
    for name, text in (("go", go), ("cc", cc)):
        if text is not None:
            program(tmp_path / name, text)
    done = build(tmp_path)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("zodb_dht: ") and told in line


def test_headers_are_looked_for_where_cgo_looks(tmp_path: Path) -> None:
    program(tmp_path / "go", "echo go version go1.26.1 linux/amd64")
    program(tmp_path / "cc", 'case "$*" in *"-I /opt/headers"*) exit 0; esac; echo Python.h: error >&2; exit 1')
    done = build(tmp_path, CGO_CPPFLAGS="-DX -I /opt/headers")
    assert done.returncode == 0, done
