"""The compiler of filters, against a plain reading of its rules and against libseccomp."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.seccomp import ALLOW, KILL, Compare, Profile, Rule, assemble, errno, machines
from runtime.syscall_numbers import NUMBERS
from tests.runtime.bpf import AUDIT_ARCH, LIBSECCOMP, Oracle, run

REFUSED, UNKNOWN, FOREIGN = errno(1), errno(38), errno(77)
MACHINES = sorted(machines())
WORDS = (0, 1, 2, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF, 0x100000000, 0x100000001, 0x5412, 0x100005412, 2**63, 2**64 - 1)

words = st.one_of(st.sampled_from(WORDS), st.integers(0, 2**64 - 1))
compares = st.builds(
    lambda argument, operator, value, mask: Compare(argument, operator, value, mask=mask),
    st.integers(0, 5),
    st.sampled_from(("==", "!=", "<", "<=", ">", ">=")),
    words,
    st.one_of(st.sampled_from((2**64 - 1, 0xFFFFFFFF, 0, 0xFFFFFFFF00000000, 0x7E020000)), st.integers(0, 2**64 - 1)),
)
rules = st.builds(
    lambda action, when: Rule(action, *when), st.sampled_from((ALLOW, errno(5), KILL)), st.lists(compares, max_size=3)
)


def holds(condition: Compare, arguments: list[int]) -> bool:
    left, right = arguments[condition.argument] & condition.mask, condition.value
    return {
        "==": left == right,
        "!=": left != right,
        "<": left < right,
        "<=": left <= right,
        ">": left > right,
        ">=": left >= right,
    }[condition.operator]


def plainly(profile: Profile, machine: str, number: int, arguments: list[int]) -> int:
    """What the docstrings of Profile, Rule and Compare say becomes of a call."""
    names = {number: name for name, number in NUMBERS[machine].items()}
    if machine == "x86_64" and number >= 0x40000000:
        return profile.foreign
    if number not in names:
        return profile.unknown
    for rule in profile.rules.get(names[number], ()):
        if all(holds(condition, arguments) for condition in rule.when):
            return rule.action
    return profile.refused


@pytest.mark.parametrize("machine", MACHINES)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_a_program_does_what_its_rules_say(machine: str, data: st.DataObject) -> None:
    names = data.draw(st.lists(st.sampled_from(sorted(NUMBERS[machine])), unique=True, max_size=25))
    profile = Profile(
        {name: tuple(data.draw(st.lists(rules, max_size=3))) for name in names}, refused=REFUSED, unknown=UNKNOWN, foreign=FOREIGN
    )
    program = assemble(profile, machine)
    interesting = [condition.value for held in profile.rules.values() for rule in held for condition in rule.when] or [0]
    nearby = [value + step & 2**64 - 1 for value in interesting for step in (-1, 0, 1, 1 << 32)]
    for name in names:
        number = NUMBERS[machine][name]
        for _ in range(4):
            arguments = [data.draw(st.one_of(st.sampled_from(nearby), words)) for _ in range(6)]
            for beside in (number - 1, number, number + 1):
                assert run(program, AUDIT_ARCH[machine], beside, arguments) == plainly(
                    profile, machine, beside & 0xFFFFFFFF, arguments
                )


@pytest.mark.parametrize("machine", MACHINES)
def test_every_number_is_decided_and_in_few_steps(machine: str) -> None:
    """Every second call is allowed, so that hardly two neighbours are alike: the worst case."""
    allowed = {name: (Rule(ALLOW),) for name, number in NUMBERS[machine].items() if number % 2}
    profile = Profile(allowed, refused=REFUSED, unknown=UNKNOWN, foreign=FOREIGN)
    program = assemble(profile, machine)
    for number in [*range(700), 0x3FFFFFFF, 0x40000000, 0x40000001, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF]:
        assert run(program, AUDIT_ARCH[machine], number, longest=16) == plainly(profile, machine, number, [0] * 6)


@pytest.mark.parametrize("machine", MACHINES)
def test_a_program_too_long_for_short_jumps_still_arrives(machine: str) -> None:
    """A conditional jump reaches 255 instructions; these conditions take thousands."""
    generator = random.Random(1)
    held = {
        name: tuple(Rule(errno(index + 1), Compare(index % 6, "==", generator.randrange(2**64))) for index in range(4))
        for name in NUMBERS[machine]
    }
    held = dict(list(held.items())[:170])
    profile = Profile(held, refused=REFUSED, unknown=UNKNOWN, foreign=FOREIGN)
    program = assemble(profile, machine)
    assert len(program) // 8 > 2500
    for name, rules_of in held.items():
        for rule in (*rules_of, None):
            arguments = [0] * 6
            if rule is not None:
                arguments[rule.when[0].argument] = rule.when[0].value
            number = NUMBERS[machine][name]
            assert run(program, AUDIT_ARCH[machine], number, arguments) == plainly(profile, machine, number, arguments)


def test_a_program_longer_than_the_kernel_takes_is_refused() -> None:
    held = {
        name: tuple(Rule(ALLOW, Compare(index, "==", 8 * number + index)) for index in range(6))
        for name, number in NUMBERS["x86_64"].items()
    }
    with pytest.raises(ValueError, match="the kernel takes 4096"):
        assemble(Profile(held, refused=REFUSED, unknown=UNKNOWN, foreign=FOREIGN), "x86_64")


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("architecture", [0, 1, 0xFFFFFFFF, *AUDIT_ARCH.values()])
def test_only_the_machines_own_architecture_gets_past_the_first_two_instructions(machine: str, architecture: int) -> None:
    program = assemble(
        Profile({name: (Rule(ALLOW),) for name in NUMBERS[machine]}, refused=1, unknown=2, foreign=FOREIGN), machine
    )
    own = architecture == AUDIT_ARCH[machine]
    for number in (0, 1, 20, 39, 450):
        assert (run(program, architecture, number) == FOREIGN) is not own


def test_x32_calls_are_foreign_whatever_their_number() -> None:
    program = assemble(
        Profile({name: (Rule(ALLOW),) for name in NUMBERS["x86_64"]}, refused=REFUSED, unknown=UNKNOWN, foreign=FOREIGN), "x86_64"
    )
    for number in (0, 39, 512, 547, 0x3FFFFFFF):
        assert run(program, AUDIT_ARCH["x86_64"], 0x40000000 | number) == FOREIGN
    for number in (512, 547):  # x32's own calls, without the bit: an old kernel's mistake took them
        assert run(program, AUDIT_ARCH["x86_64"], number) == UNKNOWN


@pytest.mark.parametrize(
    ("argument", "operator", "value", "mask"),
    [(6, "==", 0, 0), (-1, "==", 0, 0), (0, "=", 0, 0), (0, "==", -1, 0), (0, "==", 0, 2**64)],
)
def test_a_condition_that_cannot_be_meant_is_refused(argument: int, operator: str, value: int, mask: int) -> None:
    with pytest.raises(ValueError, match=r"argument|64 bits"):
        Compare(argument, operator, value, mask=mask)


@pytest.mark.skipif(LIBSECCOMP is None, reason="libseccomp is not installed")
@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("operator", ["==", "!=", "<", "<=", ">", ">="])
def test_comparisons_are_those_of_libseccomp(machine: str, operator: str) -> None:
    for value in WORDS:
        oracle = Oracle(machine, errno(1))
        oracle.add("ioctl", ALLOW, (1, operator, value, 0))
        second = oracle.program()
        profile = Profile(
            {"ioctl": (Rule(ALLOW, Compare(1, operator, value)),)}, refused=errno(1), unknown=errno(1), foreign=KILL
        )
        first = assemble(profile, machine)
        number = NUMBERS[machine]["ioctl"]
        for argument in {word + step & 2**64 - 1 for word in (*WORDS, value) for step in (-1, 0, 1)}:
            call = (AUDIT_ARCH[machine], number, (0, argument))
            assert run(first, *call) == run(second, *call), (operator, value, argument)


@pytest.mark.skipif(LIBSECCOMP is None, reason="libseccomp is not installed")
@pytest.mark.parametrize("machine", MACHINES)
def test_masked_comparisons_are_those_of_libseccomp(machine: str) -> None:
    for mask in (0xFFFFFFFF, 0x7E020000, 0xFFFFFFFF00000000, 0x8000000000000001):
        for value in {word & mask for word in WORDS}:
            oracle = Oracle(machine, errno(1))
            oracle.add("clone", ALLOW, (0, "&", mask, value))
            second = oracle.program()
            rule = Rule(ALLOW, Compare(0, "==", value, mask=mask))
            first = assemble(Profile({"clone": (rule,)}, refused=errno(1), unknown=errno(1), foreign=KILL), machine)
            for argument in (*WORDS, mask, value, ~mask & 2**64 - 1, mask | 17):
                call = (AUDIT_ARCH[machine], NUMBERS[machine]["clone"], (argument,))
                assert run(first, *call) == run(second, *call), (hex(mask), hex(value), hex(argument))
