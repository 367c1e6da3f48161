"""The benchmark of the broker runs. How fast it is, is nothing for a test."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_the_benchmark_prints_a_row_for_every_way_to_enqueue(tmp_path: Path) -> None:
    found = tmp_path / "found.json"
    argv = [sys.executable, "-m", "benchmarks.broker", "--quick", "--only", "enqueue"]
    done = subprocess.run(
        [*argv, "--servers", "nats", "--json", str(found)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
    )

    assert done.returncode == 0, done.stderr
    for threads in ("1 thread", "8 threads"):
        for broker in ("**NatsBroker, sync**", "**NatsBroker, window**", "*StubBroker*"):
            assert f"| {threads} | {broker} | " in done.stdout
    assert "### Caveats" in done.stdout
    rows = json.loads(found.read_text())["rows"]
    assert all(row["values"] and min(row["values"]) > 0 for row in rows)
