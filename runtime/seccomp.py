"""The compiler of system call filters: a profile in, a classic BPF program for one machine out.

The numbers of the calls become ranges of equal treatment, and the program a balanced search over them: about eight comparisons
decide a call, where a list takes hundreds. Installing gets cheaper too, for the kernel runs a new filter once for every number
to learn which calls it always allows. Sources: seccomp(2), linux/seccomp.h, linux/bpf_common.h, linux/audit.h.
"""

from runtime.syscall_numbers import NUMBERS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

ALLOW = 0x7FFF0000  # SECCOMP_RET_ALLOW
KILL = 0x80000000  # SECCOMP_RET_KILL_PROCESS

# AUDIT_ARCH_*: the ELF machine, 64-bit, little-endian.
ARCHITECTURES = {"x86_64": 0xC000003E, "i386": 0x40000003, "aarch64": 0xC00000B7, "arm": 0x40000028}
X32_BIT = 0x40000000
_MOST = 4096  # BPF_MAXINSNS
_FULL = 2**64 - 1

# struct seccomp_data: nr, arch, instruction_pointer, args[6].
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16
_LOAD, _AND, _RETURN, _JUMP = 0x20, 0x54, 0x06, 0x05  # BPF_LD|W|ABS, BPF_ALU|AND|K, BPF_RET|K, BPF_JMP|JA
_EQUAL, _GREATER, _AT_LEAST = 0x15, 0x25, 0x35  # BPF_JMP|BPF_K with JEQ, JGT, JGE: unsigned


def errno(number: int) -> int:
    """The action that fails the call with this error."""
    return 0x00050000 | number  # SECCOMP_RET_ERRNO


class Compare:
    """A condition on argument `argument` (0 to 5): `argument & mask OPERATOR value`, all unsigned and 64 bits wide."""

    __slots__ = ("argument", "mask", "operator", "value")

    def __init__(self, argument: int, operator: str, value: int, mask: int = _FULL) -> None:
        if operator not in ("==", "!=", "<", "<=", ">", ">=") or not 0 <= argument <= 5:
            raise ValueError(f"argument {argument} {operator}")
        if not 0 <= value <= _FULL or not 0 <= mask <= _FULL:
            raise ValueError(f"{value:#x} & {mask:#x} does not fit 64 bits")
        self.argument = argument
        self.operator = operator
        self.value = value
        self.mask = mask


class Rule:
    """`action` (ALLOW, KILL, errno(N), or another SECCOMP_RET_* value) if all conditions hold; without one, always."""

    __slots__ = ("action", "when")

    def __init__(self, action: int, *when: Compare) -> None:
        self.action = action
        self.when = when


class Profile:
    """What becomes of each call. Of a call's rules the first that holds decides.

    `refused` is for a call that exists and has no rule that holds, `unknown` for a number that the tables do not have,
    `foreign` for a call of another architecture than the machine's own (i386 and x32 on x86_64), which is told before anything
    else. Names that a machine does not have are left out there.
    """

    __slots__ = ("foreign", "refused", "rules", "unknown")

    def __init__(self, rules: "Mapping[str, tuple[Rule, ...]]", *, refused: int, unknown: int, foreign: int) -> None:
        self.rules = rules
        self.refused = refused
        self.unknown = unknown
        self.foreign = foreign


class Door:
    """One set of numbers by which a kernel is called, and what becomes of each.

    `architecture` is of ARCHITECTURES; the numbers are `first` to `last`. A number that `treatments` has goes through its rules,
    of which the first that holds decides; with none, and where no rule holds, it gets `otherwise`. From `beyond` on, if that is
    not 0, it gets `later` instead.
    """

    __slots__ = ("architecture", "beyond", "first", "last", "later", "otherwise", "treatments")

    def __init__(
        self, architecture: str, treatments: "Mapping[int, Sequence[Rule]]", *, otherwise: int,
        first: int = 0, last: int = 0xFFFFFFFF, beyond: int = 0, later: int = 0,
    ) -> None:  # fmt: skip
        self.architecture = architecture
        self.treatments = treatments
        self.otherwise = otherwise
        self.first = first
        self.last = last
        self.beyond = beyond
        self.later = later


def machines() -> "Iterable[str]":
    """The machines, as uname(2) names them, that filters can be compiled for."""
    return NUMBERS.keys()


def assemble(profile: Profile, machine: str) -> bytes:
    """The program, 8 bytes an instruction, in the machine's (little-endian) order."""
    refused = (Rule(profile.refused),)
    treatments = {}
    for name, number in NUMBERS[machine].items():
        rules = profile.rules.get(name, ())
        treatments[number] = (*rules, *refused)
    last = X32_BIT - 1 if machine == "x86_64" else 0xFFFFFFFF
    return assemble_doors([Door(machine, treatments, otherwise=profile.unknown, last=last)], profile.foreign)


def assemble_doors(doors: "Sequence[Door]", foreign: int) -> bytes:
    """The program for a kernel that can be called by these doors, whose numbers do not overlap; the likeliest comes first.

    `foreign` is for every other architecture, and for numbers between the doors of one.
    """
    program = _Program()
    refused = program.leave(foreign)
    ways: dict[str, int] = {}
    for architecture in {door.architecture: 0 for door in reversed(doors)}:
        ranges: list[tuple[int, int]] = [(0, refused)]
        for door in sorted([door for door in doors if door.architecture == architecture], key=lambda door: door.first):
            ranges += _ranges(program, door)
            ranges.append((door.last + 1, refused))
        ways[architecture] = program.put(_LOAD, _NUMBER, program.search(_merged(ranges)))
    first = refused
    for architecture, way in ways.items():
        first = program.branch(_EQUAL, ARCHITECTURES[architecture], way, first)
    program.put(_LOAD, _ARCHITECTURE, first)
    return program.bytes()


