"""A container's control groups on this machine's kernel, be it v1, hybrid or (in tests/vm) v2 alone."""

import json
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runtime.cgroup_files import pids_in, walk
from runtime.cgroup_paths import Hierarchies, hierarchies
from runtime.container_cgroup import ContainerCgroup
from store.errors import RunError, SetupFailed
from tests.containers import until
from tests.runtime.groups import Family, family

pytestmark = pytest.mark.needs("root", "cgroup")

ENGINES = json.loads((Path(__file__).parent / "engine_resources.json").read_text())
MIB = 1 << 20
V2 = hierarchies().v2
SLEEP = ("sleep", "1000")


@pytest.fixture
def home() -> Iterator[Family]:
    with family() as one:
        yield one


def setting(group: ContainerCgroup, controller: str, file: str) -> str:
    return group.read(controller, file).strip()


def end(home: Family, group: ContainerCgroup) -> None:
    """Kill and remove, as `delete --force` does; what ends here is this process' to wait for."""
    reaper = threading.Thread(target=lambda: [home.wait(pid) for pid in list(home.children)])
    reaper.start()
    group.kill()
    reaper.join()
    group.delete()


def disk() -> str:
    """MAJOR:MINOR of a block device that there is."""
    found = sorted(Path("/sys/block").glob("*/dev"), key=lambda path: path.parent.name.startswith("loop"))
    if not found:
        pytest.skip("no block device")
    return found[0].read_text().strip()


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
    resources = json.loads(json.dumps(ENGINES[name]["resources"]))
    major, minor = map(int, disk().split(":"))
    for value in resources.get("blockIO", {}).values():
        for each in value if isinstance(value, list) else []:
            each.update(major=major, minor=minor)
    if V2:
        for key in ("swappiness", "disableOOMKiller"):  # the engines themselves leave them away there
            resources.get("memory", {}).pop(key, None)
    group = home.group(resources)
    assert home.answer(group, "out('alive')") == "alive"
    group.delete()


@pytest.mark.parametrize("field", ["hugepageLimits", "rdma", "network", "unified"])
def test_a_controller_that_is_missing_is_an_error_only_for_who_wants_it(home: Family, field: str) -> None:
    wanted: Any = {
        "hugepageLimits": [{"pageSize": "2MB", "limit": 0}],
        "rdma": {"mlx5_0": {"hcaHandles": 1}},
        "network": {"classID": 7},
        "unified": {"nosuch.max": "1"},
    }[field]
    controller = {"hugepageLimits": "hugetlb", "rdma": "rdma", "network": "net_cls", "unified": "nosuch"}[field]
    there = controller in (Path("/sys/fs/cgroup/cgroup.controllers").read_text().split() if V2 else hierarchies().controllers)
    if there and field != "network":
        pytest.skip(f"this machine has the {controller} controller")
    with pytest.raises(RunError, match=rf"linux\.resources\.{field}"):
        home.group({field: wanted})
    if not V2 and field == "unified":
        return
    home.group({field: type(wanted)()}).delete()


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


# --- pausing ----------------------------------------------------------------------------------------------------------------

COUNT = "import sys, time\nfile = open(sys.argv[1], 'w')\nwhile True:\n file.write('x')\n file.flush()\n time.sleep(0.001)\n"


def test_what_is_frozen_stands_still_until_it_is_thawed(home: Family, tmp_path: Path) -> None:
    group = home.group()
    counted = tmp_path / "counted"
    counted.touch()
    home.python(group, COUNT, str(counted))
    until(lambda: counted.stat().st_size > 3)
    group.freeze()
    assert group.frozen()
    size = counted.stat().st_size
    time.sleep(0.1)
    assert counted.stat().st_size == size
    group.freeze()  # once more is no error
    group.thaw()
    assert not group.frozen()
    until(lambda: counted.stat().st_size > size)
    end(home, group)


def test_what_forks_all_the_time_is_frozen_too(home: Family) -> None:
    group = home.group({"pids": {"limit": 30}})
    home.python(group, "import os\nwhile True:\n try:\n  if not os.fork(): os._exit(0)\n  os.wait()\n except OSError: pass\n")
    home.bear(group, "sh", "-c", "while :; do (:) & wait; done")
    time.sleep(0.05)
    for _ in range(20):
        group.freeze()
        group.thaw()
    end(home, group)


def test_a_group_below_a_frozen_one_cannot_be_thawed_and_says_so(home: Family) -> None:
    parent = home.group()
    child = home.group(name="one/child")
    parent.freeze()
    until(child.frozen)
    with pytest.raises(SetupFailed, match="a group above it is frozen"):
        child.thaw(0.05)
    parent.thaw()
    assert not child.frozen()
    child.delete()
    parent.delete()


