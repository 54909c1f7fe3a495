"""One measurement in a process of its own: `worker.py WORKLOAD STORAGE PARAMETERS`, the last two JSON objects.

Prints a JSON object a line: {"metric": name, "value": number}, or {"note": text}. What goes wrong ends it with a
traceback and status 1.
"""

from __future__ import annotations

import importlib
import json
import logging
import sys
from collections.abc import Iterator
from typing import Any

# The module and function behind each workload; a module is imported only where its workload runs, so that the memory
# of one is not counted in another.
WORKLOADS = {
    "fill": ("copies", "fill"),
    "import": ("copies", "import_all"),
    "export": ("copies", "export_all"),
    "count": ("copies", "count"),
    "warm": ("loads", "warm"),
    "cold": ("loads", "cold"),
    "build-catalog": ("catalog", "build"),
    "catalog": ("requests", "catalog_request"),
    "soil-catalog": ("packs", "soil"),
    "pack": ("packs", "pack"),
    "blobs": ("blobs", "workload"),
    "commit-sizes": ("commits", "sizes"),
    "commit-writers": ("commits", "writers"),
    "commit-syncs": ("commits", "syncs"),
    "commit-forever": ("commits", "forever"),
    "open": ("opening", "open_and_read"),
}

Results = Iterator[tuple[str, float]]
"""What a workload yields: metric and value. A metric that begins with "#" is a note, not a measurement."""


def main(workload: str, spec: str, parameters: str) -> int:
    logging.basicConfig(level=logging.ERROR)
    module, function = WORKLOADS[workload]
    run: Any = getattr(importlib.import_module(module), function)
    results: Results = run(json.loads(spec), **json.loads(parameters))
    for metric, value in results:
        if metric.startswith("#"):
            line: dict[str, Any] = {"note": metric[1:], "value": value}
        else:
            line = {"metric": metric, "value": value}
        print(json.dumps(line), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
