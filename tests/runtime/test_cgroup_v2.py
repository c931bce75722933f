"""What only cgroup v2 has, on a machine that has nothing else: `make test-vm` boots one (tests/vm)."""

import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runtime.cgroup_paths import hierarchies
from runtime.container_cgroup import ContainerCgroup
from runtime.device_filter import attached
from store.errors import RunError
from tests.containers import until
from tests.runtime.groups import Family, end, family

pytestmark = pytest.mark.needs("root", "cgroup2")

MIB = 1 << 20
SLEEP = ("sleep", "1000")
TOP = "/sys/fs/cgroup"


@pytest.fixture
def home() -> Iterator[Family]:
    with family() as one:
        yield one


def setting(group: ContainerCgroup, file: str) -> str:
    return Path(group.paths["unified"], file).read_text().strip()


def test_a_machine_with_one_tree_is_seen_as_such(home: Family) -> None:
    assert hierarchies().v2
    group = home.group()
    assert group.v2 and group.paths == {"unified": f"{TOP}{home.top}/one"}
    assert group.open_to_join() == []
    group.delete()


def test_unified_writes_any_file_of_a_controller_that_is_there(home: Family) -> None:
    unified = {"memory.high": str(32 * MIB), "cgroup.max.depth": "2", "pids.max": "17"}
    group = home.group({"pids": {"limit": 5}, "unified": unified})
    assert [setting(group, file) for file in unified] == list(unified.values())
    with pytest.raises(OSError):
        os.makedirs(f"{group.paths['unified']}/a/b/c")
    with pytest.raises(RunError, match=r"linux\.resources\.unified\.memory\.nosuch: this kernel's memory controller has no"):
        group.update({"unified": {"memory.nosuch": "1"}})
    with pytest.raises(RunError, match=r"linux\.resources\.unified\.nosuch\.max: no nosuch controller here"):
        group.update({"unified": {"nosuch.max": "1"}})
    with pytest.raises(RunError, match=r"linux\.resources\.unified\.memory\.high: .* \(writing 'much'"):
        group.update({"unified": {"memory.high": "much"}})
    group.delete()


def test_weights_of_block_devices_and_huge_pages_are_taken(home: Family) -> None:
    group = home.group({"blockIO": {"weight": 300}, "hugepageLimits": [{"pageSize": "2MB", "limit": 4 * MIB}]})
    if group.has("io", "io.bfq.weight"):
        assert setting(group, "io.bfq.weight").split() == ["default", "300"]
    else:
        assert setting(group, "io.weight").split() == ["default", "2930"]
    assert setting(group, "hugetlb.2MB.max") == setting(group, "hugetlb.2MB.rsvd.max") == str(4 * MIB)
    figures: Any = group.stats()
    assert figures["hugetlb"]["2MB"] == {"failcnt": 0}
    group.delete()


def test_one_write_kills_all_in_all_groups_below(home: Family) -> None:
    group = home.group()
    for name in ("a", "a/b", "c"):
        os.mkdir(f"{group.paths['unified']}/{name}")
        for _ in range(3):
            home.bear(ContainerCgroup.reopen({"unified": f"{group.paths['unified']}/{name}"}), *SLEEP)
    until(lambda: len(group.processes()) == 9)

    class ByOneWrite(ContainerCgroup):
        def _kill_standing(self, pids: list[int]) -> None:
            time.sleep(0.001)

    reaper = threading.Thread(target=lambda: [home.wait(pid) for pid in list(home.children)])
    reaper.start()
    ByOneWrite.reopen(group.paths).kill()
    reaper.join()
    group.delete()


def test_the_device_program_is_one_and_goes_with_its_group(home: Family) -> None:
    group = home.group({"devices": [{"allow": False, "access": "rwm"}]})
    fd = os.open(group.paths["unified"], os.O_RDONLY)
    first = attached(fd)
    group.update({"devices": [{"allow": True, "access": "rwm"}]})
    assert len(first) == len(attached(fd)) == 1 and attached(fd) != first
    group.update({"pids": {"limit": 5}})
    group.delete()
    os.close(fd)


