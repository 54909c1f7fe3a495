"""Runs examples/buildout for real, makes a Plone site in its instance, starts it and asks it what it stands on.

The example extends the release's list of versions, which is not on PyPI: here constraints.txt takes its place. So that
buildout looks nowhere for zodb_dht, its wheel is installed beside buildout, and pinned.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import venv
from pathlib import Path

from backends import DHT
from browser import Browser
from environment import BUILD, HERE, ROOT, WHEELS, say
from instance import PASSWORD, USER, Instance
from life import Life

WHERE = BUILD / "buildout"
EXTENDS = "extends = https://dist.plone.org/release/6.2.2/versions.cfg"
RECIPES = {"plone.recipe.zope2instance": "9.1.0"}


def write_files(where: Path, dht: str) -> None:
    """The example's buildout.cfg, with the versions that constraints.txt pins."""
    config = (ROOT / "examples" / "buildout" / "buildout.cfg").read_text()
    for line, instead in (
        (EXTENDS, "extends = versions.cfg"),
        ("user = admin:admin", f"user = {USER}:{PASSWORD}"),
        ("http-address = 127.0.0.1:8080", "http-address = 127.0.0.1:0"),  # a free port
    ):
        if line not in config:
            raise SystemExit(f"examples/buildout/buildout.cfg: no line {line!r}")
        config = config.replace(line, instead)
    pinned = dict(line.split("==") for line in (HERE / "constraints.txt").read_text().splitlines() if "==" in line)
    pinned |= {**RECIPES, "zodb_dht": dht}
    where.mkdir(parents=True, exist_ok=True)
    versions = "".join(f"{name} = {version}\n" for name, version in pinned.items())
    (where / "versions.cfg").write_text(f"[versions]\n{versions}")
    (where / "buildout.cfg").write_text(config)


def build(where: Path) -> None:
    """Run buildout, in a virtualenv of its own."""
    [wheel] = WHEELS.glob("*.whl")
    write_files(where, wheel.name.split("-")[1])
    python = where / "venv" / "bin" / "python"
    if not python.exists():
        venv.create(where / "venv", with_pip=True)
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "zc.buildout==6.0.1"], check=True)
    subprocess.run([*pip, "--force-reinstall", "--no-deps", wheel], check=True)
    say("buildout ...")
    with (where / "buildout.log").open("wb") as log:
        subprocess.run([where / "venv" / "bin" / "buildout"], cwd=where, check=True, stdout=log, stderr=log)


class BuildoutInstance(Instance):
    """The instance that the recipe made, through the script that it made."""

    def script_command(self) -> list[str | Path]:
        return [self.bin_dir / "instance", "run"]

    def serve_command(self) -> list[str | Path]:
        return [self.bin_dir / "instance", "fg"]


def main() -> int:
    shutil.rmtree(WHERE / "var", ignore_errors=True)
    build(WHERE)
    instance = BuildoutInstance(WHERE / "bin", WHERE, DHT)
    instance.log_path.parent.mkdir(parents=True, exist_ok=True)
    try:
        instance.make_site()
        instance.start()
        life = Life(Browser(instance.url, USER, PASSWORD), 2)
        life.begin()
        life.write()
        items = life.read_back()
        name = life.call("GET", "/@database")["db_name"]
    finally:
        instance.close()
    if name != str(WHERE / "var" / "peer"):
        raise SystemExit(f"the site is on {name}, not on the peer directory that buildout.cfg names")
    print(f"buildout: a Plone site on {name}, {items} items as written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
