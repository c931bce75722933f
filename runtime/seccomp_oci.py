"""`linux.seccomp` of a config.json: compiled, and asked which of its rules answers a call.

The verdicts are those of runc with libseccomp, since that is what profiles are written for:

- a rule whose action is the default one is no rule; a name that no table has is none either;
- an unconditional rule beats every conditional one of its call, the first of two beats the second;
- the conditions of a rule hold together, but are rules of their own when two ask about one argument;
- of conditional rules that overlap, the one that asks about the later argument decides, then equality before "less" before
  "greater", then the narrower; a rule that asks less about the same arguments comes before one that asks more;
- 32-bit calls are compared in 32 bits; those of i386 that have a number of their own and go through socketcall(2) or ipc(2) too
  are decided on both ways;
- where the default refuses, a call that is later than every one the profile names answers ENOSYS, so that a program tries an
  older one (runc's stub; docker's profile counts on it);
- an architecture that the profile does not list is killed, and the machine's own is always listed.

Sources: config-linux.md of runtime-spec 1.2, seccomp_rule_add(3), include/uapi/linux/net.h and ipc.h.
"""

from runtime.seccomp import X32_BIT, Compare, Door, Rule, assemble_doors
from runtime.seccomp_policy import ALLOW, ERRNO, KILL_THREAD, LOG, TRACE, Condition, Entry, Policy
from store.errors import RunError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_PERMISSIVE = (ALLOW, LOG)  # and TRACE: a tracer answers what is unknown itself
_NO_SUCH_CALL = ERRNO | 38  # ENOSYS
# What a machine's kernel can be called as, its own first.
_WAYS = {"x86_64": ("x86_64", "x32", "i386"), "aarch64": ("aarch64", "arm")}
_NARROW = ("i386", "x32", "arm")

# i386's calls that are also, or only, made through another one, with the number of the operation as its first argument.
_SOCKETCALL, _IPC = 102, 117
_SOCKETCALLS = """
    socket bind connect listen accept getsockname getpeername socketpair send recv sendto recvfrom shutdown setsockopt getsockopt
    sendmsg recvmsg accept4 recvmmsg sendmmsg
"""
_THROUGH = {
    name: (_SOCKETCALL, operation)
    for operation, name in enumerate(_SOCKETCALLS.split(), 1)
} | {
    "semop": (_IPC, 1), "semget": (_IPC, 2), "semctl": (_IPC, 3), "semtimedop": (_IPC, 4),
    "msgsnd": (_IPC, 11), "msgrcv": (_IPC, 12), "msgget": (_IPC, 13), "msgctl": (_IPC, 14),
    "shmat": (_IPC, 21), "shmdt": (_IPC, 22), "shmget": (_IPC, 23), "shmctl": (_IPC, 24),
}  # fmt: skip

_FULL, _LOW = 2**64 - 1, 2**32 - 1


class _Placed(Rule):
    """A rule that remembers where in the profile it comes from."""

    __slots__ = ("place",)

    def __init__(self, place: int, action: int, when: tuple[Compare, ...]) -> None:
        super().__init__(action, *when)
        self.place = place


def compile_policy(policy: Policy, machine: str) -> bytes:
    """The program for this machine, 8 bytes an instruction."""
    from runtime.syscall_tables import NUMBERS

    if machine not in _WAYS:
        raise RunError(
            f"box has no system call filter for {machine}", hint="without linux.seccomp the container runs without one"
        )
    doors = []
    for way in _ways(policy, machine):
        treatments = _treatments(policy, way, NUMBERS[way])
        door = Door("x86_64" if way == "x32" else way, treatments, otherwise=policy.default)
        if way == "x32":
            door.first, door.last = X32_BIT, _LOW - 1
        elif way == "x86_64":
            door.last = X32_BIT - 1
        else:
            door.last = _LOW - 1
        door.beyond, door.later = _later(policy, way, NUMBERS[way]), _NO_SUCH_CALL
        doors.append(door)
        if way != "x32":  # -1 is a call that a tracer has already answered
            doors.append(Door(way, {}, otherwise=policy.default, first=_LOW))
    try:
        return assemble_doors(doors, KILL_THREAD)
    except ValueError as err:
        raise RunError(f"linux.seccomp: {err}", hint="it needs fewer conditions") from err


class Verdict:
    """What becomes of a call: `action` (SECCOMP_RET_*), and `why`, the JSON path of what says so; empty, if that depends on the
    arguments."""

    __slots__ = ("action", "why")

    def __init__(self, action: int, why: str) -> None:
        self.action = action
        self.why = why


