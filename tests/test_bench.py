"""The bench runs from end to end; its figures are for people, never asserted."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("bench", ["incremental", "restore", "startup", "durable"])
def test_a_quick_bench_ends_in_tables(bench, tmp_path):
    found = tmp_path / "found.json"
    line = [
        sys.executable,
        "-m",
        "bench.run",
        "--quick",
        "--size",
        "2",
        "--rounds",
        "1",
        "--only",
        bench,
        "--json",
        found,
        "--picture",
        tmp_path / "bench.png",
    ]
    env = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run(line, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "bench.png").exists() == (bench in ("restore", "durable", "waiting"))
    reports = json.loads(found.read_text())["reports"]
    assert reports
    for report in reports:
        assert any(row["kind"] == "ours" for row in report["rows"])
        assert report["title"] in " ".join(done.stdout.split())
    assert not list(tmp_path.glob("modelkeep-bench-*")), "the scratch is gone"


@pytest.mark.parametrize("bench", ["waiting", "overhead", "predict"])
@pytest.mark.torture
def test_a_quick_bench_of_frameworks_ends_in_tables(bench, tmp_path):
    test_a_quick_bench_ends_in_tables(bench, tmp_path)
