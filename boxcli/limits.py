"""The limits that a command line asks for, as `linux.resources` of a bundle words them."""

from __future__ import annotations

from typing import Any

from boxcli.table import Values
from boxcli.verbs.run import LEAST_MEMORY
from store.errors import UsageError

# The options of `run`, `create` and `update`; the first three have fields of their own in a Spec.
KEYS = (
    "memory", "cpus", "pids_limit", "memory_reservation", "memory_swap", "cpu_shares", "cpuset_cpus", "cpuset_mems",
)  # fmt: skip
_PERIOD = 100_000  # microseconds in which a cpu quota is counted
_FIELDS = {
    "memory_reservation": ("memory", "reservation"),
    "memory_swap": ("memory", "swap"),
    "cpu_shares": ("cpu", "shares"),
    "cpuset_cpus": ("cpu", "cpus"),
    "cpuset_mems": ("cpu", "mems"),
}


def further(values: Values) -> dict[str, dict[str, Any]]:
    """The limits that a Spec has no fields of their own for. Raises UsageError for those that contradict each other."""
    memory = values.one("memory", int)
    reservation, swap = values.one("memory_reservation", int), values.one("memory_swap", int)
    if memory and memory > 0:
        if swap and 0 < swap < memory:
            raise UsageError("--memory-swap is less than --memory", hint="it is the limit of memory and swap together")
        if reservation and reservation > memory:
            raise UsageError("--memory-reservation is more than --memory", hint="it is what is kept for the container at least")
    found: dict[str, dict[str, Any]] = {}
    for key, (kind, field) in _FIELDS.items():
        if values.flag(key):
            found.setdefault(kind, {})[field] = values.given[key]
    return found


def for_new(values: Values) -> dict[str, dict[str, Any]]:
    """`further`, for a container that is made now."""
    swap = values.one("memory_swap", int)
    if swap is not None and swap > 0 and not values.flag("memory"):
        raise UsageError("--memory-swap goes with --memory", hint="it is the limit of memory and swap together: give both")
    return further(values)


def changes(values: Values) -> dict[str, dict[str, Any]]:
    """All limits that are named, for a container that there is already."""
    found = further(values)
    memory, cpus, pids = values.one("memory", int), values.one("cpus", float), values.one("pids_limit", int)
    if memory is not None:
        if 0 < memory < LEAST_MEMORY:
            raise UsageError("a memory limit below 6 MiB lets no program go on", hint="say more, such as --memory 64m")
        found.setdefault("memory", {})["limit"] = memory or -1
    if cpus is not None:
        found.setdefault("cpu", {}).update(quota=int(cpus * _PERIOD) or -1, period=_PERIOD)
    if pids is not None:
        found.setdefault("pids", {})["limit"] = pids
    return found
