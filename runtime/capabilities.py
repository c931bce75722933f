"""Capabilities: their names and numbers, the default sets, and what the command line makes of them.

A set of capabilities is an int, bit N for capability N. Hot: `box run` imports it. Sources: capabilities(7), linux/capability.h.
"""

from store.errors import RunError, UsageError
from store.syscalls import buffer, libc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

# In the order of their numbers, from 0 (Linux 5.9 added the last).
NAMES = (
    "CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP", "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW", "IPC_LOCK", "IPC_OWNER", "SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT",
    "SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN", "SYS_BOOT", "SYS_NICE", "SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD",
    "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP", "MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM", "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON", "BPF", "CHECKPOINT_RESTORE",
)  # fmt: skip
ALL = (1 << len(NAMES)) - 1

VERSION_3 = 0x20080522  # of capget and capset


def mask_of(names: "Iterable[str]") -> int:
    """The set of these capabilities, each named in any case, with or without `CAP_`. A name nobody knows is a UsageError."""
    mask = 0
    for name in names:
        mask |= 1 << _number(name)
    return mask


def names_of(mask: int) -> list[str]:
    """The names of a set's members, in the order of their numbers."""
    return [name for number, name in enumerate(NAMES) if mask >> number & 1]


def _number(name: str) -> int:
    try:
        return NAMES.index(name.upper().removeprefix("CAP_"))
    except ValueError:
        pass
    import difflib

    near = difflib.get_close_matches(name.upper().removeprefix("CAP_"), NAMES, 1)
    hint = f"did you mean {near[0]}?" if near else "capabilities(7) lists them; box takes them with or without CAP_"
    raise UsageError(f"unknown capability {name!r}", hint=hint)


RUN_DEFAULT = mask_of(("CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "NET_BIND_SERVICE", "SETGID", "SETUID"))
BUILD_DEFAULT = RUN_DEFAULT | mask_of(("SETFCAP", "SETPCAP", "SYS_CHROOT"))


def adjust(default: int, add: "Iterable[str]", drop: "Iterable[str]", *, held: int = ALL) -> int:
    """The set that `--cap-add` and `--cap-drop` make of `default`. One dropped stays dropped, and ALL is every one.

    `held` is what box itself has to give: ALL is no more than that, and to add by name what it lacks is a RunError. A mistake
    imports difflib for its hint.
    """
    added, add_all = _split(add)
    dropped, drop_all = _split(drop)
    if add_all and drop_all:
        raise UsageError("all capabilities are both added and dropped", hint="keep one of --cap-add ALL and --cap-drop ALL")
    contradiction = names_of(added & dropped)
    if contradiction:
        raise UsageError(f"{contradiction[0]} is both added and dropped", hint="name it in one of --cap-add and --cap-drop")
    lacking = names_of(added & ~held)
    if lacking:
        raise RunError(
            f"box itself lacks {', '.join(lacking)}", hint="what it lacks it cannot give: see CapPrm in /proc/self/status"
        )
    if drop_all:
        return added
    return (held if add_all else default | added) & ~dropped


def permitted() -> int:
    """What the calling thread may use: the most that it can leave to a container."""
    memory, _ = buffer(24)
    libc("capget", VERSION_3.to_bytes(4, "little") + bytes(4), memory)  # pid 0: the calling thread
    data = bytes(memory)
    # struct __user_cap_data_struct[2]: effective, permitted, inheritable; the low words, then the high ones.
    return int.from_bytes(data[4:8] + data[16:20], "little")


def _split(names: "Iterable[str]") -> tuple[int, bool]:
    given = list(names)
    plain = [name for name in given if name.upper() not in ("ALL", "CAP_ALL")]
    return mask_of(plain), len(plain) != len(given)


SYS_CHROOT = mask_of(("SYS_CHROOT",))
