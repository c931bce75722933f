"""When a bundle's process gets a processor, which one, and where its memory lies: scheduler, ioPriority, execCPUAffinity,
memoryPolicy. Sources: sched_setattr(2), ioprio_set(2), set_mempolicy(2); OCI runtime-spec, config.md and config-linux.md."""

from runtime.bundle import Place, Process
from runtime.program import Program
from store.errors import RunError

POLICIES = {
    "SCHED_OTHER": 0, "SCHED_FIFO": 1, "SCHED_RR": 2, "SCHED_BATCH": 3, "SCHED_ISO": 4, "SCHED_IDLE": 5, "SCHED_DEADLINE": 6,
}  # fmt: skip
_SCHED_FLAGS = {
    "SCHED_FLAG_RESET_ON_FORK": 1, "SCHED_FLAG_RECLAIM": 2, "SCHED_FLAG_DL_OVERRUN": 4, "SCHED_FLAG_KEEP_POLICY": 8,
    "SCHED_FLAG_KEEP_PARAMS": 16, "SCHED_FLAG_UTIL_CLAMP_MIN": 32, "SCHED_FLAG_UTIL_CLAMP_MAX": 64,
}  # fmt: skip
_IO_CLASSES = {"IOPRIO_CLASS_RT": 1, "IOPRIO_CLASS_BE": 2, "IOPRIO_CLASS_IDLE": 3}
MEMORY_MODES = {
    "MPOL_DEFAULT": 0, "MPOL_PREFERRED": 1, "MPOL_BIND": 2, "MPOL_INTERLEAVE": 3, "MPOL_LOCAL": 4, "MPOL_PREFERRED_MANY": 5,
    "MPOL_WEIGHTED_INTERLEAVE": 6,
}  # fmt: skip
MEMORY_FLAGS = {"MPOL_F_STATIC_NODES": 1 << 15, "MPOL_F_RELATIVE_NODES": 1 << 14, "MPOL_F_NUMA_BALANCING": 1 << 13}
_MOST = 4095  # in a list of processors or nodes
_WITHOUT_NODES = ("MPOL_DEFAULT", "MPOL_LOCAL")


def emit_scheduling(program: Program, process: Process) -> None:
    """Add `process.scheduler` and `process.ioPriority`."""
    scheduler = process.scheduler
    if scheduler.value is not None:
        policy = scheduler.get("policy").choice(*POLICIES, default="SCHED_OTHER")
        flags = 0
        for item in scheduler.get("flags").each():
            flags |= _SCHED_FLAGS[item.choice(*_SCHED_FLAGS, default="SCHED_FLAG_RESET_ON_FORK")]
        # struct sched_attr: size, policy, flags, nice, priority, runtime, deadline, period.
        attributes = b"".join(
            [
                (48).to_bytes(4, "little"),
                POLICIES[policy].to_bytes(4, "little"),
                flags.to_bytes(8, "little"),
                scheduler.get("nice").number(least=-20, most=19).to_bytes(4, "little", signed=True),
                scheduler.get("priority").number(most=99).to_bytes(4, "little"),
                *[scheduler.get(key).number().to_bytes(8, "little") for key in ("runtime", "deadline", "period")],
            ]
        )
        program.call("sched_setattr", 0, attributes, 0, action=f"set process.scheduler to {policy}")
    priority = process.io_priority
    if priority.value is not None:
        kind = _IO_CLASSES[priority.get("class").choice(*_IO_CLASSES, default="IOPRIO_CLASS_BE")]
        level = priority.get("priority").number(most=7)
        program.call("ioprio_set", 1, 0, kind << 13 | level, action="set process.ioPriority")


def emit_affinity(program: Program, process: Process, when: str) -> None:
    """Add the processors that `process.execCPUAffinity` names: "initial" before the control groups are joined, "final" behind
    that."""
    place = process.affinity.get(when)
    if place.text():
        mask = number_mask(place.text(), place, "processors")
        program.call("sched_setaffinity", 0, len(mask), mask, action=f"set process.execCPUAffinity.{when} to {place.text()}")


def emit_memory_policy(program: Program, place: Place) -> None:
    """Add `linux.memoryPolicy`, which stands at `place`. Raises RunError."""
    if place.missing():
        return
    mode = place.get("mode").choice(*MEMORY_MODES)
    if not mode:
        raise place.get("mode").wrong("one of " + ", ".join(MEMORY_MODES))
    number = MEMORY_MODES[mode]
    for item in place.get("flags").each():
        flag = item.choice(*MEMORY_FLAGS)
        if not flag:
            raise item.wrong("one of " + ", ".join(MEMORY_FLAGS))
        number |= MEMORY_FLAGS[flag]
    nodes = place.get("nodes")
    if nodes.text() and mode in _WITHOUT_NODES:
        raise RunError(f"config.json: {nodes.path} is set, but {mode} takes no nodes")
    if not nodes.text() and mode not in (*_WITHOUT_NODES, "MPOL_PREFERRED"):  # without nodes, that one means the local node
        raise nodes.wrong(f"a list of memory nodes, such as 0-1, which {mode} takes")
    mask = number_mask(nodes.text(), nodes, "memory nodes") if nodes.text() else b""
    # The kernel takes one bit less than it is told.
    said = f"set linux.memoryPolicy to {mode} {nodes.text()}".rstrip()
    program.call("set_mempolicy", number, mask or None, 8 * len(mask) + 1 if mask else 0, action=said)


def number_mask(text: str, place: Place, what: str) -> bytes:
    """The mask of a list of `what` such as `0-3,7`."""
    mask = 0
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdigit() or (dash and not last.isdigit()) or int(last or first) > _MOST:
            raise place.wrong(f"a list of {what}, such as 0-3,7")
        for number in range(int(first), int(last or first) + 1):
            mask |= 1 << number
    length = max(8, -(-mask.bit_length() // 64) * 8)
    return mask.to_bytes(length, "little")
