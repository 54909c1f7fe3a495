"""Builds the extension and the command with Go; everything else about the package is in pyproject.toml."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

HERE = Path(__file__).resolve().parent


def need(tool: str, what: str) -> str:
    found = shutil.which(tool)
    if not found:
        sys.exit(f"zodb_dht: {tool} was not found; install {what}, then run pip again")
    return found


def check_go(go: str) -> None:
    """Stop where go is too old. One that can fetch a newer one answers for that."""
    told = subprocess.run([go, "version"], cwd=HERE, capture_output=True, text=True, check=False)
    found = re.search(r"go(\d+)\.(\d+)", told.stdout)
    if told.returncode or not found or (int(found[1]), int(found[2])) < (1, 26):
        said = (told.stderr or told.stdout).strip().splitlines() or ["go version failed"]
        sys.exit(
            f"zodb_dht: {go} will not do ({said[-1]}); install Go 1.26 or newer (https://go.dev/dl/),"
            " then run pip again"
        )


def check_headers(compiler: list[str], include: str) -> None:
    """Stop where Python's or libc's headers are missing, which distributions package apart."""
    flags = shlex.split(os.environ.get("CGO_CPPFLAGS", ""))  # cgo looks there, too
    command = [*compiler, *flags, f"-I{include}", "-E", "-x", "c", "-"]
    tried = subprocess.run(command, input="#include <Python.h>\n", capture_output=True, text=True, check=False)
    if tried.returncode:
        said = next((line for line in tried.stderr.splitlines() if "error" in line), "it failed")
        sys.exit(
            f"zodb_dht: {compiler[0]} can't include Python.h ({said.strip()}); install the headers of Python and libc"
            " (Debian: apt-get install python3-dev libc6-dev), then run pip again"
        )


class BuildGo(build_ext):
    """Go builds the extension and the zodb-dht command; a C compiler is its linker."""

    def build_extension(self, ext: Extension) -> None:
        go = need("go", "Go 1.26 or newer (https://go.dev/dl/)")
        compiler = os.environ.get("CC", "").split() or ["cc"]
        need(compiler[0], "a C compiler (Debian: apt-get install gcc libc6-dev)")
        include = sysconfig.get_paths()["include"]
        check_go(go)
        check_headers(compiler, include)
        target = Path(self.get_ext_fullpath(ext.name)).resolve()
        target.parent.mkdir(parents=True, exist_ok=True)
        undefined = (
            "-Wl,-undefined,dynamic_lookup" if sys.platform == "darwin" else "-Wl,--unresolved-symbols=ignore-all"
        )
        if sys.platform == "linux":
            # bridge/start.h, bridge/stack.h
            undefined += " -Wl,--wrap=x_cgo_sys_thread_create,--wrap=pthread_getattr_np"
        env = dict(os.environ, CGO_ENABLED="1", CGO_LDFLAGS=undefined, CGO_LDFLAGS_ALLOW="-Wl,.*")
        version = self.distribution.get_version()
        env["CGO_CFLAGS"] = f"-O2 -DZD_VERSION={version} -I{include}"
        common = [go, "build", "-trimpath", f"-ldflags=-s -w -X main.version={version}"]
        self.go([*common, "-buildmode=c-shared", "-tags=python,pebblegozstd", "-o", str(target), "./bridge"], env)
        command = target.parent / "_bin" / "zodb-dht"
        env["CGO_ENABLED"] = "0"
        self.go([*common, "-tags=pebblegozstd", "-o", str(command), "./cmd/zodb-dht"], env)
        target.with_suffix(".h").unlink(missing_ok=True)

    def go(self, command: list[str], env: dict[str, str]) -> None:
        if subprocess.run(command, cwd=HERE, env=env, check=False).returncode:
            sys.exit(f"zodb_dht: this step of the build failed: {' '.join(command)}")


class Abi3Wheel(bdist_wheel):
    """One wheel for CPython 3.10 and up."""

    def finalize_options(self) -> None:
        self.py_limited_api = "cp310"
        super().finalize_options()


setup(
    ext_modules=[Extension("zodb_dht._core", sources=[], py_limited_api=True)],
    cmdclass={"build_ext": BuildGo, "bdist_wheel": Abi3Wheel},
)
