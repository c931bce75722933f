"""What a container uses now: of its control groups, and where cgroup v1 has none of a kind for it, of its processes."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from runtime.cgroup_files import number, read, table
from runtime.cgroups import Cgroup
from runtime.journal import REGROUPED
from store.record import Record
from store.syscalls import exists

if TYPE_CHECKING:
    from runtime.state import Container

_TICK = 10_000_000  # nanoseconds of a clock tick (USER_HZ is 100 everywhere)
_UNLIMITED = 1 << 62  # v1 and v2 say "no limit" by numbers beyond


class Usage(Record):
    """What was used by `when` (nanoseconds of a steady clock): processor time in nanoseconds; bytes of memory now, and the most
    that it may have; bytes received, sent, read and written; processes now."""

    when: int
    cpu: int
    memory: int
    memory_limit: int
    received: int
    sent: int
    read: int
    written: int
    processes: int


def usage(container: Container) -> Usage | None:
    """What the container has used until now; None when it does not run."""
    group = Cgroup(container.id)
    pids = group.processes()
    if container.pid not in pids:
        return None
    v2 = group.paths.get("unified", "")
    if v2:
        memory = _less_cache(v2, "memory.current", "inactive_file")
        limit = number(read(v2 + "/memory.max"))
        cpu = table(read(v2 + "/cpu.stat")).get("usage_usec", 0) * 1000
    else:
        v1 = group.paths.get("memory", "")
        # What it had before it got a group for memory is not counted there.
        late = not v1 or exists(f"{container.path}/{REGROUPED}")
        memory = max(
            _less_cache(v1, "memory.usage_in_bytes", "total_inactive_file") if v1 else 0, _proportional(pids) if late else 0
        )
        limit = number(read(v1 + "/memory.limit_in_bytes")) if v1 else None
        cpu = sum(_cpu_of(pid) for pid in pids)
    received, sent = _network(container.pid)
    bytes_read, written = (sum(counts) for counts in zip(*map(_io_of, pids), strict=True))
    return Usage(
        when=time.monotonic_ns(),
        cpu=cpu,
        memory=memory,
        memory_limit=limit if limit is not None and limit < _UNLIMITED else _machine_memory(),
        received=received,
        sent=sent,
        read=bytes_read,
        written=written,
        processes=_tasks(group, pids),
    )


def _less_cache(directory: str, file: str, cache: str) -> int:
    """Memory without the cache of files that was not used lately, which nobody is kept from having: as docker counts it."""
    used = number(read(f"{directory}/{file}")) or 0
    return max(0, used - table(read(f"{directory}/memory.stat")).get(cache, 0))


def _tasks(group: Cgroup, pids: list[int]) -> int:
    directory = group.paths.get("unified") or group.paths.get("pids", "")
    return number(read(directory + "/pids.current")) or len(pids)


def _proportional(pids: list[int]) -> int:
    """The memory of the processes, what they share with others counted in parts."""
    total = 0
    for pid in pids:
        for line in read(f"/proc/{pid}/smaps_rollup").splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1]) << 10
    return total


def _cpu_of(pid: int) -> int:
    """What a process has used, and those of its children that it has waited for: proc(5), /proc/pid/stat."""
    fields = read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) * _TICK


def _io_of(pid: int) -> tuple[int, int]:
    counts = dict(line.split(": ") for line in read(f"/proc/{pid}/io").splitlines() if ": " in line)
    return int(counts.get("read_bytes", 0)), int(counts.get("write_bytes", 0))


def _network(pid: int) -> tuple[int, int]:
    """Bytes that came and went by all interfaces of the process' network but loopback."""
    received = sent = 0
    for line in read(f"/proc/{pid}/net/dev").splitlines()[2:]:
        name, _, numbers = line.partition(":")
        if name.strip() != "lo":
            words = numbers.split()
            received, sent = received + int(words[0]), sent + int(words[8])
    return received, sent


def _machine_memory() -> int:
    for line in read("/proc/meminfo").splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) << 10
    return 0
