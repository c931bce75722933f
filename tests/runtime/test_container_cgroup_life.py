"""A container's control groups pause, resume, kill and count what is in them, on whichever cgroups this machine has."""

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runtime import cgroup_files
from runtime.cgroup_files import pids_in, walk
from runtime.cgroup_paths import hierarchies
from runtime.container_cgroup import ContainerCgroup
from store.errors import RunError, SetupFailed
from store.syscalls import libc
from tests.containers import until
from tests.runtime.groups import Family, end, family

pytestmark = pytest.mark.needs("root", "cgroup")

MIB = 1 << 20
V2 = hierarchies().v2
SLEEP = ("sleep", "1000")


@pytest.fixture
def home() -> Iterator[Family]:
    with family() as one:
        yield one


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


@pytest.mark.parametrize(("file", "former"), [("freezer/freezer.state", "THAWED"), ("unified/cgroup.freeze", "0")])
def test_what_does_not_stand_still_in_time_goes_on_and_that_is_an_error(tmp_path: Path, file: str, former: str) -> None:
    """Of a kernel on paper, which takes what is written and never gets there."""
    (tmp_path / file).parent.mkdir()
    (tmp_path / file).write_text(former)
    controller = file.partition("/")[0]
    group = ContainerCgroup.reopen({controller: str(tmp_path / controller)})
    real, written = cgroup_files.write, []

    def write(path: str, text: str) -> None:
        written.append(text)
        real(path, "FREEZING" if text == "FROZEN" else text)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("runtime.freezer.write", write)
        with pytest.raises(SetupFailed, match=r"pause the container at .*: a process of it does not stop"):
            group.freeze(0.2)
    assert written[0] != former and written[-1] == former
    if controller == "freezer":
        assert former in written[1:-1]  # thawed for a moment in between
    assert (tmp_path / file).read_text().startswith(former)


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


@pytest.mark.parametrize("at_once", [True, False])
def test_what_forks_faster_than_it_is_listed_is_killed(home: Family, monkeypatch: pytest.MonkeyPatch, at_once: bool) -> None:
    """By cgroup.kill where there is one, else one by one while they stand still."""
    if not at_once:
        monkeypatch.setattr("runtime.container_cgroup.exists", lambda path: "cgroup.kill" not in path and os.path.exists(path))
    group = home.group({"pids": {"limit": 200}})
    bomb = (
        "import os\nfor _ in range(6):\n try: os.fork()\n except OSError: pass\n"
        "while True:\n try:\n  if os.fork(): os._exit(0)\n except OSError: pass\n"
    )
    libc("prctl", 36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER: what is orphaned comes to this process
    done = threading.Event()

    def reap() -> None:
        while not done.is_set():
            try:
                os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                pass
            time.sleep(0.0005)

    reaper = threading.Thread(target=reap)
    try:
        home.python(group, bomb)
        until(lambda: len(group.processes()) > 20)
        reaper.start()
        group.kill()
        assert group.processes() == []
    finally:
        done.set()
        reaper.join()
        libc("prctl", 36, 0, 0, 0, 0)
        home.children.clear()
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
    with pytest.raises(OSError, match="File name too long"):  # the control: by paths there is no way to it
        os.listdir(group.paths[controller] + f"/{name}" * 30)
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
