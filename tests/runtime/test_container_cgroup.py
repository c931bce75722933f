"""Where a container's control groups are and what they limit, on this machine's kernel: v1, hybrid or (in tests/vm) v2 alone."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runtime.cgroup_paths import Hierarchies, hierarchies
from runtime.container_cgroup import ContainerCgroup
from store.errors import RunError, SetupFailed
from tests.containers import until
from tests.runtime.groups import ENGINES, Family, disk, end, engine_resources, family, setting

pytestmark = pytest.mark.needs("root", "cgroup")

MIB = 1 << 20
V2 = hierarchies().v2
SLEEP = ("sleep", "1000")


@pytest.fixture
def home() -> Iterator[Family]:
    with family() as one:
        yield one


# --- where ------------------------------------------------------------------------------------------------------------------


def test_there_is_a_group_in_every_hierarchy_at_exactly_the_path_and_the_process_is_in_all(home: Family) -> None:
    group = home.group()
    pid = home.bear(group, *SLEEP)
    until(lambda: b"sleep" in Path(f"/proc/{pid}/cmdline").read_bytes())
    mounted = hierarchies()
    assert group.paths == mounted.paths(f"{home.top}/one")
    lines = [line.split(":", 2) for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines()]
    places = {name or "unified": path for _, names, path in lines for name in names.split(",")}
    assert {name: places[name] for name in group.paths} == dict.fromkeys(group.paths, f"{home.top}/one")
    assert group.processes() == [pid]
    end(home, group)


def test_a_group_is_found_again_by_its_paths_alone(home: Family) -> None:
    group = home.group()
    pid = home.bear(group, *SLEEP)
    again = ContainerCgroup.reopen(json.loads(json.dumps(group.paths)))
    until(lambda: again.processes() == [pid])
    assert again.v2 == group.v2
    end(home, again)
    assert not any(os.path.exists(path) for path in group.paths.values())


def test_an_empty_group_is_taken_over_and_one_that_somebody_lives_in_is_refused(home: Family) -> None:
    group = home.group({"pids": {"limit": 7}})
    again = home.group({"pids": {"limit": 8}})
    assert setting(again, "pids", "pids.max") == "8"
    pid = home.bear(group, *SLEEP)
    until(lambda: group.processes() == [pid])
    with pytest.raises(RunError, match=r"linux\.cgroupsPath: 1 processes run in .* already"):
        home.group({"pids": {"limit": 9}})
    assert group.processes() == [pid]
    assert setting(group, "pids", "pids.max") == "8"
    end(home, group)


def test_what_starts_in_a_frozen_group_would_wait_for_ever_so_it_is_refused(home: Family) -> None:
    group = home.group()
    group.freeze()
    with pytest.raises(RunError, match=r"linux\.cgroupsPath: .* is frozen"):
        home.group()
    group.delete()


def test_nothing_is_left_of_groups_whose_limits_cannot_be(home: Family) -> None:
    for wrong in ({"memory": {"limit": "x"}}, {"devices": [{"type": "q"}]}, {"cpu": {"cpus": "4095"}}):
        with pytest.raises(RunError):
            home.group(wrong)
    assert not any(os.path.exists(path) for path in hierarchies().paths(f"{home.top}/one").values())


def test_without_control_groups_there_are_none(home: Family) -> None:
    none = ContainerCgroup.create(f"{home.top}/one", "one", {"memory": {"limit": 4096}}, "disabled")
    assert none.paths == {} and none.processes() == [] and none.open_to_join() == [] and none.open_for_clone() is None
    none.kill()
    none.delete()
    with pytest.raises(RunError, match="cannot pause the container: it has no group with a freezer"):
        none.freeze()


def test_who_is_not_entitled_learns_what_is_off(home: Family) -> None:
    """As another user, in a process of its own."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setresuid(65534, 65534, 65534)
            limits = {"memory": {"limit": 4096}, "pids": {"limit": 3}}
            group = ContainerCgroup.create(f"{home.top}/one", "one", limits, rootless=True)
            told = {"paths": group.paths, "off": group.off}
            try:
                ContainerCgroup.create(f"{home.top}/one", "one", limits)
            except SetupFailed as error:
                told["hint"] = error.hint
            os.write(write, json.dumps(told).encode())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        told = json.loads(pipe.read())
    os.waitpid(pid, 0)
    assert told["paths"] == {}
    assert told["off"] == ["linux.cgroupsPath", "linux.resources.memory.limit", "linux.resources.pids.limit"]
    assert "root" in told["hint"]


# --- limits -----------------------------------------------------------------------------------------------------------------

