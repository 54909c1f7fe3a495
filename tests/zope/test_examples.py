"""The examples that a Zope reads, as they stand: each makes a Zope whose root is in the peer directory they name."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from environment import ROOT, ensure

EXAMPLES = ROOT / "examples"

SCRIPT = """\
import transaction
app.manage_addFolder("added")
transaction.commit()
print("root:", app._p_jar.db().storage.__class__.__module__, *app.objectIds())
"""


@pytest.fixture(scope="module")
def bin_dir() -> Path:
    return ensure(dht=True)


@pytest.fixture
def instance(bin_dir: Path, tmp_path: Path) -> Path:
    where = tmp_path / "instance"
    subprocess.run([bin_dir / "mkwsgiinstance", "-d", where, "-u", "admin:admin"], check=True)
    (where / "etc" / "site.zcml").unlink()  # no Plone is needed here
    return where


def run_script(bin_dir: Path, conf: Path, tmp_path: Path) -> str:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    done = subprocess.run([bin_dir / "zconsole", "run", conf, script], stdout=subprocess.PIPE, text=True, check=True)
    return next(line for line in done.stdout.splitlines() if line.startswith("root:"))


def test_single_conf_is_a_zope_conf(bin_dir: Path, instance: Path, tmp_path: Path) -> None:
    text = (EXAMPLES / "single.conf").read_text()
    assert text.count("%define INSTANCE /srv/site") == 1
    conf = instance / "etc" / "zope.conf"
    conf.write_text(text.replace("/srv/site", str(instance)))
    root = run_script(bin_dir, conf, tmp_path)
    assert "zodb_dht" in root and "added" in root
    assert (instance / "var" / "peer").is_dir()


def test_the_commands_for_cookiecutter_put_a_peer_into_a_generated_zope_conf(
    bin_dir: Path, instance: Path, tmp_path: Path
) -> None:
    # What mkwsgiinstance generates stands for the template's: both have one <filestorage> section in <zodb_db main>.
    note = (EXAMPLES / "cookiecutter-zope-instance.md").read_text()
    [commands] = re.findall(r"```sh\n(.*?)```", note, re.DOTALL)
    subprocess.run(["bash", "-euc", commands], cwd=tmp_path, check=True)
    conf = instance / "etc" / "zope.conf"
    root = run_script(bin_dir, conf, tmp_path)
    assert "zodb_dht" in root and "added" in root
    assert not (instance / "var" / "Data.fs").exists()