# --- the end ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("frozen", [False, True])
def test_everything_is_killed_frozen_or_not_and_in_groups_of_its_own_making(home: Family, frozen: bool) -> None:
    group = home.group()
    inner = ContainerCgroup.create(f"{home.top}/one/inner", "inner", {})
    home.bear(inner, *SLEEP)
    if not V2:  # where processes are in leaves only, one beside the inner group could not be
        home.bear(group, *SLEEP)
    until(lambda: len(group.processes()) == len(home.children))
    if frozen:
        group.freeze()
    end(home, group)
    assert not any(os.path.exists(path) for path in group.paths.values())


def test_what_forks_faster_than_it_is_listed_is_killed(home: Family) -> None:
    group = home.group({"pids": {"limit": 200}})
    bomb = (
        "import os\nfor _ in range(6):\n try: os.fork()\n except OSError: pass\n"
        "while True:\n try:\n  if os.fork(): os._exit(0)\n except OSError: pass\n"
    )
    subreaper = 36  # what is orphaned comes to this process
    from store.syscalls import libc

    libc("prctl", subreaper, 1, 0, 0, 0)
    try:
        home.python(group, bomb)
        until(lambda: len(group.processes()) > 20)
        done = threading.Event()

        def reap() -> None:
            while not done.is_set():
                try:
                    os.waitpid(-1, os.WNOHANG)
                except ChildProcessError:
                    pass
                time.sleep(0.0005)

        reaper = threading.Thread(target=reap)
        reaper.start()
        group.kill()
        done.set()
        reaper.join()
    finally:
        libc("prctl", subreaper, 0, 0, 0, 0)
    home.children.clear()
    assert group.processes() == []
    group.delete()


def test_what_does_not_end_is_named_when_patience_is_over(home: Family) -> None:
    """A process that nobody waits for stays in its group as long as it is a zombie on v2, and not on v1: so of a live one."""
    group = home.group()
    outside = ContainerCgroup.reopen(group.paths)
    pid = home.bear(group, *SLEEP)
    until(lambda: outside.processes() == [pid])

    class Deaf(ContainerCgroup):
        def _kill_standing(self, pids: list[int]) -> None:
            time.sleep(0.01)

    deaf = Deaf({name: path for name, path in group.paths.items() if name != "unified"} or {"none": group.paths["unified"]})
    with pytest.raises(SetupFailed, match="1 of them do not end"):
        deaf.kill(0.05)
    end(home, group)


def test_groups_nested_beyond_the_longest_path_are_found_and_removed(home: Family) -> None:
    group = home.group()
    controller = "unified" if V2 else "pids"
    here = os.open(group.paths[controller], os.O_RDONLY)
    name = "n" * 200
    for _ in range(30):
        os.mkdir(name, dir_fd=here)
        below = os.open(name, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    pid = home.bear(ContainerCgroup.reopen({}), *SLEEP)
    procs = os.open("cgroup.procs", os.O_WRONLY, dir_fd=here)
    os.write(procs, str(pid).encode())
    os.close(procs)
    os.close(here)
    assert group.processes() == [pid]
    with pytest.raises(SetupFailed, match="remove cgroup"):
        group.delete(0.02)
    end(home, group)
    assert not os.path.exists(group.paths[controller])


def test_many_groups_side_by_side_are_removed(home: Family) -> None:
    group = home.group()
    top = group.paths["unified" if V2 else "pids"]
    for number in range(100):
        os.makedirs(f"{top}/{number}/below")
    seen: list[int] = []
    walk(top, lambda fd: seen.append(fd))
    assert len(seen) == 201
    group.delete()
    assert not os.path.exists(top)


def test_what_is_gone_already_is_no_error(home: Family) -> None:
    group = home.group()
    group.delete()
    group.delete()
    group.kill()
    assert group.processes() == [] and pids_in("/sys/fs/cgroup/nothing") == []
    assert group.stats()["pids"] == {}


def test_a_signal_goes_to_all(home: Family) -> None:
    group = home.group()
    pids = [home.bear(group, *SLEEP) for _ in range(3)]
    until(lambda: sorted(group.processes()) == sorted(pids))
    group.signal_all(signal.SIGTERM)
    assert [home.wait(pid) for pid in pids] == [143] * 3
    group.delete()


# --- sub-groups -------------------------------------------------------------------------------------------------------------


def test_a_program_can_be_started_in_a_sub_group_that_the_container_has(home: Family) -> None:
    group = home.group()
    inner = ContainerCgroup.create(f"{home.top}/one/inner/leaf", "leaf", {})
    chosen = group.sub_group(["inner/leaf"])
    pid = home.bear(chosen, *SLEEP)
    until(lambda: inner.processes() == [pid])
    assert f"{home.top}/one/inner/leaf" in Path(f"/proc/{pid}/cgroup").read_text()
    for wrong, words in (
        ("../..", "leads out"),
        ("nothing", "has no sub-group"),
        ("nosuch:inner", "no group of a controller 'nosuch'"),
    ):
        with pytest.raises(RunError, match=words):
            group.sub_group([wrong])
    if not V2:
        only = group.sub_group(["pids,memory:inner"])
        moved = {name for name in only.paths if only.paths[name] != group.paths[name]}
        assert moved == {"pids", "memory"}
    end(home, group)


@pytest.mark.skipif(not V2, reason="only where processes are in leaves")
def test_a_joining_process_goes_to_the_leaf_that_the_container_moved_into(home: Family) -> None:
    group = home.group()
    leaf = f"{group.paths['unified']}/init"
    os.mkdir(leaf)
    init = home.bear(group, *SLEEP)
    Path(f"{leaf}/cgroup.procs").write_text(str(init))
    Path(f"{group.paths['unified']}/cgroup.subtree_control").write_text("+pids")
    fd = group.open_for_clone(init)
    assert fd is not None
    assert os.readlink(f"/proc/self/fd/{fd}") == leaf
    os.close(fd)
    end(home, group)


# --- figures ----------------------------------------------------------------------------------------------------------------


def test_the_figures_are_those_of_the_group(home: Family) -> None:
    group = home.group({"memory": {"limit": 64 * MIB, "swap": 128 * MIB}, "pids": {"limit": 9}, "cpu": {"cpus": "0"}})
    home.python(group, "x = bytearray(8 << 20)\nx[::4096] = b'x' * len(x[::4096])\nwhile True: pass")
    kind = "anon" if V2 else "rss"

    def busy() -> Any:
        now: Any = group.stats()
        return now["memory"]["raw"][kind] > 8 * MIB and now["cpu"]["usage"]["user"] > 0

    until(busy)
    figures: Any = group.stats()
    assert figures["pids"] == {"current": 1, "limit": 9}
    assert figures["cpuset"]["cpus"] == [0]
    assert figures["memory"]["usage"]["limit"] == 64 * MIB
    assert 8 * MIB < figures["memory"]["usage"]["usage"] <= 64 * MIB
    assert figures["memory"]["swap"]["limit"] == 128 * MIB
    assert figures["cpu"]["usage"]["total"] > 0
    json.dumps(figures)
    end(home, group)


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
            ["runc", "--root", bundle / "state", "create", "theirs"],
            stdin=null,
            stdout=null,
            stderr=null,
            cwd=bundle,
            check=False,
        )
    assert done.returncode == 0