LIMITS: list[tuple[dict[str, Any], tuple[str, str, str], tuple[str, str, str]]] = [
    ({"pids": {"limit": 50}}, ("pids", "pids.max", "50"), ("pids", "pids.max", "50")),
    ({"pids": {"limit": -1}}, ("pids", "pids.max", "max"), ("pids", "pids.max", "max")),
    (
        {"memory": {"limit": 64 * MIB, "swap": 128 * MIB}},
        ("memory", "memory.memsw.limit_in_bytes", str(128 * MIB)),
        ("memory", "memory.swap.max", str(64 * MIB)),
    ),
    (
        {"memory": {"limit": 64 * MIB, "swap": -1}},
        ("memory", "memory.limit_in_bytes", str(64 * MIB)),
        ("memory", "memory.max", str(64 * MIB)),
    ),
    (
        {"memory": {"reservation": 32 * MIB}},
        ("memory", "memory.soft_limit_in_bytes", str(32 * MIB)),
        ("memory", "memory.low", str(32 * MIB)),
    ),
    ({"cpu": {"shares": 512}}, ("cpu", "cpu.shares", "512"), ("cpu", "cpu.weight", "59")),
    ({"cpu": {"quota": 20000, "period": 50000}}, ("cpu", "cpu.cfs_quota_us", "20000"), ("cpu", "cpu.max", "20000 50000")),
    (
        {"cpu": {"quota": 20000, "period": 50000, "burst": 10000}},
        ("cpu", "cpu.cfs_burst_us", "10000"),
        ("cpu", "cpu.max.burst", "10000"),
    ),
    ({"cpu": {"idle": 1, "shares": 100}}, ("cpu", "cpu.idle", "1"), ("cpu", "cpu.idle", "1")),
    ({"cpu": {"cpus": "0", "mems": "0"}}, ("cpuset", "cpuset.cpus", "0"), ("cpuset", "cpuset.cpus", "0")),
]


@pytest.mark.parametrize(("resources", "on_v1", "on_v2"), LIMITS)
def test_a_limit_holds_in_the_kernel(
    home: Family, resources: Any, on_v1: tuple[str, str, str], on_v2: tuple[str, str, str]
) -> None:
    group = home.group(resources)
    controller, file, value = on_v2 if V2 else on_v1
    assert setting(group, controller, file) == value
    group.delete()


def test_block_devices_are_throttled(home: Family) -> None:
    device = disk()
    major, minor = map(int, device.split(":"))
    throttle = {"blockIO": {"throttleReadBpsDevice": [{"major": major, "minor": minor, "rate": 1 << 20}]}}
    group = home.group(throttle)
    if V2:
        assert f"{device} rbps=1048576 wbps=max riops=max wiops=max" in setting(group, "io", "io.max").splitlines()
    else:
        assert f"{device} 1048576" in setting(group, "blkio", "blkio.throttle.read_bps_device").splitlines()
    throttle["blockIO"]["throttleReadBpsDevice"][0]["rate"] = 0
    group.update(throttle)
    assert device not in setting(group, "io", "io.max") + setting(group, "blkio", "blkio.throttle.read_bps_device")
    with pytest.raises(RunError, match=r"throttleReadBpsDevice\[0\]\.rate: no such device"):
        group.update({"blockIO": {"throttleReadBpsDevice": [{"major": 240, "minor": 77, "rate": 1}]}})
    group.delete()


@pytest.mark.parametrize("name", ENGINES)
def test_what_engines_send_is_taken(home: Family, name: str) -> None:
    group = home.group(engine_resources(name))
    assert home.answer(group, "out('alive')") == "alive"
    group.delete()


@pytest.mark.parametrize(
    ("controller", "wanted"),
    [
        ("hugetlb", {"hugepageLimits": [{"pageSize": "2MB", "limit": 0}]}),
        ("rdma", {"rdma": {"mlx5_0": {"hcaHandles": 1}}}),
        ("net_cls", {"network": {"classID": 7}}),
        ("nosuch", {"unified": {"nosuch.max": "1"}}),
    ],
)
def test_a_controller_that_is_missing_is_an_error_only_for_who_wants_it(home: Family, controller: str, wanted: Any) -> None:
    ((field, value),) = wanted.items()
    there = controller in (Path("/sys/fs/cgroup/cgroup.controllers").read_text().split() if V2 else hierarchies().controllers)
    if there and field == "hugepageLimits":
        home.group(wanted).delete()
    else:
        with pytest.raises(RunError, match=rf"linux\.resources\.{field}"):
            home.group(wanted)
    home.group({field: type(value)()}).delete()


def test_too_many_processes_are_refused_and_counted(home: Family) -> None:
    group = home.group({"pids": {"limit": 3}})
    forks = "for _ in range(5):\n try:\n  if not os.fork(): time.sleep(1000)\n except OSError: pass\n"
    pid = home.python(group, f"import os, time\n{forks}time.sleep(1000)")
    until(lambda: group.pids_refused() >= 3)
    assert group.oom_kills() == 0
    end(home, group)
    assert pid not in home.children


def test_too_much_memory_is_the_end_and_counted(home: Family) -> None:
    group = home.group({"memory": {"limit": 48 * MIB, "swap": 48 * MIB}})
    pid = home.python(group, "x = bytearray(256 << 20)\nx[::4096] = b'x' * len(x[::4096])")
    assert home.wait(pid) == 137
    assert group.oom_kills() >= 1
    group.delete()


