"""Builds the extension and the command with Go; everything else about the package is in pyproject.toml."""

from __future__ import annotations

import os
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


class BuildGo(build_ext):
    """Go builds the extension and the zodb-dht command; a C compiler is its linker."""

    def build_extension(self, ext: Extension) -> None:
        go = need("go", "Go 1.26 or newer (https://go.dev/dl/)")
        compiler = (os.environ.get("CC", "").split() or ["cc"])[0]
        need(compiler, "a C compiler (Debian: apt-get install gcc libc6-dev)")
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
        env["CGO_CFLAGS"] = f"-O2 -DZD_VERSION={version} -I{sysconfig.get_paths()['include']}"
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
