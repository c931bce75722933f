"""Control groups for a container that runs already: on cgroup v1 it has only those that it needed when it was started."""

import posix as os
import time

from runtime.cgroup_files import pids_in, write
from runtime.cgroups import FOLDER, MOUNT_POINT, Cgroup, make
from runtime.container_cgroup import inherit
from runtime.journal import REGROUPED, mark
from runtime.lifecycle import not_running, process_of
from runtime.state import Container
from store.errors import SetupFailed

_ESRCH = 3
_PATIENCE = 5.0  # seconds


def regroup(container: Container, controllers: list[str]) -> Cgroup:
    """The container's groups, with one of each of `controllers`, in which all that it runs is. Raises RunError, SetupFailed."""
    with process_of(container):
        group = Cgroup(container.id)
        missing = [] if group.v2 else [name for name in controllers if name not in group.paths]
        if not missing:
            return group
        # Before there is any: whoever looks after the container removes them, which it would not know of otherwise.
        mark(container.path, REGROUPED)
        made = [(name, f"{MOUNT_POINT}/{name}/{FOLDER}/{container.id}") for name in missing]
        try:
            for name, path in made:
                make(path, name)
                if name == "cpuset":
                    inherit(path.rpartition("/")[0])
                    inherit(path)
                _gather(group, path)
            if not group.processes():
                raise not_running(container)
        except OSError as err:
            _undo(made)
            raise SetupFailed("give the container a control group", err.errno or 0, err.strerror or "") from err
        except BaseException:
            _undo(made)
            raise
        group.paths.update(made)
        return group


def _gather(group: Cgroup, path: str) -> None:
    """Have all that runs in `group` in the group at `path` too; what is born meanwhile is followed."""
    deadline = time.monotonic() + _PATIENCE
    while outside := set(group.processes()) - set(pids_in(path)):
        if time.monotonic() > deadline:
            raise SetupFailed("give the container a control group", 11, "its processes multiply too fast", path=path)
        for pid in outside:
            try:
                write(path + "/cgroup.procs", str(pid))
            except OSError as err:
                if err.errno != _ESRCH:
                    raise


def _undo(made: list[tuple[str, str]]) -> None:
    for _, path in made:
        try:
            os.rmdir(path)
        except OSError:
            continue  # processes are in it: whoever looks after the container removes it
