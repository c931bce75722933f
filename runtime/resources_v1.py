"""`linux.resources` on the controllers of cgroup v1, one function each. Source: Documentation/admin-guide/cgroup-v1/."""

from runtime.cgroup_files import number
from runtime.resource_fields import I64, U32, U64, Fields, Write
from runtime.resources import (
    check_usage,
    device_number,
    first_file,
    huge_pages,
    memory_limits,
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

_LIMIT, _BOTH = "memory.limit_in_bytes", "memory.memsw.limit_in_bytes"
_THROTTLE_FILES = {
    "throttleReadBpsDevice": "blkio.throttle.read_bps_device",
    "throttleWriteBpsDevice": "blkio.throttle.write_bps_device",
    "throttleReadIOPSDevice": "blkio.throttle.read_iops_device",
    "throttleWriteIOPSDevice": "blkio.throttle.write_iops_device",
}
_LEAST_SHARES, _MOST_SHARES = 2, 262144


def memory(resources: Fields, group: "Group") -> list[Write]:
    fields = resources.object("memory")
    limit, swap, reservation = memory_limits(fields)
    check_usage(fields, limit, number(group.read("memory", "memory.usage_in_bytes")))
    found = []
    if limit:
        found.append(Write("memory", _LIMIT, str(limit), f"{fields.path}.limit"))
    if swap and (swap > 0 or group.has("memory", _BOTH)):
        if group.has("memory", "memory.limit_in_bytes") and not group.has("memory", _BOTH):
            raise RunError(f"{fields.path}.swap: this kernel does not account swap", hint="boot it with swapaccount=1")
        both = Write("memory", _BOTH, str(swap), f"{fields.path}.swap")
        # At no moment may the limit of both be less than that of memory alone.
        current = number(group.read("memory", _LIMIT)) or 0
        found.insert(0 if swap == -1 or current < swap else len(found), both)
    if reservation:
        found.append(Write("memory", "memory.soft_limit_in_bytes", str(reservation), f"{fields.path}.reservation"))
    tcp = fields.integer("kernelTCP", -1, I64)
    if tcp:
        found.append(Write("memory", "memory.kmem.tcp.limit_in_bytes", str(tcp), f"{fields.path}.kernelTCP"))
    fields.integer("kernel", -1, I64)  # no kernel has had the limit since 5.16, and engines still send it
    swappiness = fields.integer("swappiness", -1, U64)
    if swappiness is not None and swappiness not in (-1, U64):
        if swappiness > 100:
            raise RunError(f"{fields.path}.swappiness: {swappiness} is not between 0 and 100")
        found.append(Write("memory", "memory.swappiness", str(swappiness), f"{fields.path}.swappiness"))
    disabled = fields.boolean("disableOOMKiller")
    if disabled is not None and (disabled or "oom_kill_disable 1" in group.read("memory", "memory.oom_control")):
        found.append(Write("memory", "memory.oom_control", str(int(disabled)), f"{fields.path}.disableOOMKiller"))
    return found


def cpu(resources: Fields, group: "Group") -> list[Write]:
    fields = resources.object("cpu")
    found = []
    idle = fields.integer("idle", 0, 1)
    if idle is not None:
        found.append(Write("cpu", "cpu.idle", str(idle), f"{fields.path}.idle"))
    shares = fields.integer("shares", 0, U64)
    if shares and not idle:  # an idle group has no shares, and says so by an error
        if not _LEAST_SHARES <= shares <= _MOST_SHARES:
            raise RunError(f"{fields.path}.shares: {shares} is not between {_LEAST_SHARES} and {_MOST_SHARES}")
        found.append(Write("cpu", "cpu.shares", str(shares), f"{fields.path}.shares"))
    found += _pair(fields, group, "realtimeRuntime", "cpu.rt_runtime_us", "realtimePeriod", "cpu.rt_period_us")
    quota = _pair(fields, group, "quota", "cpu.cfs_quota_us", "period", "cpu.cfs_period_us")
    burst = fields.integer("burst", 0, U64)
    if burst is not None:
        write = Write("cpu", "cpu.cfs_burst_us", str(burst), f"{fields.path}.burst")
        # At no moment may it be more than the quota.
        lowered = burst <= (number(group.read("cpu", "cpu.cfs_burst_us")) or 0)
        quota.insert(0 if lowered else len(quota), write)
    return found + quota


def _pair(fields: Fields, group: "Group", amount: str, amount_file: str, period: str, period_file: str) -> list[Write]:
    """An amount of time in each period: written so that the share is at no moment more than both the old one and the new, which a
    parent's limit could refuse."""
    new_amount = fields.integer(amount, -1, I64)
    new_period = fields.integer(period, 0, U64)
    found = []
    if new_period:
        found.append(Write("cpu", period_file, str(new_period), f"{fields.path}.{period}"))
    if new_amount:
        write = Write("cpu", amount_file, str(new_amount), f"{fields.path}.{amount}")
        old_period = number(group.read("cpu", period_file)) or 0
        old_amount = number(group.read("cpu", amount_file)) or -1
        period_first = not new_period or new_period >= old_period or old_amount <= 0
        found.insert(len(found) if period_first else 0, write)
    return found


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
    file = first_file(group, "blkio", "blkio.weight", "blkio.bfq.weight")
    leaf_file = "blkio.leaf_weight"
    if value := weight(fields, "weight"):
        found.append(Write("blkio", file, str(value), f"{fields.path}.weight"))
    if value := weight(fields, "leafWeight"):
        found.append(Write("blkio", leaf_file, str(value), f"{fields.path}.leafWeight"))
    for each in fields.items("weightDevice"):
        device = device_number(each)
        if value := weight(each, "weight"):
            found.append(Write("blkio", f"{file}_device", f"{device} {value}", f"{each.path}.weight"))
        if value := weight(each, "leafWeight"):
            found.append(Write("blkio", f"{leaf_file}_device", f"{device} {value}", f"{each.path}.leafWeight"))
    for name, device, rate, field in throttles(fields):
        found.append(Write("blkio", _THROTTLE_FILES[name], f"{device} {rate}", field))
    return found


def network(resources: Fields, group: "Group") -> list[Write]:
    fields = resources.object("network")
    found = []
    if identity := fields.integer("classID", 0, U32):
        found.append(Write("net_cls", "net_cls.classid", str(identity), f"{fields.path}.classID"))
    for each in fields.items("priorities"):
        name, priority = each.text("name") or "", each.integer("priority", 0, U32)
        if not 0 < len(name) < 16 or any(character.isspace() for character in name) or "/" in name:
            raise RunError(f"{each.path}.name: {name!r} is not the name of an interface")
        if priority is None:
            raise RunError(f"{each.path}.priority: not given")
        found.append(Write("net_prio", "net_prio.ifpriomap", f"{name} {priority}", each.path))
    return found


def unified(resources: Fields, group: "Group") -> list[Write]:
    fields = resources.object("unified")
    if fields.values:
        raise RunError(f"{fields.path}: only cgroup v2 has it, and this machine's controllers are on v1")
    return []


controllers = (cpuset, memory, cpu, pids, block_io, huge_pages, network, rdma, unified)