def _ranges(program: "_Program", door: Door) -> list[tuple[int, int]]:
    """(first number, label): each range lasts until the next begins, the last for ever."""
    otherwise = program.leave(door.otherwise)
    ranges = [(door.first, otherwise)]
    for number in sorted(door.treatments):
        ranges.append((number, program.decide(door.treatments[number], otherwise)))
        ranges.append((number + 1, otherwise))
    if door.beyond:
        ranges.append((door.beyond, program.leave(door.later)))
    return ranges


def _merged(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The same without ranges that are empty or continue the one before, and within 32 bits."""
    merged: list[tuple[int, int]] = []
    for first, label in ranges:
        while merged and merged[-1][0] >= first:
            merged.pop()
        if first <= 0xFFFFFFFF and not (merged and merged[-1][1] == label):
            merged.append((first, label))
    return merged


class _Program:
    """Instructions, written from the last to the first: BPF only jumps forward, so every target is known when it is needed.

    A label is an instruction's place, counted from the end of the program. What was written once is not written again: calls
    that are treated alike share their instructions, and so do their ends.
    """

    def __init__(self) -> None:
        self._reversed: list[tuple[int, int, int, int]] = []
        self._returns: dict[int, int] = {}
        self._steps: dict[tuple[int, ...], int] = {}
        self._nearest: dict[int, int] = {}

    def bytes(self) -> bytes:
        if len(self._reversed) > _MOST:
            raise ValueError(f"a filter of {len(self._reversed)} instructions; the kernel takes {_MOST}")
        return b"".join(
            code.to_bytes(2, "little") + bytes((true, false)) + value.to_bytes(4, "little")
            for code, true, false, value in reversed(self._reversed)
        )

    def leave(self, action: int) -> int:
        """Return `action`."""
        if action not in self._returns:
            self._returns[action] = self._append(_RETURN, action)
        return self._returns[action]

    def put(self, code: int, value: int, then: int) -> int:
        """One instruction that does not branch, and go on at `then`."""
        step = (code, value, then)
        if step not in self._steps:
            if then != len(self._reversed) - 1:
                self._append(_JUMP, self._distance(then))
            self._steps[step] = self._append(code, value)
        return self._steps[step]

    def branch(self, code: int, value: int, true: int, false: int) -> int:
        """Go on at `true` or `false`, as the comparison of the accumulator with `value` says."""
        if true == false:
            return true
        step = (code, value, true, false)
        if step not in self._steps:
            true, false = self._near(true), self._near(false)
            self._steps[step] = self._append(code, value, self._distance(true), self._distance(false))
        return self._steps[step]

    def decide(self, rules: "Sequence[Rule]", otherwise: int) -> int:
        """The action of the first rule that holds, or go on at `otherwise`."""
        for rule in reversed(rules):
            then = self.leave(rule.action)
            for condition in reversed(rule.when):
                then = self._compare(condition, then, otherwise)
            otherwise = then
        return otherwise

    def search(self, ranges: list[tuple[int, int]]) -> int:
        """Go on at the label of the range in which the accumulator lies."""
        if len(ranges) == 1:
            return ranges[0][1]
        middle = len(ranges) // 2
        right = self.search(ranges[middle:])
        left = self.search(ranges[:middle])
        return self.branch(_AT_LEAST, ranges[middle][0], right, left)

    def _compare(self, condition: Compare, yes: int, no: int) -> int:
        if condition.operator in ("!=", "<", "<="):
            yes, no = no, yes  # each is the opposite of one below
        # The accumulator has 32 bits: the lower halves matter only where the upper ones are equal.
        lower = {"==": _EQUAL, "!=": _EQUAL, "<": _AT_LEAST, ">=": _AT_LEAST, "<=": _GREATER, ">": _GREATER}[condition.operator]
        at = _ARGUMENTS + 8 * condition.argument
        value, mask = condition.value, condition.mask
        label = self._test(at, mask & 0xFFFFFFFF, lower, value & 0xFFFFFFFF, yes, no)
        if mask >> 32 == 0:
            return label if value >> 32 == 0 else no
        label = self.branch(_EQUAL, value >> 32, label, no)
        if lower != _EQUAL:
            label = self.branch(_GREATER, value >> 32, yes, label)
        return self._load(at + 4, mask >> 32, label)

    def _test(self, at: int, mask: int, code: int, value: int, yes: int, no: int) -> int:
        return self._load(at, mask, self.branch(code, value, yes, no))

    def _load(self, at: int, mask: int, then: int) -> int:
        if mask != 0xFFFFFFFF:
            then = self.put(_AND, mask, then)
        return self.put(_LOAD, at, then)

    def _near(self, label: int) -> int:
        """A label that a conditional jump reaches with its 8 bits, and that leads to `label`."""
        near = self._nearest.get(label, label)
        if self._distance(near) < 255:  # one less than there is, for the other branch may need a place in between
            return near
        code, _, _, value = self._reversed[label]
        near = self._append(_RETURN, value) if code == _RETURN else self._append(_JUMP, self._distance(label))
        self._nearest[label] = near
        return near

    def _distance(self, label: int) -> int:
        """How many instructions the next one to be written has to skip to go on at `label`."""
        return len(self._reversed) - 1 - label

    def _append(self, code: int, value: int, true: int = 0, false: int = 0) -> int:
        self._reversed.append((code, true, false, value))
        return len(self._reversed) - 1
