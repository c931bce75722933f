"""What a container uses, in the shape that `runc events --stats` has and its readers expect: nanoseconds, bytes, zeros left out
where runc leaves them out. On v2 the numbers stand where v1 has them. Sources: runc's types/events.go, cgroup-v1/, cgroup-v2.rst.
"""

from runtime.cgroup_files import number, read, table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from runtime.container_cgroup import ContainerCgroup

    Entries = list[dict[str, Any]]

_TICK = 10_000_000  # nanoseconds of a clock tick (USER_HZ is 100 everywhere)
_NANOSECONDS = 1000  # in a microsecond
_V1_IO = {
    "ioServiceBytesRecursive": ("blkio.bfq.io_service_bytes_recursive", "blkio.throttle.io_service_bytes_recursive"),
    "ioServicedRecursive": ("blkio.bfq.io_serviced_recursive", "blkio.throttle.io_serviced_recursive"),
    "ioQueueRecursive": ("blkio.bfq.io_queued_recursive",),
    "ioServiceTimeRecursive": ("blkio.bfq.io_service_time_recursive",),
    "ioWaitTimeRecursive": ("blkio.bfq.io_wait_time_recursive",),
    "ioMergedRecursive": ("blkio.bfq.io_merged_recursive",),
    "ioTimeRecursive": ("blkio.bfq.time_recursive",),
    "sectorsRecursive": ("blkio.bfq.sectors_recursive",),
}
_V2_IO = {
    "rbytes": ("ioServiceBytesRecursive", "Read"),
    "wbytes": ("ioServiceBytesRecursive", "Write"),
    "rios": ("ioServicedRecursive", "Read"),
    "wios": ("ioServicedRecursive", "Write"),
}
_CPUSET = (
    "cpu_exclusive", "mem_hardwall", "mem_exclusive", "memory_migrate", "memory_spread_page", "memory_spread_slab",
    "memory_pressure", "sched_load_balance", "sched_relax_domain_level",
)  # fmt: skip


def stats(group: "ContainerCgroup") -> "dict[str, Any]":
    """The `data` of an event of type `stats`."""
    both = (_cpu_v2, _memory_v2, _io_v2) if group.v2 else (_cpu_v1, _memory_v1, _io_v1)
    cpu, memory, io = [part(group) for part in both]
    return {
        "cpu": cpu,
        "cpuset": _cpuset(group),
        "memory": memory,
        "pids": _present(current=_number(group, "pids", "pids.current"), limit=_limit(group, "pids", "pids.max")),
        "blkio": io,
        "hugetlb": _huge_pages(group),
        "intel_rdt": {},
        "network_interfaces": None,
    }


def _present(**values: int) -> dict[str, int]:
    """What is not 0: runc leaves zeros out."""
    return {name: value for name, value in values.items() if value}


def _number(group: "ContainerCgroup", controller: str, file: str) -> int:
    return number(group.read(controller, file)) or 0


def _limit(group: "ContainerCgroup", controller: str, file: str) -> int:
    """A limit, 0 where there is none."""
    text = group.read(controller, file).strip()
    return int(text) if text.isdigit() else 0


def _usage(total: int, kernel: int, user: int, percpu: list[tuple[int, int, int]]) -> "dict[str, Any]":
    found: dict[str, Any] = _present(total=total)
    if percpu:
        found["percpu"] = [each for each, _, _ in percpu]
        if any(in_kernel or in_user for _, in_kernel, in_user in percpu):
            found["percpu_kernel"] = [each for _, each, _ in percpu]
            found["percpu_user"] = [each for _, _, each in percpu]
    return {**found, "kernel": kernel, "user": user}


def _cpu_v1(group: "ContainerCgroup") -> "dict[str, Any]":
    ticks = table(group.read("cpuacct", "cpuacct.stat"))
    each = [int(part) for part in group.read("cpuacct", "cpuacct.usage_percpu").split()]
    split: dict[int, tuple[int, int]] = {}
    for line in group.read("cpuacct", "cpuacct.usage_all").splitlines()[1:]:  # "cpu user system"
        cpu, user, system = line.split()
        split[int(cpu)] = (int(system), int(user))
    throttled = table(group.read("cpu", "cpu.stat"))
    return {
        "usage": _usage(
            _number(group, "cpuacct", "cpuacct.usage"),
            ticks.get("system", 0) * _TICK,
            ticks.get("user", 0) * _TICK,
            [(total, *split.get(cpu, (0, 0))) for cpu, total in enumerate(each)],
        ),
        "throttling": _present(
            periods=throttled.get("nr_periods", 0),
            throttledPeriods=throttled.get("nr_throttled", 0),
            throttledTime=throttled.get("throttled_time", 0),
        ),
    }


def _cpu_v2(group: "ContainerCgroup") -> "dict[str, Any]":
    values = table(group.read("cpu", "cpu.stat"))
    nanoseconds = [values.get(name, 0) * _NANOSECONDS for name in ("usage_usec", "system_usec", "user_usec", "throttled_usec")]
    total, kernel, user, throttled = nanoseconds
    return _with_pressure(group, "cpu", {
        "usage": _usage(total, kernel, user, []),
        "throttling": _present(
            periods=values.get("nr_periods", 0), throttledPeriods=values.get("nr_throttled", 0), throttledTime=throttled
        ),
    })  # fmt: skip


