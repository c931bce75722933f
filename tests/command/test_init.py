"""`--init`, as it is typed."""

from pathlib import Path

import pytest

from tests.command.installed import Box

pytestmark = pytest.mark.needs("root", "overlay", "cgroup")


def test_in_the_background_it_is_the_default(box: Box, tiny: str) -> None:
    box("run", "-d", "--name", "with", tiny, "sleep", "60")
    box("run", "-d", "--name", "without", "--init=false", tiny, "sleep", "60")
    shown = {}
    for name in ("with", "without"):
        pid = box("inspect", "-f", "{{.State.Pid}}", name).stdout.strip()
        shown[name] = Path(f"/proc/{pid}/comm").read_text().strip()
        assert box("exec", name, "cat", "/proc/1/comm").stdout.strip() == shown[name]
    assert shown == {"with": "box-init", "without": "sleep"}
    assert box("inspect", "-f", "{{.HostConfig.Init}}", "with").stdout == "true\n"
    assert box("run", "--rm", "--init", tiny, "cat", "/proc/1/comm").stdout == "box-init\n"
    assert box("run", "--rm", tiny, "cat", "/proc/1/comm").stdout == "cat\n"
    assert "--init" in box("run", "--init=maybe", tiny, status=2).stderr
