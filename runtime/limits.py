"""Limits of a container of `box run` beyond the few that runtime.cgroups knows.

They are worded as `linux.resources` of a bundle is, so that runtime.resources brings them about. Imported only where there are
any.
"""

from runtime.cgroups import MOUNT_POINT
from runtime.container_cgroup import ContainerCgroup, enable, inherit
from store.errors import RunError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    Resources = Mapping[str, Mapping[str, Any]]

_CPUSET = ("cpus", "mems")
_OPTIONS = {
    "linux.resources.memory.limit": "--memory",
    "linux.resources.memory.reservation": "--memory-reservation",
    "linux.resources.memory.swap": "--memory-swap",
    "linux.resources.cpu.quota": "--cpus",
    "linux.resources.cpu.period": "--cpus",
    "linux.resources.cpu.shares": "--cpu-shares",
    "linux.resources.cpu.cpus": "--cpuset-cpus",
    "linux.resources.cpu.mems": "--cpuset-mems",
    "linux.resources.pids.limit": "--pids-limit",
}


def controllers_of(resources: "Resources") -> list[str]:
    """The controllers of cgroup v1 that `resources` need."""
    cpu = resources.get("cpu", {})
    return [
        name
        for name, wanted in (
            ("memory", bool(resources.get("memory"))),
            ("cpu", any(key not in _CPUSET for key in cpu)),
            ("cpuset", any(key in _CPUSET for key in cpu)),
        )
        if wanted
    ]


def apply(paths: dict[str, str], resources: "Resources") -> None:
    """Bring the limits about in the groups at `paths`. Raises RunError, which names the option."""
    if "cpuset" in paths:
        for directory in (paths["cpuset"].rpartition("/")[0], paths["cpuset"]):
            inherit(directory)
    if "unified" in paths:
        for directory in (MOUNT_POINT, paths["unified"].rpartition("/")[0]):
            enable(directory)
    try:
        ContainerCgroup.reopen(paths).apply(resources)
    except RunError as err:
        field, colon, rest = err.message.partition(": ")
        if not colon or field not in _OPTIONS:
            raise
        raise RunError(f"{_OPTIONS[field]}: {rest}", hint=err.hint) from err