USAGE = (
    "usage",
    "stat",
    "events",
    "procs",
    "tasks",
    "threads",
    "failcnt",
    "pressure",
    "current",
    "peak",
    "io_serv",
    "kmem.slab",
    "numa",
)


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
@pytest.mark.skipif(V2, reason="runc is not in the virtual machine")
@pytest.mark.parametrize("name", ENGINES)
def test_the_groups_are_as_runc_makes_them(home: Family, bundle: Path, name: str) -> None:
    """All control files of all controllers, after what docker and podman really send."""
    resources = json.loads(json.dumps(ENGINES[name]["resources"]))
    major, minor = map(int, disk().split(":"))
    for value in resources.get("blockIO", {}).values():
        for each in value if isinstance(value, list) else []:
            each.update(major=major, minor=minor)
    created_by_runc(bundle, f"{home.top}/theirs", resources)
    try:
        theirs = settings_of(hierarchies().paths(f"{home.top}/theirs"))
        group = home.group(resources, "ours")
        ours = settings_of(group.paths)
        group.delete()
    finally:
        runc(bundle, "delete", "--force", "theirs")
    # runc adds /dev/net/tun; box adds /dev/console, which engines name themselves.
    for both in (ours, theirs):
        lines = both["devices/devices.list"].splitlines()
        both["devices/devices.list"] = "\n".join(line for line in lines if line not in ("c 10:200 rwm", "c 5:1 rwm"))
    assert ours == theirs


@pytest.mark.needs("runc", "busybox")
@pytest.mark.skipif(V2, reason="runc is not in the virtual machine")
def test_the_figures_have_runc_s_shape_and_values(home: Family, bundle: Path) -> None:
    created_by_runc(bundle, f"{home.top}/theirs", {"memory": {"limit": 64 * MIB}, "pids": {"limit": 20}})
    try:
        runc(bundle, "start", "theirs")
        until(lambda: b"sleep" in Path(f"/proc/{json.loads(runc(bundle, 'state', 'theirs'))['pid']}/cmdline").read_bytes())
        theirs = json.loads(runc(bundle, "events", "--stats", "theirs"))["data"]
        ours: Any = ContainerCgroup.reopen(hierarchies().paths(f"{home.top}/theirs")).stats()
    finally:
        runc(bundle, "delete", "--force", "theirs")
    assert shape(json.loads(json.dumps(ours))) == shape(theirs)
    assert ours["pids"] == theirs["pids"]
    assert ours["memory"]["usage"]["limit"] == theirs["memory"]["usage"]["limit"]
    assert ours["memory"]["raw"]["hierarchical_memory_limit"] == theirs["memory"]["raw"]["hierarchical_memory_limit"]
    assert ours["cpuset"] == theirs["cpuset"]


def shape(value: Any) -> Any:
    """The keys, down to numbers."""
    if isinstance(value, dict):
        return {key: shape(each) for key, each in value.items() if key not in ("percpu_kernel", "percpu_user")}
    return type(value).__name__ if not isinstance(value, list) else "list"


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
