"""The storages that a site runs on: their section in zope.conf, and the server that a storage needs beside Zope."""

from __future__ import annotations

import dataclasses
import subprocess
from collections.abc import Sequence
from pathlib import Path


@dataclasses.dataclass(frozen=True)
class Backend:
    """One kind of storage. `section` is the body of <zodb_db main>, `where` the directory of its files."""

    name: str
    imports: Sequence[str]
    section: str
    server: str | None = None

    def zope_conf(self, where: Path) -> tuple[str, str]:
        """(the %import lines, the storage's section)."""
        imports = "".join(f"%import {package}\n" for package in self.imports)
        return imports, self.section.format(where=where)

    def start(self, bin_dir: Path, where: Path) -> subprocess.Popen[bytes] | None:
        """The storage's server; None if it has none. It accepts connections when its socket is there."""
        where.mkdir(parents=True, exist_ok=True)
        if self.server is None:
            return None
        (where / "zeo.sock").unlink(missing_ok=True)
        (where / "blobs").mkdir(exist_ok=True)
        conf = where / "zeo.conf"
        conf.write_text(self.server.format(where=where))
        log = open(where / "zeo.log", "ab")  # noqa: SIM115 - the child's
        with log:
            return subprocess.Popen([bin_dir / "runzeo", "-C", conf], stdout=log, stderr=log)


FILESTORAGE = Backend(
    "filestorage",
    (),
    """\
  <filestorage>
    path {where}/Data.fs
    blob-dir {where}/blobs
  </filestorage>
""",
)

# Plone's own advice for a ZEO client on the server's host: the blobs shared, a cache that holds the site.
ZEO = Backend(
    "zeo",
    (),
    """\
  <zeoclient>
    server {where}/zeo.sock
    blob-dir {where}/blobs
    shared-blob-dir on
    cache-size 300MB
  </zeoclient>
""",
    """\
<zeo>
  address {where}/zeo.sock
</zeo>
<filestorage 1>
  path {where}/Data.fs
  blob-dir {where}/blobs
</filestorage>
""",
)

DHT = Backend(
    "dht",
    ("zodb_dht",),
    """\
  <dhtstorage>
    path {where}/peer
  </dhtstorage>
""",
)

BACKENDS = {b.name: b for b in (FILESTORAGE, ZEO, DHT)}
