"""What visitors and editors wait for, on each storage in one run: times.py [--json FILE] [STORAGE ...]

A site on each storage, the same content in all, all running at once with 4 threads each; every kind of request goes to
one after the other in turn, so that what else the machine does hits all alike. Medians. For each request storage_loads
counts what the storage was asked for; "in load" is the milliseconds inside it.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import content
from backends import BACKENDS
from browser import Answer, Browser
from environment import BUILD, ensure, say
from instance import PASSWORD, USER, Instance
from life import Life


@dataclasses.dataclass(frozen=True)
class Request:
    """One kind of request: `ask` gets a site and a number that no other request has. Cold: after all caches emptied."""

    name: str
    ask: Callable[[Life, int], Answer]
    times: int
    cold: bool = False


def _create(life: Life, number: int) -> Answer:
    body = content.document(f"timed{number}", number, f"Timed {number}")
    return life.browser.api("POST", "/a", body)


def _edit(life: Life, number: int) -> Answer:
    return life.browser.api("PATCH", "/a/doc1", {"title": f"Timed {number}"})


def _upload(life: Life, number: int) -> Answer:
    upload = content.upload(content.data(number, 3_000_000), "timed.bin", "application/octet-stream")
    return life.browser.api("POST", "/b", {"@type": "File", "id": f"timed{number}", "title": "timed", "file": upload})


def _page(path: str) -> Callable[[Life, int], Answer]:
    return lambda life, _: life.browser.page(path)


def _search(life: Life, _: int) -> Answer:
    return life.browser.api("GET", "/@search?SearchableText=object&sort_on=modified&b_size=25")


REQUESTS = (
    Request("front page, cold", _page("/Plone"), 10, cold=True),
    Request("front page, warm", _page("/Plone"), 30),
    Request("folder listing, cold", _page("/Plone/a"), 10, cold=True),
    Request("folder listing, warm", _page("/Plone/a"), 20),
    Request("search, cold", _search, 10, cold=True),
    Request("search, warm", _search, 20),
    Request("create, cold", _create, 5, cold=True),
    Request("create", _create, 20),
    Request("edit", _edit, 20),
    Request("upload 3 MB", _upload, 5),
    Request("download 3 MB", lambda life, _: life.browser.api("GET", "/a/file3/@@download/file"), 10),
)


def measure(sites: Mapping[str, Life], starts: Mapping[str, Instance]) -> dict[str, dict[str, dict[str, float]]]:
    """request -> storage -> medians."""
    samples: dict[str, dict[str, list[dict[str, float]]]] = {}

    def sample(what: str, name: str, ask: Callable[[], Answer]) -> None:
        began = time.perf_counter()
        answer = ask()
        took = time.perf_counter() - began
        row: dict[str, float] = {"ms": took * 1000, **answer.storage}
        row["load-ms"] = row.pop("load-ns") / 1e6
        samples.setdefault(what, {}).setdefault(name, []).append(row)

    for _ in range(3):
        for name, instance in starts.items():
            instance.stop()
            instance.start()
            sites[name].browser.url = instance.url
            sample("front page, first", name, lambda name=name: sites[name].browser.page("/Plone"))
    for life in sites.values():
        life.login()
    number = 10_000
    names = list(sites)
    for request in REQUESTS:
        say(f"{request.name} ...")
        for turn in range(request.times + 1):
            first = turn % len(names)
            for name in names[first:] + names[:first]:
                life = sites[name]
                if request.cold:
                    life.browser.minimize()
                number += 1
                ask = lambda life=life, number=number, request=request: request.ask(life, number)  # noqa: E731
                if turn:
                    sample(request.name, name, ask)
                else:
                    ask()  # templates are compiled, connections opened
    return {what: {name: _medians(rows) for name, rows in by_name.items()} for what, by_name in samples.items()}


def _medians(rows: list[dict[str, float]]) -> dict[str, float]:
    return {key: statistics.median(row[key] for row in rows) for key in rows[0]}


def table(medians: Mapping[str, Mapping[str, Mapping[str, float]]]) -> list[str]:
    """One row a request, one group of columns a storage; the ratio is to the first storage's time."""
    names = list(next(iter(medians.values())))
    lines = [f"{'':22}" + "".join(f"{name + ': ms':>16} {'ratio':>6} {'loads':>6} {'in load':>8}" for name in names)]
    for what, by_name in medians.items():
        first = by_name[names[0]]["ms"]
        line = f"{what:22}"
        for name in names:
            m = by_name[name]
            line += f"{m['ms']:16.1f} {m['ms'] / first:6.2f} {m['loads']:6.0f} {m['load-ms']:8.2f}"
        lines.append(line)
    lines.append("")
    lines.append("stores and declared reads, medians, " + names[0])
    for what, by_name in medians.items():
        m = by_name[names[0]]
        if m["stores"]:
            lines.append(f"{what:22}{m['stores']:6.0f} stores {m['checks']:6.0f} checks")
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("storages", nargs="*", metavar="STORAGE", default=list(BACKENDS), help=", ".join(BACKENDS))
    parser.add_argument("--size", type=int, default=100, help="documents in a folder (100)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the medians")
    args = parser.parse_args()
    for name in args.storages:
        if name not in BACKENDS:
            parser.error(f"{name}: not one of {', '.join(BACKENDS)}")
    bin_dir = ensure(dht="dht" in args.storages)
    with contextlib.ExitStack() as running:
        instances: dict[str, Instance] = {}
        sites: dict[str, Life] = {}
        for name in args.storages:
            instance = Instance(bin_dir, BUILD / "times" / name, BACKENDS[name], counted=True)
            running.callback(instance.close)
            instance.make(fresh=True)
            instance.make_site()
            instance.start()
            life = Life(Browser(instance.url, USER, PASSWORD), args.size)
            began = time.monotonic()
            life.begin()
            life.write()
            say(f"{name}: written in {time.monotonic() - began:.0f} s")
            instances[name], sites[name] = instance, life
        medians = measure(sites, instances)
    if args.json:
        report: dict[str, Any] = {"size": args.size, "medians": medians}
        args.json.write_text(json.dumps(report, indent=1))
    print("\n".join(table(medians)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
