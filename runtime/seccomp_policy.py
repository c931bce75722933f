"""`linux.seccomp` of a config.json, read: every field looked at, nothing compiled.

Sources: config-linux.md of runtime-spec 1.2; seccomp_rule_add(3) for the meaning of the conditions; linux/seccomp.h.
"""

from store.errors import RunError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

ALLOW, KILL, ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
KILL_THREAD, TRAP, NOTIFY, TRACE, LOG = 0, 0x00030000, 0x7FC00000, 0x7FF00000, 0x7FFC0000
_EPERM = 1
_MOST_ERRNO = 4095  # MAX_ERRNO: the kernel cuts what is above

FLAG_LOG, FLAG_SPEC_ALLOW, FLAG_NEW_LISTENER, FLAG_WAIT_KILLABLE = 2, 4, 8, 32

ACTIONS = {
    "SCMP_ACT_KILL": KILL_THREAD,
    "SCMP_ACT_KILL_THREAD": KILL_THREAD,
    "SCMP_ACT_KILL_PROCESS": KILL,
    "SCMP_ACT_TRAP": TRAP,
    "SCMP_ACT_ERRNO": ERRNO,
    "SCMP_ACT_TRACE": TRACE,
    "SCMP_ACT_ALLOW": ALLOW,
    "SCMP_ACT_LOG": LOG,
    "SCMP_ACT_NOTIFY": NOTIFY,
}
_WITH_ERRNO = ("SCMP_ACT_ERRNO", "SCMP_ACT_TRACE")
# TSYNC needs nothing: the process that installs the filter has one thread.
FLAGS = {
    "SECCOMP_FILTER_FLAG_TSYNC": 0,
    "SECCOMP_FILTER_FLAG_LOG": FLAG_LOG,
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW": FLAG_SPEC_ALLOW,
    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV": FLAG_WAIT_KILLABLE,
}
OPERATORS = {
    "SCMP_CMP_NE": "!=",
    "SCMP_CMP_LT": "<",
    "SCMP_CMP_LE": "<=",
    "SCMP_CMP_EQ": "==",
    "SCMP_CMP_GE": ">=",
    "SCMP_CMP_GT": ">",
    "SCMP_CMP_MASKED_EQ": "&",
}
_ELSEWHERE = """
    MIPS MIPS64 MIPS64N32 MIPSEL MIPSEL64 MIPSEL64N32 PPC PPC64 PPC64LE S390 S390X RISCV64 PARISC PARISC64 LOONGARCH64 M68K SH
    SHEB
"""
# The name in config.json -> the tables'; None: an architecture that is real and never this machine's.
ARCHITECTURES = {
    "SCMP_ARCH_X86": "i386",
    "SCMP_ARCH_X86_64": "x86_64",
    "SCMP_ARCH_X32": "x32",
    "SCMP_ARCH_ARM": "arm",
    "SCMP_ARCH_AARCH64": "aarch64",
} | dict.fromkeys([f"SCMP_ARCH_{name}" for name in _ELSEWHERE.split()])
_FULL = 2**64 - 1


class Condition:
    """`argument` & mask OPERATOR value, as config.json has it."""

    __slots__ = ("argument", "mask", "operator", "value")

    def __init__(self, argument: int, operator: str, value: int, mask: int) -> None:
        self.argument = argument
        self.operator = operator
        self.value = value
        self.mask = mask


class Entry:
    """linux.seccomp.syscalls[place], with its meaning."""

    __slots__ = ("action", "conditions", "names", "place")

    def __init__(self, place: int, names: list[str], action: int, conditions: tuple[Condition, ...]) -> None:
        self.place = place
        self.names = names
        self.action = action
        self.conditions = conditions


class Policy:
    """A profile that was read. `architectures` are names of runtime.syscall_tables, without those of other machines."""

    __slots__ = ("architectures", "default", "entries", "flags", "listener_metadata", "listener_path")

    def __init__(self) -> None:
        self.default = ALLOW
        self.architectures: list[str] = []
        self.entries: list[Entry] = []
        self.flags = 0
        self.listener_path = ""
        self.listener_metadata = ""

    def notifies(self) -> bool:
        """Whether some call is answered by an agent: then the filter has a listener, whose flag is in `flags`."""
        return self.default == NOTIFY or any(entry.action == NOTIFY for entry in self.entries)


