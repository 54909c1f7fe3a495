"""The benchmark runs, on small sizes: what it writes is there and of the right kind. How fast is no test's business."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def bench(*args: str) -> subprocess.CompletedProcess[str]:
    go = shutil.which("go")
    assert go, "the benchmark is built by go"
    command = [go, "run", "-tags", "pebblegozstd", "./cmd/bench", *args]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)


def test_compare_measures_two_storages_and_writes_its_report(tmp_path: Path) -> None:
    done = bench(
        *("compare", "--quick", "--rounds", "2", "--storages", "filestorage,dht", "--only", "commit-sizes"),
        *("--python", sys.executable, "--out", str(tmp_path), "--markdown", str(tmp_path / "table.md")),
    )
    assert done.returncode == 0, done.stderr
    assert "commit-1-p50" in done.stdout
    report = json.loads((tmp_path / "compare.json").read_text())
    assert report["storages"] == ["dht", "filestorage"]
    rows = {m["name"]: m for m in report["metrics"]}
    assert set(rows) == {f"commit-{n}-{p}" for n in (1, 10, 100) for p in ("p50", "p99")}
    for row in rows.values():
        for storage in report["storages"]:
            assert len(row["rounds"][storage]) == 2
            assert row["median"][storage] > 0
        assert row["ratio"]["filestorage"] == pytest.approx(row["median"]["dht"] / row["median"]["filestorage"])
    assert {v["metric"] for v in report["targets"]} == {"commit-1-p50", "commit-10-p50", "commit-100-p50"}
    assert (tmp_path / "table.md").read_text().startswith("| ")
    assert (tmp_path / "compare.svg").stat().st_size > 0
    assert (tmp_path / "compare.png").read_bytes().startswith(b"\x89PNG")


def test_compare_measures_neo_or_says_how_to_have_it(tmp_path: Path) -> None:
    done = bench(
        *("compare", "--quick", "--rounds", "1", "--storages", "dht,neo", "--only", "commit-sizes"),
        *("--python", sys.executable, "--out", str(tmp_path)),
    )
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "compare.json").read_text())
    if importlib.util.find_spec("neo"):
        assert report["storages"] == ["dht", "neo"]
        assert all(m["median"]["neo"] > 0 for m in report["metrics"])
    else:
        assert report["storages"] == ["dht"]
        assert [s["what"] for s in report["skipped"]] == ["neo"]
        assert "pip install" in report["skipped"][0]["why"]


def test_core_measures_a_peer(tmp_path: Path) -> None:
    file = tmp_path / "core.json"
    done = bench("core", "--quick", "--json", str(file))
    assert done.returncode == 0, done.stderr
    rows = {row["name"]: row["value"] for row in json.loads(file.read_text())}
    assert rows["TryLoad, warm"] > 0
    assert rows["commits, 16 writers"] > 0


@pytest.mark.parametrize(
    "args", [("compare", "--rounds", "0"), ("compare", "--only", "x"), ("compare", "--chart", "a.gif"), ("x",)]
)
def test_a_mistaken_command_line_starts_nothing(args: tuple[str, ...]) -> None:
    done = bench(*args)
    assert done.returncode == 1  # go run's own, whatever the program's status was
    assert "see bench help" in done.stderr
    assert "exit status 2" in done.stderr
