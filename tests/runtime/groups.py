"""Control groups of a test's own, and processes borne into them."""

import itertools
import json
import os
import shutil
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from runtime.cgroup_paths import hierarchies
from runtime.container_cgroup import ContainerCgroup
from runtime.linux import clone

# linux.resources and linux.cgroupsPath as docker and podman sent them to runc, by what was asked of them.
ENGINES: dict[str, Any] = json.loads((Path(__file__).parent / "engine_resources.json").read_text())
_numbers = itertools.count()


class Family:
    """Groups below one of this test's own, and what was borne into them."""

    def __init__(self) -> None:
        self.top = f"/box-test-{os.getpid()}-{next(_numbers)}"
        self.children: list[int] = []

    def group(self, resources: object = None, name: str = "one") -> ContainerCgroup:
        return ContainerCgroup.create(f"{self.top}/{name}", name, resources)

    def bear(self, group: ContainerCgroup, *argv: str) -> int:
        """A process that executes `argv` in the group, joined as a container's first one joins; on return it has done so."""
        cloned, joined = group.open_for_clone(), group.open_to_join()
        program = shutil.which(argv[0])
        assert program
        executed, held = os.pipe()  # closed by execve
        pid = clone(0, cloned)
        if pid == 0:
            try:
                for fd in joined:
                    os.write(fd, b"0")
                os.execv(program, argv)
            finally:
                os._exit(126)
        self.children.append(pid)
        for fd in [held, *joined, *([] if cloned is None else [cloned])]:
            os.close(fd)
        os.read(executed, 1)
        os.close(executed)
        return pid

    def python(self, group: ContainerCgroup, script: str, *arguments: str) -> int:
        return self.bear(group, sys.executable, "-I", "-S", "-c", script, *arguments)

    def answer(self, group: ContainerCgroup, script: str) -> str:
        """What a script that is run in the group writes to `out`."""
        read, write = os.pipe()
        os.set_inheritable(write, True)
        pid = self.python(group, f"import os\nout = lambda text: os.write({write}, text.encode())\n{script}")
        os.close(write)
        with os.fdopen(read) as pipe:
            text = pipe.read()
        self.wait(pid)
        return text

    def wait(self, pid: int) -> int:
        """How it ended, as a shell says it."""
        self.children.remove(pid)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        return status if status >= 0 else 128 - status


@contextmanager
def family() -> Iterator[Family]:
    """Ends with nothing left of the groups and the processes; the test fails if it leaves a group."""
    one = Family()
    try:
        yield one
    finally:
        left = []
        for directory in hierarchies().paths(one.top).values():
            if os.path.isdir(directory):
                left += [f"{directory}/{each}" for each in os.listdir(directory) if os.path.isdir(f"{directory}/{each}")]
        there = {name: path for name, path in hierarchies().paths(one.top).items() if os.path.isdir(path)}
        everything = ContainerCgroup.reopen(there)
        reaped = 0
        try:
            everything.signal_all(9)
            if everything.frozen():
                everything.thaw()
        finally:
            for pid in list(one.children):
                one.wait(pid)
                reaped += 1
            everything.delete()
    assert not left, left
    assert not reaped, f"{reaped} processes were not waited for"


def end(home: Family, group: ContainerCgroup) -> None:
    """Kill and remove, as `delete --force` does; what ends here is this process' to wait for."""
    reaper = threading.Thread(target=lambda: [home.wait(pid) for pid in list(home.children)])
    reaper.start()
    group.kill()
    reaper.join()
    group.delete()


def setting(group: ContainerCgroup, controller: str, file: str) -> str:
    """The text of a control file."""
    return group.read(controller, file).strip()


def disk() -> str:
    """MAJOR:MINOR of a block device that there is."""
    found = sorted(Path("/sys/block").glob("*/dev"), key=lambda path: path.parent.name.startswith("loop"))
    if not found:
        pytest.skip("no block device")
    return found[0].read_text().strip()


def engine_resources(name: str) -> Any:
    """What an engine really sent as linux.resources, the block devices replaced by one that there is."""
    resources = json.loads(json.dumps(ENGINES[name]["resources"]))
    major, minor = map(int, disk().split(":"))
    for value in resources.get("blockIO", {}).values():
        for each in value if isinstance(value, list) else []:
            each.update(major=major, minor=minor)
    if hierarchies().v2:
        for key in ("swappiness", "disableOOMKiller"):  # the engines themselves leave them away there
            resources.get("memory", {}).pop(key, None)
    return resources