# --- update -----------------------------------------------------------------------------------------------------------------


def test_memory_and_swap_grow_and_shrink_in_whichever_order_the_kernel_takes(home: Family) -> None:
    group = home.group({"memory": {"limit": 64 * MIB, "swap": 128 * MIB}})
    sizes = [(256, 512), (32, 48), (512, 512), (40, 400), (300, 301), (-1, -1), (64, 64)]
    for limit, both in sizes:
        limit, both = (value * MIB if value > 0 else value for value in (limit, both))
        group.update({"memory": {"limit": limit, "swap": both}})
        unlimited = "max" if V2 else "9223372036854771712"
        assert setting(group, "memory", "memory.max" if V2 else "memory.limit_in_bytes") == (
            str(limit) if limit > 0 else unlimited
        )
        file = "memory.swap.max" if V2 else "memory.memsw.limit_in_bytes"
        assert setting(group, "memory", file) == (unlimited if both < 0 else str(both - limit if V2 else both))
    group.update({"memory": {"limit": -1}})
    assert setting(group, "memory", "memory.max" if V2 else "memory.limit_in_bytes") == unlimited
    group.delete()


def test_quotas_and_periods_change_below_a_parent_that_allows_no_more(home: Family) -> None:
    """The parent's share is a half, and so is each of the child's: any step in between that is more would be refused."""
    half = {"cpu": {"quota": 50000, "period": 100000}}
    parent = home.group(half)
    child = home.group(half, "one/child")
    for period in (10000, 1000000, 20000, 200000):
        child.update({"cpu": {"quota": period // 2, "period": period}})
        if V2:
            assert setting(child, "cpu", "cpu.max") == f"{period // 2} {period}"
        else:
            assert setting(child, "cpu", "cpu.cfs_quota_us") == str(period // 2)
            assert setting(child, "cpu", "cpu.cfs_period_us") == str(period)
    if not V2:  # where a child's share is more than its parent's
        with pytest.raises(RunError, match=r"linux\.resources\.cpu\.quota"):
            child.update({"cpu": {"quota": 199999}})
    child.delete()
    parent.delete()


def test_an_update_of_one_thing_leaves_the_others(home: Family) -> None:
    group = home.group({"pids": {"limit": 40}, "cpu": {"quota": 20000, "period": 50000}})
    group.update({"pids": {"limit": 41}, "cpu": {"quota": 0, "shares": 0}, "memory": {"limit": 0}, "blockIO": {"weight": 0}})
    assert setting(group, "pids", "pids.max") == "41"
    assert setting(group, "cpu", "cpu.max" if V2 else "cpu.cfs_quota_us").split()[0] == "20000"
    group.update({"cpu": {"period": 100000}})
    assert (setting(group, "cpu", "cpu.max") if V2 else setting(group, "cpu", "cpu.cfs_period_us")).split()[-1] == "100000"
    group.delete()


def test_a_memory_limit_below_what_is_in_use_says_so(home: Family) -> None:
    group = home.group({"memory": {"limit": 256 * MIB, "swap": 256 * MIB}})
    pid = home.python(group, "import time\nx = bytearray(64 << 20)\nx[::4096] = b'x' * len(x[::4096])\ntime.sleep(1000)")
    usage = "memory.current" if V2 else "memory.usage_in_bytes"
    until(lambda: int(setting(group, "memory", usage)) > 64 * MIB)
    asked = {"limit": 16 * MIB, "swap": 16 * MIB, "checkBeforeUpdate": True}
    with pytest.raises(RunError, match=r"linux\.resources\.memory\.limit: 16777216 bytes, and \d+ are in use"):
        group.update({"memory": asked})
    if not V2:  # v2 would end the process
        with pytest.raises(RunError, match=r"linux\.resources\.memory\.limit: more than that is in use"):
            group.update({"memory": asked | {"checkBeforeUpdate": False}})
    assert group.processes() == [pid]
    end(home, group)


def test_hierarchies_that_are_not_there_are_done_without(home: Family) -> None:
    """As on a machine that mounted a few controllers, or has no v2 tree beside them."""
    mounted = hierarchies()
    if mounted.v2:
        pytest.skip("there is one tree")
    few = Hierarchies({name: mounted.controllers[name] for name in ("pids", "devices")}, "", False)
    group = ContainerCgroup.create(f"{home.top}/one", "one", {"pids": {"limit": 4}, "devices": []}, mounted=few)
    assert sorted(group.paths) == ["devices", "pids"]
    pid = home.bear(group, *SLEEP)
    until(lambda: group.processes() == [pid])
    end(home, group)
    with pytest.raises(RunError, match=r"linux\.resources\.memory\.limit: no memory controller here"):
        ContainerCgroup.create(f"{home.top}/one", "one", {"memory": {"limit": 4096}}, mounted=few)
    with pytest.raises(RunError, match=r"linux\.resources\.devices: no devices controller here"):
        none = Hierarchies({"pids": mounted.controllers["pids"]}, "", False)
        ContainerCgroup.create(f"{home.top}/one", "one", {}, mounted=none)