def test_a_group_below_one_with_processes_of_its_own_has_no_controllers_and_says_so(home: Family) -> None:
    """v2 gives controllers on only from groups without processes."""
    parent = home.group()
    home.bear(parent, *SLEEP)
    until(parent.processes)
    with pytest.raises(RunError, match=r"linux\.resources\.pids\.limit: no pids controller here") as caught:
        home.group({"pids": {"limit": 5}}, "one/child")
    assert "delegated" in caught.value.hint
    child = home.group({}, "one/child")  # without a limit there is nothing to miss
    assert setting(parent, "cgroup.type") == setting(child, "cgroup.type") == "domain"
    pid = home.bear(child, *SLEEP)
    until(lambda: child.processes() == [pid])
    end(home, parent)


def test_a_group_in_a_threaded_tree_cannot_have_a_container_and_that_is_said(home: Family) -> None:
    above = f"{TOP}{home.top}/one"
    os.makedirs(above + "/threads")
    Path(above, "threads", "cgroup.type").write_text("threaded")
    with pytest.raises(RunError, match=r"linux\.cgroupsPath: .* is domain invalid, and a container needs a domain"):
        home.group(name="one/threads/child")
    for directory in (above + "/threads", above):
        os.rmdir(directory)


def test_a_container_that_manages_groups_of_its_own_is_paused_limited_and_removed_whole(home: Family) -> None:
    """As systemd in a container does: itself into a leaf, controllers for the rest."""
    group = home.group({"memory": {"limit": 64 * MIB}, "pids": {"limit": 20}})
    script = f"""
import os, time
top = {group.paths["unified"]!r}
def write(file, text):
    with open(top + file, "w") as opened:
        opened.write(text)
for name in ("/init", "/service"):
    os.mkdir(top + name)
write("/init/cgroup.procs", "0")
write("/cgroup.subtree_control", "+pids +memory")
write("/service/pids.max", "3")
if not os.fork():
    write("/service/cgroup.procs", "0")
    time.sleep(1000)
time.sleep(1000)
"""
    init = home.python(group, script)
    until(lambda: len(group.processes()) == 2 and os.path.exists(f"{group.paths['unified']}/service/pids.max"))
    group.freeze()
    assert group.frozen()
    group.thaw()
    fd = group.open_for_clone(init)
    assert fd is not None and os.readlink(f"/proc/self/fd/{fd}").endswith("/init")
    os.close(fd)
    figures: Any = group.stats()
    assert figures["pids"]["current"] == 2
    group.update({"memory": {"limit": 32 * MIB}})
    end(home, group)
    assert not os.path.exists(group.paths["unified"])


def test_who_was_given_a_group_makes_limits_in_it_without_being_root(home: Family) -> None:
    """Delegation: all limits hold but the device program, which only root can attach, and that is said."""
    own = home.group()
    directory = own.paths["unified"]
    Path(directory, "cgroup.subtree_control").write_text("+pids +memory +cpu")
    for name in ("", "cgroup.procs", "cgroup.subtree_control", "cgroup.threads"):
        os.chown(f"{directory}/{name}", 1000, 1000)
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setresgid(1000, 1000, 1000)
            os.setresuid(1000, 1000, 1000)
            limits = {"memory": {"limit": 64 * MIB}, "pids": {"limit": 7}, "cpu": {"quota": 10000, "cpus": "0"}}
            group = ContainerCgroup.create(f"{home.top}/one/mine", "mine", limits, rootless=True)
            told = {"off": group.off, "pids": group.read("pids", "pids.max"), "cpu": group.read("cpu", "cpu.max")}
            group.delete()
            os.write(write, json.dumps(told).encode())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        told = json.loads(pipe.read())
    os.waitpid(pid, 0)
    assert told == {
        "off": ["linux.resources.devices"],
        "pids": "7\n",
        "cpu": "10000 100000\n",
    }
    own.delete()


def test_pressure_is_among_the_figures_in_runc_s_shape(home: Family) -> None:
    group = home.group()
    figures: Any = group.stats()
    assert figures["memory"]["event_count"] == {"low": 0, "high": 0, "max": 0, "oom": 0, "oom_kill": 0}
    if group.has("cpu", "cpu.pressure") and group.read("cpu", "cpu.pressure"):
        assert figures["cpu"]["psi"]["some"] == {"avg10": 0.0, "avg60": 0.0, "avg300": 0.0, "total": 0}
    group.delete()
