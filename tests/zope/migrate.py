"""A Plone site moves from Data.fs to a peer and back, as docs/plone.md says: python tests/zope/migrate.py [--size N]

The site is the one that run.py left on FileStorage (else one lives first). Import, with a first copy before its last
changes; verify; the site on the peer is read back, edited, and its database checked. Export into the Data.fs that was
imported, and, after a pack, into an empty one: the sites on both are read back and checked.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from backends import DHT, FILESTORAGE, Backend
from browser import Browser
from environment import BUILD, ensure, say
from instance import PASSWORD, USER, Instance
from life import Item, Life
from run import check_offline, live

WHERE = BUILD / "migrated"


def command(bin_dir: Path, *arguments: str | Path) -> dict[str, Any]:
    """What a zodb-dht command says with --json."""
    done = subprocess.run([bin_dir / "zodb-dht", *arguments, "--json"], stdout=subprocess.PIPE, check=True)
    said: dict[str, Any] = json.loads(done.stdout)
    return said


class Site:
    """A site whose database exists already, and the model that it must match."""

    def __init__(self, bin_dir: Path, name: str, backend: Backend, model: dict[str, Item]) -> None:
        self.instance = Instance(bin_dir, WHERE / name, backend)
        self.instance.make(fresh=True)
        self.life = Life(Browser("", USER, PASSWORD), 0)
        self.life.expected = model

    @property
    def files(self) -> Path:
        return self.instance.storage_dir

    def section(self) -> Path:
        """The ZConfig file by which `zodb-dht import` and `export` find a Data.fs with its blobs."""
        path = self.files / "storage.conf"
        path.write_text(FILESTORAGE.zope_conf(self.files)[1])
        return path

    def start(self) -> None:
        self.instance.start()
        self.life.browser.url = self.instance.url
        self.life.login()

    def check(self) -> None:
        """Read back over HTTP, then offline. Leaves the site stopped."""
        self.start()
        items = self.life.read_back()
        self.instance.close()
        say(f"{self.instance.directory.name}: {items} items read back; {check_offline(self.instance, self.life)}")

    def change(self) -> None:
        """Some more of the site's life."""
        self.start()
        self.life.folder("", f"after-{self.instance.directory.name}")
        path = self.life.document(f"/after-{self.instance.directory.name}", "new")
        self.life.edit(path, "Edited after the move")
        self.life.file(f"/after-{self.instance.directory.name}", "blob", b"a blob after the move")
        self.instance.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--size", type=int, default=10, help="documents in a folder, if a site must be made (10)")
    args = parser.parse_args()
    bin_dir = ensure(dht=True)
    lived = BUILD / "life" / "filestorage"
    if not (lived / "var" / "model.json").exists():
        live("filestorage", args.size, lived)
    stored = json.loads((lived / "var" / "model.json").read_text())
    model = {path: Item(**fields) for path, fields in stored.items()}

    old = Site(bin_dir, "old", FILESTORAGE, model)
    shutil.copytree(lived / "var" / "storage", old.files, dirs_exist_ok=True)
    peer = Site(bin_dir, "peer", DHT, model)
    say(f"import: {command(bin_dir, 'import', old.section(), peer.files / 'peer')}")
    old.change()
    again = command(bin_dir, "import", old.section(), peer.files / "peer", "--verify")
    say(f"import again: {again}")
    if not (again["already_there"] and again["copied"]["transactions"] and again["verified"]):
        raise SystemExit("the second import did not copy just what was new")
    command(bin_dir, "verify", peer.files / "peer")
    peer.check()
    peer.change()

    back = Site(bin_dir, "back", FILESTORAGE, model)
    for site in (old, back):
        if site is back:
            say(f"pack: {command(bin_dir, 'pack', peer.files / 'peer')}")
        exported = command(bin_dir, "export", peer.files / "peer", site.section(), "--verify")
        say(f"export into {site.instance.directory.name}: {exported}")
        site.check()
    print(f"migrated: {len(model)} items from Data.fs to a peer, into the old Data.fs and, packed, into a new one")
    return 0


if __name__ == "__main__":
    sys.exit(main())