def _cpuset(group: "ContainerCgroup") -> "dict[str, Any]":
    found: dict[str, Any] = {}
    for name in ("cpus", "mems"):
        if listed := _listed(group.read("cpuset", f"cpuset.{name}{'.effective' if group.v2 else ''}").strip()):
            found[name] = listed
    return found | {name: _number(group, "cpuset", "cpuset." + name) for name in _CPUSET}


def _listed(text: str) -> list[int]:
    """The numbers of a list such as 0-3,7."""
    found: list[int] = []
    for part in text.split(",") if text else []:
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    return found


def _memory_v1(group: "ContainerCgroup") -> "dict[str, Any]":
    raw = table(group.read("memory", "memory.stat"))
    kinds = {"usage": "", "swap": "memsw.", "kernel": "kmem.", "kernelTCP": "kmem.tcp."}
    entries: dict[str, Any] = {}
    for name, prefix in kinds.items():
        limit, usage, most, failures = [
            _number(group, "memory", f"memory.{prefix}{file}")
            for file in ("limit_in_bytes", "usage_in_bytes", "max_usage_in_bytes", "failcnt")
        ]
        entries[name] = {"limit": limit, **_present(usage=usage, max=most), "failcnt": failures}
    return {**_present(cache=raw.get("cache", 0)), **entries, "raw": raw}


def _memory_v2(group: "ContainerCgroup") -> "dict[str, Any]":
    raw = table(group.read("memory", "memory.stat"))
    events = table(group.read("memory", "memory.events"))
    usage, most = _number(group, "memory", "memory.current"), _number(group, "memory", "memory.peak")
    limit = _number(group, "memory", "memory.max")
    swapped, swap_limit = _number(group, "memory", "memory.swap.current"), _number(group, "memory", "memory.swap.max")
    unlimited = (1 << 64) - 1
    if group.has("memory", "memory.swap.max"):  # of both together, as v1 counts it
        both, both_limit = swapped + usage, min(unlimited, swap_limit + limit)
    else:
        both = both_limit = 0
    return _with_pressure(group, "memory", {
        **_present(cache=raw.get("file", 0)),
        "usage": {"limit": limit, **_present(usage=usage, max=most), "failcnt": events.get("max", 0)},
        "swap": {"limit": both_limit, **_present(usage=both), "failcnt": 0},
        "kernel": {"limit": 0, "failcnt": 0},
        "kernelTCP": {"limit": 0, "failcnt": 0},
        "raw": raw,
        "event_count": {name: events.get(name, 0) for name in ("low", "high", "max", "oom", "oom_kill")},
    })  # fmt: skip


def _io_v1(group: "ContainerCgroup") -> "dict[str, Any]":
    found = {}
    for name, files in _V1_IO.items():
        for file in files:
            entries = [entry for line in group.read("blkio", file).splitlines() if (entry := _entry(line.split()))]
            if entries:
                found[name] = entries
                break
    return found


def _entry(words: list[str]) -> "dict[str, Any] | None":
    """`8:0 Read 4096`, or without an operation `8:0 7`; the lines of totals are not of a device."""
    major, colon, minor = words[0].partition(":")
    if not colon or len(words) not in (2, 3):
        return None
    operation: dict[str, Any] = {"op": words[1]} if len(words) == 3 else {}
    return {**_present(major=int(major), minor=int(minor)), **operation, **_present(value=int(words[-1]))}


def _io_v2(group: "ContainerCgroup") -> "dict[str, Any]":
    found: dict[str, Entries] = {}
    for line in group.read("io", "io.stat").splitlines():
        device, *values = line.split()
        for value in values:
            key, _, amount = value.partition("=")
            if key in _V2_IO:
                name, operation = _V2_IO[key]
                entry = _entry([device, operation, amount])
                if entry:
                    found.setdefault(name, []).append(entry)
    return _with_pressure(group, "io", found)


def _with_pressure(group: "ContainerCgroup", controller: str, found: "dict[str, Any]") -> "dict[str, Any]":
    """And how long something waited for it (PSI), where the kernel says so."""
    pressure: dict[str, Any] = {}
    for line in group.read(controller, controller + ".pressure").splitlines():
        kind, *values = line.split()
        pairs = [value.partition("=")[::2] for value in values]
        pressure[kind] = {name: int(value) if name == "total" else float(value) for name, value in pairs}
    return {**found, "psi": pressure} if pressure else found


def _huge_pages(group: "ContainerCgroup") -> "dict[str, Any]":
    directory = group.paths.get("unified" if group.v2 else "hugetlb", "")
    found: dict[str, Any] = {}
    for size in _sizes():
        start = f"{directory}/hugetlb.{size}."
        usage = number(read(start + ("current" if group.v2 else "usage_in_bytes")))
        if usage is None:
            continue
        if group.v2:
            most, failures = 0, table(read(start + "events")).get("max", 0)
        else:
            most, failures = number(read(start + "max_usage_in_bytes")) or 0, number(read(start + "failcnt")) or 0
        found[size] = {**_present(usage=usage, max=most), "failcnt": failures}
    return found


def _sizes() -> list[str]:
    """The sizes of this machine's huge pages, as the files are named: 2MB, 1GB."""
    import posix

    found = []
    try:
        names = posix.listdir("/sys/kernel/mm/hugepages")
    except OSError:
        return []
    for name in names:
        size, unit = int(name.removeprefix("hugepages-").removesuffix("kB")), 0
        while size >= 1024:
            size, unit = size >> 10, unit + 1
        found.append(f"{size}{'KMGT'[unit]}B")
    return found
