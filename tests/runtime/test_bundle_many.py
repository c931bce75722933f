"""Many containers of box-runtime, one after the other and at once: nothing of them stays. By hand, with more of them:
`BOX_MANY=2000 pytest tests/runtime/test_bundle_many.py`."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.runtime.bundles import BOX_RUNTIME, Bundles, groups, until

pytestmark = [pytest.mark.needs("root", "mount", "cgroup")]

MANY = int(os.environ.get("BOX_MANY", "20"))


def traces(bundles: Bundles) -> dict[str, object]:
    """What a container could leave, counted or named."""
    mounts = [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(bundles.top) in line]
    return {
        "descriptors": len(os.listdir("/proc/self/fd")),
        "mounts": mounts,
        "groups": groups(),
        "files": sorted(name for name in os.listdir(bundles.root) if not name.startswith(".")),
        "namespaces": sorted(os.readlink(f"/proc/self/ns/{name}") for name in os.listdir("/proc/self/ns")),
    }


def test_create_start_kill_delete_leave_nothing_however_often(bundles: Bundles) -> None:
    bundle = bundles.make("sleep", "1000")
    bundle.write()
    os.makedirs(bundles.root, exist_ok=True)
    before = traces(bundles)
    for number in range(MANY):
        pid = bundle.start(f"c{number}")
        bundles.box("kill", f"c{number}", "KILL")
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -9
        bundles.box("delete", f"c{number}")
        assert not os.path.exists(f"/proc/{pid}")
    assert traces(bundles) == before


def test_many_at_once_start_and_go(bundles: Bundles) -> None:
    count = max(MANY // 2, 10)
    os.makedirs(bundles.root, exist_ok=True)
    before = traces(bundles)
    folders = [bundles.make("sleep", "1000").write() for _ in range(count)]
    running = [
        subprocess.Popen(
            [BOX_RUNTIME, "--root", bundles.root, "run", "--detach", "--bundle", folder, f"c{number}"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for number, folder in enumerate(folders)
    ]
    assert [each.wait(60) for each in running] == [0] * count
    assert {bundles.status(f"c{number}") for number in range(count)} == {"running"}
    pids = [bundles.state(f"c{number}")["pid"] for number in range(count)]
    assert len(set(pids)) == count
    for number, pid in enumerate(pids):
        bundles.box("delete", "--force", f"c{number}")
        until(lambda pid=pid: os.waitpid(pid, os.WNOHANG)[0])
    assert traces(bundles) == before
