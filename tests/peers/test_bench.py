"""The benchmarks run, with all the peers of this machine, and leave nothing. What they measure is not judged here."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

_SOURCES = Path(__file__).parents[2]


@pytest.mark.needs("root", "overlay", "cgroup", "dockerd", "podman", "runc", "bwrap")
def test_the_tables_of_run_have_every_peer_and_nothing_is_left(tmp_path: Path) -> None:
    before = set(os.listdir("/var/tmp"))
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "bench",
            "--rounds",
            "1",
            "--only",
            "run",
            "--only",
            "engine",
            "--only",
            "imports",
            "--only",
            "inprocess",
        ],
        cwd=_SOURCES,
        env={**os.environ, "BENCH_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, (done.stdout, done.stderr)
    run, inprocess = (table for table in done.stdout.split("\n\n") if table.startswith(("run: ", "inprocess: ")))
    for peer in ("runc run", "bwrap", "podman run", "docker run"):
        assert re.search(rf"^  {peer} +\d+\.\d +\d+\.\d +\d+\.\d+ +goal \d\.\d\d: (met|missed)$", run, re.MULTILINE), run
    assert "  bwrap " in inprocess
    engine = [table for table in done.stdout.split("\n\n") if table.startswith("engine: ")]
    assert len(engine) == 3
    for table, peer in zip(engine, ("runc", "runc", "docker with runc"), strict=True):
        assert re.search(rf"^  {peer} +\d+\.\d +\d+\.\d +\d+\.\d+ +goal \d\.\d\d: (met|missed)$", table, re.MULTILINE), table
    assert re.search(r"^ +\d+ us  runtime\.", done.stdout, re.MULTILINE), done.stdout
    assert list(tmp_path.iterdir()) == []
    assert not [name for name in set(os.listdir("/var/tmp")) - before if name.startswith("box-bench-")]