def explain(policy: Policy, machine: str, way: str, number: int, arguments: "Sequence[int]" = ()) -> Verdict:
    """Which of a profile's lines answers call `number` of `way` ("x86_64", "i386", ...): found by reading, not by running the
    program. Without arguments, none are known: a line that asks about them may be the one."""
    from runtime.syscall_tables import NUMBERS

    if way not in _ways(policy, machine):
        return Verdict(KILL_THREAD, f"linux.seccomp.architectures does not list {way}")
    given = (*arguments, 0, 0, 0, 0, 0, 0)[:6]
    for rule in _treatments(policy, way, NUMBERS[way]).get(number, []):
        if rule.when and not arguments:
            return Verdict(rule.action, "")
        if all(_holds(condition, given) for condition in rule.when):
            return Verdict(rule.action, f"linux.seccomp.syscalls[{rule.place}]")
    beyond = _later(policy, way, NUMBERS[way])
    if beyond and beyond <= number < _LOW:
        return Verdict(_NO_SUCH_CALL, "it is later than every call that linux.seccomp.syscalls names")
    return Verdict(policy.default, "linux.seccomp.defaultAction")


def _ways(policy: Policy, machine: str) -> list[str]:
    own, *others = _WAYS[machine]
    return [own, *[way for way in others if way in policy.architectures]]


def _later(policy: Policy, way: str, numbers: "Mapping[str, int]") -> int:
    """The number from which on calls answer ENOSYS; 0: none does."""
    if policy.default in _PERMISSIVE or policy.default >> 16 == TRACE >> 16 or way not in policy.architectures:
        return 0
    last = max([numbers[name] for entry in policy.entries for name in entry.names if name in numbers], default=0)
    return last + 1 if last else 0


def _treatments(policy: Policy, way: str, numbers: "Mapping[str, int]") -> "dict[int, list[_Placed]]":
    """The rules of every number that has some, in the order in which they decide."""
    found: dict[int, list[_Placed]] = {}
    for entry in policy.entries:
        if entry.action == policy.default:
            continue
        for name in entry.names:
            if name in numbers:
                found.setdefault(numbers[name], []).append(_placed(entry, entry.conditions, way))
            if way == "i386" and name in _THROUGH:
                number, operation = _THROUGH[name]
                rest = [condition for condition in entry.conditions if condition.argument]
                conditions = (Condition(0, "==", operation, _FULL), *rest)
                found.setdefault(number, []).append(_placed(entry, conditions, way))
    return {number: _ordered(rules) for number, rules in found.items()}


def _placed(entry: Entry, conditions: "Sequence[Condition]", way: str) -> _Placed:
    width = _LOW if way in _NARROW else _FULL
    when = []
    for held in conditions:
        mask = held.mask & width
        operator = "==" if held.operator == "&" else held.operator
        if mask:
            when.append(Compare(held.argument, operator, held.value & mask, mask=mask))
    return _Placed(entry.place, entry.action, tuple(sorted(when, key=lambda compare: compare.argument)))


def _ordered(rules: list[_Placed]) -> list[_Placed]:
    for rule in rules:
        if not rule.when:
            return [rule]
    seen: dict[tuple[int, int, bool, int], int] = {}
    return sorted(rules, key=lambda rule: [rank for compare in rule.when for rank in _ranks(compare, seen)])


def _ranks(compare: Compare, seen: "dict[tuple[int, int, bool, int], int]") -> "list[tuple[int, int, int, int]]":
    """Where a condition stands: half by half of its 64 bits, as they are compared; what is equal there, as it was `seen`."""
    ranks = []
    for half in (1, 0):
        mask, value = compare.mask >> 32 * half & _LOW, compare.value >> 32 * half & _LOW
        if mask:
            place = 2 * compare.argument + half
            kind = 1 if compare.operator in ("<", "<=") else 0 if compare.operator in ("==", "!=") else 2
            node = (place, mask, kind > 0, value)
            ranks.append((-place, kind, value if kind == 1 else -value, seen.setdefault(node, len(seen))))
    return ranks


def _holds(compare: Compare, arguments: "Sequence[int]") -> bool:
    left, right = arguments[compare.argument] & compare.mask, compare.value
    return {
        "==": left == right, "!=": left != right, "<": left < right, "<=": left <= right, ">": left > right, ">=": left >= right,
    }[compare.operator]  # fmt: skip
