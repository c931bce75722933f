"""A build that is told to end: it clears up before it goes, and its exit status says by what."""

import os
import signal
import subprocess
import time
from functools import partial
from pathlib import Path

import pytest

from tests.command.installed import BOX

pytestmark = [pytest.mark.needs("root"), pytest.mark.needs("overlay")]

BOXFILE = "box: 1\nname: ended\nbase: {host: [sh, sleep]}\nsteps:\n  - run: echo ready; sleep 61238\n"


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_build_that_is_told_to_end_leaves_nothing(tmp_path: Path, number: signal.Signals, status: int) -> None:
    (tmp_path / "Boxfile").write_text(BOXFILE)
    command = [BOX, "build", "--progress", "plain", tmp_path]
    # Whoever runs the tests in the background may have had SIGINT ignored, which is inherited.
    heed = partial(signal.signal, number, signal.SIG_DFL)
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=heed) as build:
        assert build.stderr is not None
        assert any(line.rstrip().endswith("| ready") for line in build.stderr)
        start = time.monotonic()
        build.send_signal(number)
        rest = build.stderr.read()
    assert build.returncode == status
    assert time.monotonic() - start < 10
    assert "Traceback" not in rest
    root = os.environ["BOX_ROOT"]
    assert os.listdir(f"{root}/drafts") == os.listdir(f"{root}/containers") == []
