"""Why a container ended badly: what its control groups, the kernel's log and its exit status say. Imported only when one did."""

import os
import time

from runtime.cgroup_files import number, read, table
from runtime.cgroups import Cgroup
from runtime.spec import Outcome, Spec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

SIGSYS, SIGKILL = 31, 9
# Of those that a program dies of by its own fault, or by the kernel's hand; a shell says 128 + N.
_CRASHES = (4, 5, 6, 7, 8, 9, 11, SIGSYS)
_UNLIMITED = 1 << 62  # v1 and v2 say "no limit" by numbers beyond
_SLACK = 1.0  # seconds that the clock of the kernel's log may differ
_PATIENCE = 0.2  # seconds in which the kernel's thread is expected to have written a line to its log
_RECORD = 8192


def cause(spec: Spec, outcome: Outcome, pid: int, since: float, group: Cgroup | None, *, filtered: bool) -> str:
    """The reasons that there are for `outcome` of the process `pid`, which was born at `since` (unix time); may be empty.

    `filtered` says that its system call filter killed it (runtime.refusals.state_of). `group` is there still.
    """
    clauses = []
    killed = outcome.signal == SIGKILL or outcome.status == 128 + SIGKILL
    memory = _of_memory(group, pid, since, spec.id) if outcome.oom or killed else ""
    if memory:
        clauses.append(memory)
    if outcome.pids_refused:
        times = "once" if outcome.pids_refused == 1 else f"{outcome.pids_refused} times"
        clauses.append(f"it was refused another process {times}: its limit is {spec.pids_limit} (--pids-limit)")
    refused = _of_filter(spec, outcome, pid, since, filtered=filtered)
    if refused:
        clauses.append(refused)
    elif outcome.signal is not None and not memory:
        clauses.append(f"it was killed by {_name(outcome.signal)}")
    elif outcome.status - 128 in _CRASHES and not memory:
        clauses.append(
            f"it ended with status {outcome.status}, as a shell does when a program was killed by {_name(outcome.status - 128)}"
        )
    text = "; ".join(clauses)
    return "the container" + text.removeprefix("it") if text.startswith("it ") else text


def _name(signal: int) -> str:
    from signal import Signals, strsignal

    try:
        name = Signals(signal).name
    except ValueError:
        name = f"signal {signal}"
    about = strsignal(signal) if signal in _CRASHES and signal != SIGKILL else None
    return f"{name} ({about.lower()})" if about else name


# --- memory -----------------------------------------------------------------------------------------------------------------


def _of_memory(group: Cgroup | None, pid: int, since: float, identity: str) -> str:
    kills = group.oom_kills() if group is not None else 0
    limit = _reached(group) if group is not None and kills else ""
    if limit:
        return f"it ran out of memory: {limit} was reached, and the kernel killed {_processes(kills)}"
    for line in _killings(since):
        if line.get("pid") != str(pid) and not line.get("task_memcg", "").endswith("/" + identity):
            continue
        above = line.get("oom_memcg", "")
        if "MEMCG" in line.get("constraint", "") and not above.endswith("/" + identity):
            return f"it was killed because the control group {above} ran out of memory"
        return "it was killed because this machine ran out of memory"
    return f"it ran out of memory, and the kernel killed {_processes(kills)}" if kills else ""


def _processes(count: int) -> str:
    return "a process" if count == 1 else f"{count} processes"


def _reached(group: Cgroup) -> str:
    """The limit of the group that was reached, if it was one of its own."""
    v2, v1 = group.paths.get("unified", ""), group.paths.get("memory", "")
    if v2:
        limit = number(read(v2 + "/memory.max"))
        swap = number(read(v2 + "/memory.swap.max"))
        if limit is None or limit >= _UNLIMITED or not table(read(v2 + "/memory.events")).get("oom"):
            return ""
        both = swap is not None and 0 < swap < _UNLIMITED
        return (
            f"the limit of {_size(limit + (swap or 0))} of memory and swap (--memory-swap)" if both else _of_memory_alone(limit)
        )
    both_limit, limit = (number(read(f"{v1}/memory.{kind}limit_in_bytes")) for kind in ("memsw.", ""))
    if number(read(v1 + "/memory.memsw.failcnt")) and both_limit is not None and limit is not None and both_limit > limit:
        return f"the limit of {_size(both_limit)} of memory and swap (--memory-swap)"
    if limit is not None and limit < _UNLIMITED and number(read(v1 + "/memory.failcnt")):
        return _of_memory_alone(limit)
    return ""


def _of_memory_alone(limit: int) -> str:
    return f"the limit of {_size(limit)} (--memory)"


def _size(count: int) -> str:
    amount = float(count)
    for unit in ("bytes", "KiB", "MiB"):
        if amount < 1024:
            return f"{amount:.4g} {unit}"
        amount /= 1024
    return f"{amount:.4g} GiB"


def _killings(since: float) -> "Iterator[dict[str, str]]":
    """What the kernel's log says of its OOM killer's choices since then, by field: mm/oom_kill.c, dump_oom_victim.

    Its times are of a clock that began at boot.
    """
    begin = time.clock_gettime(time.CLOCK_MONOTONIC) - (time.time() - since) - _SLACK
    for head, body in log():
        if body.startswith("oom-kill:") and int(head.split(",")[2]) / 1e6 >= begin and int(head.split(",")[0]) <= 7:
            yield dict(field.split("=", 1) for field in body[len("oom-kill:") :].split("\n")[0].split(",") if "=" in field)


def log() -> "Iterator[tuple[str, str]]":
    """The records of the kernel's log, oldest first: head and body. There are none where it cannot be read."""
    try:
        fd = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return
    try:
        while True:
            try:
                head, _, body = os.read(fd, _RECORD).decode("utf-8", "replace").partition(";")
            except BrokenPipeError:
                continue  # overwritten meanwhile
            except OSError:
                return  # EAGAIN: that was all
            yield head, body
    finally:
        os.close(fd)


# --- system calls -----------------------------------------------------------------------------------------------------------


def _of_filter(spec: Spec, outcome: Outcome, pid: int, since: float, *, filtered: bool) -> str:
    from runtime.refusals import explained, refusals

    if outcome.signal == SIGSYS:
        deadline = time.monotonic() + _PATIENCE
        while True:
            found = [each for each in refusals(since, [pid]) if each.signal == SIGSYS]
            if found:
                return explained(found[-1])
            if not filtered or time.monotonic() > deadline:
                break
            time.sleep(0.005)
        return "its system call filter killed it; the kernel's log does not say for which call" if filtered else ""
    if not spec.log_refusals:
        return ""
    # The log does not know containers. Whoever else lives cannot have been in this one, all of which has ended.
    names = dict.fromkeys(each.name for each in refusals(since) if each.pid == pid or not os.path.exists(f"/proc/{each.pid}"))
    return f"its system call filter refused {', '.join(names)}" if names else ""
