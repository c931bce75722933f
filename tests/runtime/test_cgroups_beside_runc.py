"""The control groups of a container are those that runc makes of the same config, file by file, and so are the figures."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runtime.cgroup_paths import hierarchies
from runtime.container_cgroup import ContainerCgroup
from tests.containers import until
from tests.runtime.groups import ENGINES, Family, engine_resources, family

pytestmark = pytest.mark.needs("root", "cgroup")

MIB = 1 << 20
V2 = hierarchies().v2
SLEEP = ("sleep", "1000")


@pytest.fixture
def home() -> Iterator[Family]:
    with family() as one:
        yield one


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """What runc runs: one static program and its libraries are all of the root."""
    (tmp_path / "rootfs" / "bin").mkdir(parents=True)
    shutil.copy("/bin/busybox", tmp_path / "rootfs" / "bin" / "sleep")
    subprocess.run(["runc", "spec"], cwd=tmp_path, check=True)
    return tmp_path


def runc(bundle: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["runc", "--root", bundle / "state", *arguments], capture_output=True, text=True, check=False, cwd=bundle
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def created_by_runc(bundle: Path, path: str, resources: object) -> None:
    config = json.loads((bundle / "config.json").read_text())
    config["process"] |= {"terminal": False, "args": ["/bin/sleep", "1000"], "rlimits": []}
    config["linux"] |= {"cgroupsPath": path, "resources": resources}
    (bundle / "config.json").write_text(json.dumps(config))
    with open(os.devnull) as null:
        done = subprocess.run(
            ["runc", "--root", bundle / "state", "create", "--no-pivot", "theirs"],
            stdin=null,
            stdout=null,
            stderr=null,
            cwd=bundle,
            check=False,
        )
    assert done.returncode == 0


# What is used, not what was set.
USAGE = (
    "usage", "stat", "events", "procs", "tasks", "threads", "failcnt", "pressure", "current", "peak", "io_serv", "slab", "numa",
)  # fmt: skip


def settings_of(paths: dict[str, str]) -> dict[str, str]:
    """Every control file that says what was set, not what is used."""
    found = {}
    for controller, directory in paths.items():
        for name in os.listdir(directory):
            path = Path(directory) / name
            if path.is_file() and not any(part in name for part in USAGE) and path.stat().st_mode & 0o400:
                text = path.read_text()
                found[f"{controller}/{name}"] = "\n".join(sorted(text.splitlines())) if "devices" in name else text
    return found


@pytest.mark.needs("runc", "busybox")
@pytest.mark.parametrize("name", [name for name in ENGINES if not V2 or "limits" in name])
def test_the_groups_are_as_runc_makes_them(home: Family, bundle: Path, name: str) -> None:
    """All control files of all controllers, after what docker and podman really send."""
    resources = engine_resources(name)
    created_by_runc(bundle, f"{home.top}/theirs", resources)
    try:
        theirs = settings_of(hierarchies().paths(f"{home.top}/theirs"))
        group = home.group(resources, "ours")
        ours = settings_of(group.paths)
        group.delete()
    finally:
        runc(bundle, "delete", "--force", "theirs")
    for both in (ours, theirs):
        if V2:
            for name in ("cpu.weight", "cpu.weight.nice"):  # runc makes a weight of shares in a new way since 1.3.2
                both.pop(f"unified/{name}")
            continue
        # runc adds /dev/net/tun; box adds /dev/console, which engines name themselves.
        lines = both["devices/devices.list"].splitlines()
        both["devices/devices.list"] = "\n".join(line for line in lines if line not in ("c 10:200 rwm", "c 5:1 rwm"))
    assert ours == theirs


@pytest.mark.needs("runc", "busybox")
def test_the_figures_have_runc_s_shape_and_values(home: Family, bundle: Path) -> None:
    created_by_runc(bundle, f"{home.top}/theirs", {"memory": {"limit": 64 * MIB}, "pids": {"limit": 20}})
    try:
        runc(bundle, "start", "theirs")
        until(lambda: b"sleep" in Path(f"/proc/{json.loads(runc(bundle, 'state', 'theirs'))['pid']}/cmdline").read_bytes())
        theirs = json.loads(runc(bundle, "events", "--stats", "theirs"))["data"]
        ours: Any = ContainerCgroup.reopen(hierarchies().paths(f"{home.top}/theirs")).stats()
    finally:
        runc(bundle, "delete", "--force", "theirs")
    assert shape(json.loads(json.dumps(ours)), theirs if V2 else None) == shape(theirs)
    assert ours["pids"] == theirs["pids"]
    assert ours["memory"]["usage"]["limit"] == theirs["memory"]["usage"]["limit"]
    assert ours["cpuset"] | theirs["cpuset"] == ours["cpuset"]
    if not V2:
        assert ours["memory"]["raw"]["hierarchical_memory_limit"] == theirs["memory"]["raw"]["hierarchical_memory_limit"]


def shape(value: Any, known: Any = None) -> Any:
    """The keys, down to the types of what they are for; with `known`, those of it alone: newer ones of runc say more."""
    if isinstance(value, dict):
        return {
            key: shape(each, known[key] if known is not None else None)
            for key, each in value.items()
            if key not in ("percpu_kernel", "percpu_user") and (known is None or key in known)
        }
    return type(value).__name__
