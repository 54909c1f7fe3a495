"""A Plone site's whole life on each of the storages: python tests/zope/run.py [--size N] [--json FILE] [STORAGE ...]

For each storage: a fresh site; its life over HTTP with 4 threads (life.py); a restart; a kill -9 while four editors
write, and a restart; everything read back each time; then, with the site stopped, its database checked
(offline_script.py), and for dht by `zodb-dht verify`. Ends with one line a storage; exit 1 at the first difference.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from backends import BACKENDS
from browser import Browser
from environment import BUILD, HERE, ensure, say
from instance import PASSWORD, USER, Instance
from life import Life


def check_offline(instance: Instance, life: Life) -> dict[str, Any]:
    """The stopped site's database against the model."""
    model = instance.directory / "var" / "model.json"
    model.write_text(json.dumps({path: dataclasses.asdict(item) for path, item in life.expected.items()}))
    out = instance.run_script(HERE / "offline_script.py", model)
    found: dict[str, Any] = json.loads(out.splitlines()[-1])
    return found


def verify(bin_dir: Path, instance: Instance) -> dict[str, Any]:
    """`zodb-dht verify` of the peer directory: every record, its hash, and the chain of transactions."""
    command = [bin_dir / "zodb-dht", "verify", "--json", instance.storage_dir / "peer"]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def live(name: str, size: int, directory: Path) -> dict[str, Any]:
    """One storage's run; what it did and saw, and how long each chapter took."""
    bin_dir = ensure(dht=name == "dht")
    instance = Instance(bin_dir, directory, BACKENDS[name])
    instance.make(fresh=True)
    seconds: dict[str, float] = {}
    result: dict[str, Any] = {"storage": name, "seconds": seconds}

    def chapter(what: str, run: Callable[[], object]) -> object:
        began = time.monotonic()
        seen = run()
        took = time.monotonic() - began
        seconds[what] = seconds.get(what, 0) + took
        say(f"{name}: {what} {'' if seen is None else seen} ({took:.1f} s)")
        return seen

    try:
        chapter("make the site", lambda: instance.make_site() and None)
        chapter("start", instance.start)
        life = Life(Browser(instance.url, USER, PASSWORD), size)

        def restart() -> None:
            instance.start()
            life.browser.url = instance.url
            life.login()

        for what, run in life.chapters():
            seen = chapter(what, run)
            if what == "pack":
                result["packed"] = seen
        chapter("stop", instance.stop)
        chapter("start", restart)
        chapter("read back", life.read_back)
        chapter("kill -9", lambda: life.write_until_killed(instance.kill))
        chapter("start", restart)
        result["in_flight_kept"] = chapter("settle", life.settle)
        chapter("read back", life.read_back)
        chapter("stop", instance.stop)
        result["offline"] = chapter("check offline", lambda: check_offline(instance, life))
        if name == "dht":
            result["verify"] = chapter("zodb-dht verify", lambda: verify(bin_dir, instance))
        result["repeats"] = life.repeats
    finally:
        instance.close()
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("storages", nargs="*", metavar="STORAGE", default=list(BACKENDS), help=", ".join(BACKENDS))
    parser.add_argument("--size", type=int, default=40, help="documents in a folder (40)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was done and seen")
    args = parser.parse_args()
    for name in args.storages:
        if name not in BACKENDS:
            parser.error(f"{name}: not one of {', '.join(BACKENDS)}")
    results = [live(name, args.size, BUILD / "life" / name) for name in args.storages]
    if args.json:
        args.json.write_text(json.dumps(results, indent=1))
    for r in results:
        seen, (before, after) = r["offline"], r["packed"]
        print(
            f"{r['storage']}: {seen['items']} items as written; {seen['objects']} objects, {seen['btrees']} BTrees,"
            f" {seen['blobs']} blobs of {seen['blob_bytes']:,} bytes checked; pack {before:,} -> {after:,} bytes;"
            f" {sum(r['seconds'].values()):.0f} s"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
