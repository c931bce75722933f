"""Health checks as they are typed, and as an image brings them."""

import json
from pathlib import Path

import pytest

from tests.command.installed import Box
from tests.containers import until

pytestmark = pytest.mark.needs("root", "overlay", "cgroup")

BOXFILE = """\
box: 1
name: checked
base: {host: [sh, sleep, "true"]}
config: {cmd: [sleep, "1000"], healthcheck: {command: ["true"], interval: 1s}}
"""


def test_they_are_shown_by_ps_and_inspect(box: Box, tiny: str) -> None:
    box(
        "run",
        "-d",
        "--name",
        "h",
        "--health-cmd",
        "echo well",
        "--health-interval",
        "100ms",
        "--health-retries",
        "2",
        tiny,
        "sleep",
        "60",
    )
    until(lambda: "(healthy)" in box("ps").stdout)
    shown = json.loads(box("inspect", "-f", "{{json .State.Health}}", "h").stdout)
    assert (shown["Status"], shown["FailingStreak"]) == ("healthy", 0)
    assert (shown["Log"][-1]["ExitCode"], shown["Log"][-1]["Output"]) == (0, "well\n")
    box("run", "-d", "--name", "slow", "--health-cmd", "true", tiny, "sleep", "60")
    assert "(health: starting)" in box("ps").stdout


def test_those_of_an_image_are_made_unless_they_are_not_wanted(box: Box, tmp_path: Path) -> None:
    (tmp_path / "Boxfile").write_text(BOXFILE)
    box("build", "-q", tmp_path)
    box("run", "-d", "--name", "with", "checked")
    box("run", "-d", "--name", "without", "--no-healthcheck", "checked")
    box("run", "-d", "--name", "changed", "--health-interval", "100ms", "--health-on-failure", "stop", "checked")
    assert box("inspect", "-f", "{{json .State.Health}}", "without", status=None).stdout.strip() in ("null", "")
    until(lambda: box("inspect", "-f", "{{.State.Health.Status}}", "changed").stdout == "healthy\n")
    until(lambda: box("inspect", "-f", "{{.State.Health.Status}}", "with").stdout == "healthy\n")
    box("rm", "-f", "with", "without", "changed")


def test_what_does_not_fit_is_refused(box: Box, tiny: str) -> None:
    assert "no health check" in box("run", "-d", "--health-retries", "2", tiny, status=125).stderr
    assert "does not go with" in box("run", "-d", "--no-healthcheck", "--health-cmd", "true", tiny, status=125).stderr
    assert "is no duration" in box("run", "-d", "--health-interval", "soon", tiny, status=125).stderr
    assert "none of none" in box("run", "-d", "--health-on-failure", "panic", tiny, status=125).stderr
