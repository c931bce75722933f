"""`linux.resources`, which is worded for cgroup v1, on cgroup v2. Source: Documentation/admin-guide/cgroup-v2.rst.

Numbers are converted as runc and crun do now, so that a container gets the same share of a machine under any of the three.
"""

from runtime.cgroup_files import number
from runtime.resource_fields import I64, U64, Fields, Write
from runtime.resources import (
    check_usage,
    device_number,
    huge_pages,
    memory_limits,
    only_on_v1,
    pids,
    processors,
    rdma,
    throttles,
    weight,
)
from store.errors import RunError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from runtime.resources import Group

_PERIOD = 100_000
_THROTTLE_KEYS = {
    "throttleReadBpsDevice": "rbps",
    "throttleWriteBpsDevice": "wbps",
    "throttleReadIOPSDevice": "riops",
    "throttleWriteIOPSDevice": "wiops",
}
_OURS = ("cgroup.max.depth", "cgroup.max.descendants")  # of the group itself; all else of it is the runtime's


def cpu_weight(shares: int) -> int:
    """cpu.shares 2 to 262144 as cpu.weight 1 to 10000, such that 1024, the default there, is 100, the default here."""
    if shares <= 2:
        return 1
    if shares >= 262144:
        return 10000
    from math import ceil, log2

    power = log2(shares)
    return ceil(10 ** ((power * power + 125 * power) / 612 - 7 / 34))


def io_weight(value: int) -> int:
    """A weight of 10 to 1000 as io.weight, 1 to 10000."""
    return 1 + (value - 10) * 9999 // 990


def memory(resources: Fields, group: "Group") -> list[Write]:
    fields = resources.object("memory")
    limit, swap, reservation = memory_limits(fields)
    check_usage(fields, limit, number(group.read("memory", "memory.current")))
    found = []
    if swap > 0:
        alone = limit if limit > 0 else _set_limit(fields, group)
        if swap < alone:
            raise RunError(f"{fields.path}.swap: {swap} is less than the memory limit of {alone}")
        found.append(Write("memory", "memory.swap.max", str(swap - alone), f"{fields.path}.swap"))
    elif swap == -1 and group.has("memory", "memory.swap.max"):
        found.append(Write("memory", "memory.swap.max", "max", f"{fields.path}.swap"))
    if limit:
        found.append(Write("memory", "memory.max", _or_max(limit), f"{fields.path}.limit"))
    if reservation:
        found.append(Write("memory", "memory.low", _or_max(reservation), f"{fields.path}.reservation"))
    for name in ("kernel", "kernelTCP"):  # engines send them; the memory limit has long counted both
        fields.integer(name, -1, I64)
    if fields.integer("swappiness", -1, U64) not in (None, -1, U64):
        raise only_on_v1(f"{fields.path}.swappiness")
    if fields.boolean("disableOOMKiller"):
        raise only_on_v1(f"{fields.path}.disableOOMKiller")
    return found


def _set_limit(fields: Fields, group: "Group") -> int:
    limit = number(group.read("memory", "memory.max"))
    if fields.values.get("limit") or limit is None or limit == U64:
        raise RunError(f"{fields.path}.swap: a limit of memory and swap together needs one of memory")
    return limit


def _or_max(value: int) -> str:
    return "max" if value == -1 else str(value)


def cpu(resources: Fields, group: "Group") -> list[Write]:
    fields = resources.object("cpu")
    found = []
    idle = fields.integer("idle", 0, 1)
    if idle is not None:
        found.append(Write("cpu", "cpu.idle", str(idle), f"{fields.path}.idle"))
    shares = fields.integer("shares", 0, U64)
    if shares and not idle:
        found.append(Write("cpu", "cpu.weight", str(cpu_weight(shares)), f"{fields.path}.shares"))
    for name in ("realtimeRuntime", "realtimePeriod"):
        if fields.integer(name, -1, I64):
            raise only_on_v1(f"{fields.path}.{name}")
    quota = fields.integer("quota", -1, I64) or 0
    period = fields.integer("period", 0, U64) or 0
    limits = []
    if quota or period:
        former = group.read("cpu", "cpu.max").split() or ["max", str(_PERIOD)]
        text = f"{_or_max(quota) if quota else former[0]} {period or former[-1]}"
        limits.append(Write("cpu", "cpu.max", text, f"{fields.path}.{'quota' if quota else 'period'}"))
    burst = fields.integer("burst", 0, U64)
    if burst is not None:
        lowered = burst <= (number(group.read("cpu", "cpu.max.burst")) or 0)
        limits.insert(0 if lowered else len(limits), Write("cpu", "cpu.max.burst", str(burst), f"{fields.path}.burst"))
    return found + limits


def cpuset(resources: Fields, group: "Group") -> list[Write]:
    fields = resources.object("cpu")
    return [
        Write("cpuset", f"cpuset.{name}", text, f"{fields.path}.{name}")
        for name in ("cpus", "mems")
        if (text := processors(fields, name))
    ]


def block_io(resources: Fields, group: "Group") -> list[Write]:
    fields = resources.object("blockIO")
    found = []
    bfq = group.has("io", "io.bfq.weight")
    file = "io.bfq.weight" if bfq else "io.weight"
    weight(fields, "leafWeight")  # of a scheduler that is gone from the kernel; engines send it beside the other
    if value := weight(fields, "weight"):
        found.append(Write("io", file, str(value if bfq else io_weight(value)), f"{fields.path}.weight"))
    for each in fields.items("weightDevice"):
        device = device_number(each)
        weight(each, "leafWeight")
        if value := weight(each, "weight"):
            found.append(Write("io", file, f"{device} {value if bfq else io_weight(value)}", f"{each.path}.weight"))
    for name, device, rate, field in throttles(fields):
        found.append(Write("io", "io.max", f"{device} {_THROTTLE_KEYS[name]}={rate or 'max'}", field))
    return found


def network(resources: Fields, group: "Group") -> list[Write]:
    fields = resources.object("network")
    for name in ("classID", "priorities"):
        if fields.values.get(name):
            raise only_on_v1(f"{fields.path}.{name}", "match the cgroup's path in nftables or in a BPF program instead")
    return []


def unified(resources: Fields, group: "Group") -> list[Write]:
    fields = resources.object("unified")
    found = []
    for file in fields.values:
        controller, dot, _ = file.partition(".")
        if not dot or "/" in file or not controller or (controller == "cgroup" and file not in _OURS):
            raise RunError(f"{fields.path}: {file!r} is not a control file that a config may set")
        text = fields.text(file) or ""
        found += [Write(controller, file, line, f"{fields.path}.{file}") for line in text.splitlines() or [""]]
    return found


controllers = (cpuset, memory, cpu, pids, block_io, huge_pages, network, rdma, unified)