def read(profile: object) -> Policy:
    """Read `linux.seccomp`. Every mistake is a RunError that names its JSON path."""
    where = "linux.seccomp"
    given = _mapping(profile, where)
    policy = Policy()
    policy.default = _action(given, "defaultAction", "defaultErrnoRet", where)
    for index, name in enumerate(_list(given, "architectures", where)):
        if not isinstance(name, str) or name not in ARCHITECTURES:
            raise RunError(
                f"{where}.architectures[{index}]: {name!r} is not an architecture", hint="SCMP_ARCH_X86_64, for example"
            )
        known = ARCHITECTURES[name]
        if known and known not in policy.architectures:
            policy.architectures.append(known)
    for place, entry in enumerate(_list(given, "syscalls", where)):
        policy.entries += _entries(place, entry)
    policy.flags = _flags(given, where)
    policy.listener_path = _string(given, "listenerPath", where)
    policy.listener_metadata = _string(given, "listenerMetadata", where)
    if policy.listener_metadata and not policy.listener_path:
        raise RunError(f"{where}.listenerMetadata: there is no listenerPath to send it to")
    if policy.notifies():
        if not policy.listener_path.startswith("/"):
            raise RunError(
                f"{where}.listenerPath: {policy.listener_path!r} is not an absolute path", hint="SCMP_ACT_NOTIFY needs an agent"
            )
        policy.flags |= FLAG_NEW_LISTENER
    else:
        policy.flags &= ~FLAG_WAIT_KILLABLE  # it is about waiting for an agent, and the kernel refuses it without one
    return policy


def _entries(place: int, given: object) -> list[Entry]:
    where = f"linux.seccomp.syscalls[{place}]"
    entry = _mapping(given, where)
    names = _list(entry, "names", where)
    calls = [name for name in names if isinstance(name, str) and name]
    if not calls or len(calls) < len(names):
        raise RunError(f"{where}.names: {names!r} is not a list of system calls")
    action = _action(entry, "action", "errnoRet", where)
    conditions = [_condition(held, f"{where}.args[{index}]") for index, held in enumerate(_list(entry, "args", where))]
    if len({condition.argument for condition in conditions}) < len(conditions):
        return [Entry(place, calls, action, (condition,)) for condition in conditions]
    return [Entry(place, calls, action, tuple(conditions))]


def _condition(given: object, where: str) -> Condition:
    held = _mapping(given, where)
    argument = _required(held, "index", 5, where)
    name = held.get("op")
    if not isinstance(name, str) or name not in OPERATORS:
        raise RunError(f"{where}.op: {name!r} is not an operator", hint=", ".join(OPERATORS))
    value = _required(held, "value", _FULL, where)
    second = _number(held, "valueTwo", _FULL, where)
    operator = OPERATORS[name]
    if operator == "&":
        return Condition(argument, operator, second or 0, value)
    return Condition(argument, operator, value, _FULL)


def _action(given: "Mapping[str, object]", key: str, errno_key: str, where: str) -> int:
    name = given.get(key)
    if not isinstance(name, str) or name not in ACTIONS:
        raise RunError(f"{where}.{key}: {name!r} is not an action", hint=", ".join(ACTIONS))
    number = _number(given, errno_key, _MOST_ERRNO, where)
    if name not in _WITH_ERRNO:
        if number is not None:
            raise RunError(f"{where}.{errno_key}: {name} has no errno", hint=f"only {' and '.join(_WITH_ERRNO)} have")
        return ACTIONS[name]
    return ACTIONS[name] | (_EPERM if number is None else number)


def _flags(given: "Mapping[str, object]", where: str) -> int:
    if given.get("flags") is None:
        # As runc: without it an old processor may run every filtered process slower; one that wants it so has prctl(2).
        return FLAG_SPEC_ALLOW
    flags = 0
    for index, name in enumerate(_list(given, "flags", where)):
        if not isinstance(name, str) or name not in FLAGS:
            raise RunError(f"{where}.flags[{index}]: {name!r} is not a flag", hint=", ".join(FLAGS))
        flags |= FLAGS[name]
    return flags


def _mapping(given: object, where: str) -> "dict[str, object]":
    if not isinstance(given, dict):
        raise RunError(f"{where}: {given!r} is not an object")
    return given


def _list(given: "Mapping[str, object]", key: str, where: str) -> "list[object]":
    value = given.get(key)
    if value is None:
        return []
    if not isinstance(value, list):
        raise RunError(f"{where}.{key}: {value!r} is not an array")
    return value


def _string(given: "Mapping[str, object]", key: str, where: str) -> str:
    value = given.get(key)
    if value is None:
        return ""
    if not isinstance(value, str) or "\0" in value:
        raise RunError(f"{where}.{key}: {value!r} is not a string")
    return value


def _number(given: "Mapping[str, object]", key: str, most: int, where: str) -> "int | None":
    return None if given.get(key) is None else _required(given, key, most, where)


def _required(given: "Mapping[str, object]", key: str, most: int, where: str) -> int:
    value = given.get(key)
    if type(value) is not int or not 0 <= value <= most:
        raise RunError(f"{where}.{key}: {value!r} is not a number from 0 to {most}")
    return value
