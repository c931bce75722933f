"""The filter of a config.json: libseccomp's verdicts, its mistakes left out, and what becomes of wrong profiles."""

import random
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.seccomp import X32_BIT
from runtime.seccomp_oci import compile_policy, explain
from runtime.seccomp_policy import (
    ACTIONS,
    ALLOW,
    ERRNO,
    KILL_THREAD,
    OPERATORS,
    read,
)
from runtime.syscall_tables import NUMBERS
from store.errors import RunError
from store.syscalls import MACHINE, syscall
from tests.runtime import libseccomp
from tests.runtime.bpf import AUDIT_ARCH, LIBSECCOMP, run
from tests.runtime.child import install, result_of

ARCHITECTURES = {
    "x86_64": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
    "aarch64": ["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"],
}
WAYS = {"x86_64": ("x86_64", "x32", "i386"), "aarch64": ("aarch64", "arm")}
AUDIT = {**AUDIT_ARCH, "x32": AUDIT_ARCH["x86_64"]}
NARROW = ("i386", "arm")  # their arguments have 32 bits
WORDS = (0, 1, 2, 5, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 1 << 32, (1 << 32) + 1, (1 << 32) + 5, 2 << 32, 2**63, 2**64 - 1)
EQUALITIES = ("SCMP_CMP_EQ", "SCMP_CMP_MASKED_EQ")

needs_libseccomp = pytest.mark.skipif(LIBSECCOMP is None, reason="libseccomp is not installed")
words = st.one_of(st.sampled_from(WORDS), st.integers(0, 2**64 - 1))


def conditions(operators: Iterable[str], *, arguments: int, most: int) -> st.SearchStrategy[list[dict[str, Any]]]:
    one = st.fixed_dictionaries(
        {"index": st.integers(0, arguments - 1), "op": st.sampled_from(sorted(operators)), "value": words, "valueTwo": words}
    )
    return st.lists(one, min_size=1, max_size=most, unique_by=lambda held: held["index"])


def profiles(
    operators: Iterable[str], *, rules: int, errnos: tuple[int, ...] = (5,), arguments: int = 6, most: int = 3
) -> st.SearchStrategy[dict[str, Any]]:
    entry = st.fixed_dictionaries(
        {
            "names": st.sampled_from((["ioctl"], ["socket"], ["semctl"], ["clone", "connect"])),
            "action": st.just("SCMP_ACT_ERRNO"),
            "errnoRet": st.sampled_from(errnos),
            "args": conditions(operators, arguments=arguments, most=most),
        }
    )
    return st.fixed_dictionaries(
        {"defaultAction": st.just("SCMP_ACT_ALLOW"), "syscalls": st.lists(entry, min_size=1, max_size=rules)}
    )


def profile(*entries: dict[str, Any], default: str = "SCMP_ACT_ERRNO", **more: Any) -> dict[str, Any]:
    return {"defaultAction": default, "architectures": ARCHITECTURES["x86_64"], "syscalls": list(entries), **more}


def allow(*names: str, **more: Any) -> dict[str, Any]:
    return {"names": list(names), "action": "SCMP_ACT_ALLOW", **more}


def verdict(given: dict[str, Any], name: str, *arguments: int, way: str = "x86_64", machine: str = "x86_64") -> int:
    return run(compile_policy(read(given), machine), AUDIT[way], NUMBERS[way][name], arguments)


def assert_same_verdicts(given: dict[str, Any], machine: str, ways: Iterable[str]) -> None:
    """Our program and libseccomp's on the calls that the profile names, with the values at which its rules turn."""
    given = {**given, "architectures": ARCHITECTURES[machine]}
    theirs = libseccomp.program(given, machine)
    if theirs is None:
        return
    ours = compile_policy(read(given), machine)
    held = [each[key] for entry in given["syscalls"] for each in entry["args"] for key in ("value", "valueTwo")]
    values = [*WORDS, *[value + step & 2**64 - 1 for value in held for step in (-1, 0, 1, 1 << 32)]]
    generator = random.Random(repr(given))
    for way in ways:
        numbers = {NUMBERS[way][name] for entry in given["syscalls"] for name in entry["names"]}
        if way == "i386":
            numbers |= {102, 117}  # socketcall and ipc
        for number in numbers:
            for _ in range(12):
                arguments = [generator.choice(values) for _ in range(6)]
                if way in NARROW:
                    arguments = [value & 0xFFFFFFFF for value in arguments]
                    if number in (102, 117):
                        arguments[0] = generator.randrange(25)
                call = (AUDIT[way], number, arguments)
                assert run(ours, *call) == run(theirs, *call), (way, number, [hex(value) for value in arguments], given)


@needs_libseccomp
@pytest.mark.parametrize("machine", WAYS)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_one_rule_is_libseccomps_whatever_it_asks(machine: str, data: st.DataObject) -> None:
    assert_same_verdicts(data.draw(profiles(OPERATORS, rules=1)), machine, WAYS[machine])


# The next three always draw the same examples: libseccomp has mistakes of its own, and none of them is to stop somebody's change.
@needs_libseccomp
@pytest.mark.parametrize("machine", WAYS)
@settings(max_examples=60, deadline=None, derandomize=True)
@given(data=st.data())
def test_rules_of_one_call_are_libseccomps(machine: str, data: st.DataObject) -> None:
    assert_same_verdicts(data.draw(profiles(EQUALITIES, rules=4)), machine, WAYS[machine])


@needs_libseccomp
@pytest.mark.parametrize("machine", WAYS)
@settings(max_examples=40, deadline=None, derandomize=True)
@given(data=st.data())
def test_rules_about_one_argument_are_libseccomps(machine: str, data: st.DataObject) -> None:
    """But for several with "less" in 64 bits: the next test."""
    given_profile = data.draw(profiles(set(OPERATORS) - {"SCMP_CMP_LT", "SCMP_CMP_LE"}, rules=4, most=1))
    assert_same_verdicts(given_profile, machine, (machine,))
    given_profile = data.draw(profiles(OPERATORS, rules=4, most=1, arguments=1))
    assert_same_verdicts(given_profile, machine, [way for way in WAYS[machine] if way in NARROW])


@needs_libseccomp
@pytest.mark.parametrize("machine", WAYS)
@settings(max_examples=60, deadline=None, derandomize=True)
@given(data=st.data())
def test_of_overlapping_rules_the_one_that_libseccomp_asks_first_decides(machine: str, data: st.DataObject) -> None:
    given_profile = data.draw(profiles(["SCMP_CMP_EQ"], rules=4, errnos=(5, 6, 7), arguments=3))
    assert_same_verdicts(given_profile, machine, WAYS[machine])


def refusing(*args: tuple[int, str, int]) -> dict[str, Any]:
    held = [{"index": index, "op": f"SCMP_CMP_{operator}", "value": value} for index, operator, value in args]
    return {"names": ["ioctl"], "action": "SCMP_ACT_ERRNO", "errnoRet": 5, "args": held}


@needs_libseccomp
@pytest.mark.parametrize(
    ("entries", "arguments"),
    [
        ([refusing((1, "LT", 1 << 32)), refusing((1, "LT", 2))], (0, 2)),
        ([refusing((0, "EQ", 0)), refusing((0, "NE", 1), (1, "EQ", 0))], (0, 2)),
    ],
)
def test_a_mistake_of_libseccomp_is_not_ours(entries: list[dict[str, Any]], arguments: tuple[int, ...]) -> None:
    """The first rule holds. libseccomp merges the two, since both begin with the same upper half, and forgets it."""
    given_profile = profile(*entries, default="SCMP_ACT_ALLOW")
    theirs = libseccomp.program(given_profile, "x86_64")
    assert theirs is not None
    assert verdict(given_profile, "ioctl", *arguments) == ERRNO | 5
    assert run(theirs, AUDIT["x86_64"], 16, arguments) == ALLOW


@settings(max_examples=100, deadline=None)
@given(given_profile=profiles(OPERATORS, rules=4), data=st.data())
def test_with_one_action_rules_hold_as_they_read(given_profile: dict[str, Any], data: st.DataObject) -> None:
    ours = compile_policy(read(given_profile), "x86_64")
    held = [each[key] for entry in given_profile["syscalls"] for each in entry["args"] for key in ("value", "valueTwo")]
    near = [value + step & 2**64 - 1 for value in held for step in (-1, 0, 1, 1 << 32)]
    for entry in given_profile["syscalls"]:
        name = entry["names"][0]
        arguments = [data.draw(st.one_of(st.sampled_from(near), words)) for _ in range(6)]
        alternatives = [each["args"] for each in given_profile["syscalls"] if name in each["names"]]
        refused = any(all(holds(each, arguments) for each in rule) for rule in alternatives)
        assert run(ours, AUDIT["x86_64"], NUMBERS["x86_64"][name], arguments) == (ERRNO | 5 if refused else ALLOW)


def holds(condition: dict[str, Any], arguments: list[int]) -> bool:
    left, right = arguments[condition["index"]], condition["value"]
    return {
        "SCMP_CMP_NE": left != right,
        "SCMP_CMP_LT": left < right,
        "SCMP_CMP_LE": left <= right,
        "SCMP_CMP_EQ": left == right,
        "SCMP_CMP_GE": left >= right,
        "SCMP_CMP_GT": left > right,
        "SCMP_CMP_MASKED_EQ": left & right == condition["valueTwo"] & right,
    }[condition["op"]]


@pytest.mark.parametrize("name", ACTIONS)
def test_every_action_becomes_the_kernels(name: str) -> None:
    more = {"listenerPath": "/run/agent"} if name == "SCMP_ACT_NOTIFY" else {}
    given_profile = profile({"names": ["chdir"], "action": name}, default="SCMP_ACT_LOG", **more)
    expected = libseccomp.action({"action": name}, "action", "errnoRet")
    assert verdict(given_profile, "chdir") == expected
    assert verdict(given_profile, "fchdir") == 0x7FFC0000


@pytest.mark.parametrize(("name", "code"), [("SCMP_ACT_ERRNO", 0x00050000), ("SCMP_ACT_TRACE", 0x7FF00000)])
def test_an_errno_is_eperm_unless_it_is_said(name: str, code: int) -> None:
    assert verdict(profile({"names": ["chdir"], "action": name}, default="SCMP_ACT_ALLOW"), "chdir") == code | 1
    assert verdict(profile({"names": ["chdir"], "action": name, "errnoRet": 0}, default="SCMP_ACT_ALLOW"), "chdir") == code
    assert verdict(profile(allow("chdir"), default=name, defaultErrnoRet=4095), "read") == code | 4095


def test_an_unconditional_rule_beats_the_others_and_the_first_of_two_the_second() -> None:
    conditional = {"names": ["ioctl"], "action": "SCMP_ACT_TRAP", "args": [{"index": 0, "op": "SCMP_CMP_EQ", "value": 1}]}
    for entries in ([conditional, allow("ioctl")], [allow("ioctl"), conditional]):
        assert verdict(profile(*entries), "ioctl", 1) == ALLOW
    assert verdict(profile(allow("ioctl"), {"names": ["ioctl"], "action": "SCMP_ACT_TRAP"}), "ioctl") == ALLOW


def test_a_rule_with_the_default_action_is_none() -> None:
    refusing = {"names": ["ioctl"], "action": "SCMP_ACT_ERRNO"}
    assert verdict(profile(refusing, allow("ioctl")), "ioctl") == ALLOW


def test_two_conditions_on_one_argument_are_alternatives() -> None:
    args = [{"index": 0, "op": "SCMP_CMP_EQ", "value": value} for value in (1, 2)] + [
        {"index": 1, "op": "SCMP_CMP_EQ", "value": 3}
    ]
    given_profile = profile(allow("personality", args=args))
    for arguments in ((1, 0), (2, 0), (0, 3)):
        assert verdict(given_profile, "personality", *arguments) == ALLOW
    assert verdict(given_profile, "personality", 0, 0) == ERRNO | 1


def test_unknown_names_and_other_machines_architectures_are_passed_over() -> None:
    plain = compile_policy(read(profile(allow("read"))), "x86_64")
    more = profile(allow("read", "no_such_call"), allow("also_none"))
    more["architectures"] = [*more["architectures"], "SCMP_ARCH_S390X", "SCMP_ARCH_AARCH64", "SCMP_ARCH_PPC64LE"]
    assert compile_policy(read(more), "x86_64") == plain


def test_other_ways_into_the_kernel_are_killed_unless_they_are_listed() -> None:
    """int 0x80 and x32 lead past a filter that looks at numbers alone."""
    given_profile = profile(allow(*NUMBERS["x86_64"]), architectures=None)
    program = compile_policy(read(given_profile), "x86_64")
    for number in (1, 20, 102, 310):
        assert run(program, AUDIT["i386"], number) == KILL_THREAD
        assert run(program, AUDIT["x86_64"], X32_BIT | number) == KILL_THREAD
        assert run(program, AUDIT["aarch64"], number) == KILL_THREAD
        assert run(program, AUDIT["x86_64"], number) == ALLOW
    listed = compile_policy(read(profile(allow("unshare"))), "x86_64")
    assert run(listed, AUDIT["i386"], 310) == ALLOW  # unshare's number there
    assert run(listed, AUDIT["i386"], 272) == ERRNO | 1  # and here
    assert run(listed, AUDIT["x86_64"], X32_BIT | 272) == ALLOW


def test_i386_reaches_its_sockets_both_ways() -> None:
    given_profile = profile(allow("connect", "semop"))
    assert verdict(given_profile, "connect", way="i386") == ALLOW
    assert verdict(given_profile, "socketcall", 3, way="i386") == ALLOW
    assert verdict(given_profile, "socketcall", 2, way="i386") == ERRNO | 1
    assert verdict(given_profile, "ipc", 1, way="i386") == ALLOW
    assert verdict(given_profile, "ipc", 2, way="i386") == ERRNO | 1


def test_a_call_later_than_the_profile_answers_that_it_is_unknown() -> None:
    given_profile = profile(allow("read", "openat2"))
    assert verdict(given_profile, "openat2") == ALLOW
    assert verdict(given_profile, "pidfd_open") == ERRNO | 1  # earlier, and left out on purpose
    assert verdict(given_profile, "pidfd_getfd") == ERRNO | 38
    assert verdict(given_profile, "pidfd_getfd", way="i386") == ERRNO | 38
    program = compile_policy(read(given_profile), "x86_64")
    assert run(program, AUDIT["x86_64"], 5000) == ERRNO | 38
    assert run(program, AUDIT["x86_64"], 0xFFFFFFFF) == ERRNO | 1  # -1: a tracer has answered
    for default in ("SCMP_ACT_ALLOW", "SCMP_ACT_LOG", "SCMP_ACT_TRACE"):
        refusing = {"names": ["read"], "action": "SCMP_ACT_ERRNO"}
        assert verdict(profile(refusing, default=default), "pidfd_getfd") & 0x7FFF0000 != ERRNO


def test_every_call_of_a_long_profile_is_decided_in_few_steps() -> None:
    """Every second call of each way is allowed: the worst case for a search. A list would take hundreds."""
    names = [name for name, number in NUMBERS["x86_64"].items() if number % 2]
    program = compile_policy(read(profile(allow(*names))), "x86_64")
    assert len(program) // 8 < 2500
    for way in WAYS["x86_64"]:
        for number in range(600):
            if way != "i386" or number not in (102, 117):  # socketcall and ipc go through what is asked of their operations
                run(program, AUDIT[way], number | (X32_BIT if way == "x32" else 0), longest=20)


def test_a_profile_that_no_kernel_takes_says_so() -> None:
    entries = [
        {"names": [name], "action": "SCMP_ACT_TRAP", "args": [{"index": 0, "op": "SCMP_CMP_EQ", "value": 8 * number + step}]}
        for name, number in NUMBERS["x86_64"].items()
        for step in range(8)
    ]
    with pytest.raises(RunError, match=r"linux\.seccomp: a filter of \d+ instructions"):
        compile_policy(read(profile(*entries)), "x86_64")


def test_a_machine_without_tables_is_told_so() -> None:
    with pytest.raises(RunError, match="no system call filter for s390x"):
        compile_policy(read(profile()), "s390x")


@settings(max_examples=60, deadline=None)
@given(given_profile=profiles(OPERATORS, rules=4, errnos=(5, 6, 7)), data=st.data())
def test_an_explanation_agrees_with_the_program(given_profile: dict[str, Any], data: st.DataObject) -> None:
    policy = read({**given_profile, "defaultAction": "SCMP_ACT_ERRNO", "architectures": ARCHITECTURES["x86_64"]})
    program = compile_policy(policy, "x86_64")
    for way in WAYS["x86_64"]:
        number = data.draw(st.sampled_from([*NUMBERS[way].values(), *[NUMBERS[way][name] for name in ("ioctl", "socket")]]))
        arguments = [data.draw(words) for _ in range(6)]
        said = explain(policy, "x86_64", way, number, arguments)
        assert said.action == run(program, AUDIT[way], number, arguments)
        if said.why.startswith("linux.seccomp.syscalls["):
            entry = given_profile["syscalls"][int(said.why.removeprefix("linux.seccomp.syscalls[").removesuffix("]"))]
            assert said.action == ERRNO | entry["errnoRet"]


def test_an_explanation_names_the_line_that_decides() -> None:
    policy = read(profile(allow("read"), {"names": ["mount", "bpf"], "action": "SCMP_ACT_KILL"}))
    assert explain(policy, "x86_64", "x86_64", NUMBERS["x86_64"]["bpf"]).why == "linux.seccomp.syscalls[1]"
    assert explain(policy, "x86_64", "x86_64", NUMBERS["x86_64"]["chroot"]).why == "linux.seccomp.defaultAction"
    assert explain(policy, "x86_64", "x86_64", 469).why == "it is later than every call that linux.seccomp.syscalls names"
    conditional = read(profile(allow("read", args=[{"index": 0, "op": "SCMP_CMP_EQ", "value": 0}])))
    assert explain(conditional, "x86_64", "x86_64", 0).why == ""
    assert explain(conditional, "x86_64", "x86_64", 0, (0,)).why == "linux.seccomp.syscalls[0]"
    assert explain(policy, "x86_64", "arm", 1).why == "linux.seccomp.architectures does not list arm"


@needs_libseccomp
@pytest.mark.parametrize("way", [way for ways in WAYS.values() for way in ways])
def test_the_numbers_of_every_way_are_those_of_libseccomp(way: str) -> None:
    assert LIBSECCOMP is not None
    token = 0x4000003E if way == "x32" else AUDIT[way]
    theirs = {name: LIBSECCOMP.seccomp_syscall_resolve_name_arch(token, name.encode()) for name in NUMBERS[way]}
    shared = {name: number for name, number in theirs.items() if number >= 0}
    assert len(shared) > 300
    assert {name: NUMBERS[way][name] for name in shared} == shared


def errno_of(name: str, *arguments: int | bytes | None) -> int:
    try:
        syscall(name, NUMBERS[MACHINE][name], *arguments)
    except OSError as error:
        return error.errno or -1
    return 0


def test_the_kernel_takes_the_program_and_answers_by_it() -> None:
    """In a child; what each call answers without the filter is its control."""
    given_profile = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ARCHITECTURES.get(MACHINE),
        "syscalls": [
            {"names": ["chdir", "no_such_call"], "action": "SCMP_ACT_ERRNO", "errnoRet": 77},
            {
                "names": ["dup3"],
                "action": "SCMP_ACT_ERRNO",
                "args": [{"index": 0, "op": "SCMP_CMP_GT", "value": 5}, {"index": 1, "op": "SCMP_CMP_LE", "value": 9}],
            },
            {"names": ["personality"], "action": "SCMP_ACT_ERRNO", "args": [{"index": 0, "op": "SCMP_CMP_EQ", "value": 1 << 32}]},
            {
                "names": ["getpriority"],
                "action": "SCMP_ACT_ERRNO",
                "errnoRet": 78,
                "args": [{"index": 0, "op": "SCMP_CMP_MASKED_EQ", "value": 0xF0, "valueTwo": 0x30}],
            },
        ],
    }

    def act() -> list[int]:
        return [
            errno_of("chdir", b"/\0"),
            errno_of("dup3", 6, 6, 0),
            errno_of("dup3", 6, 10, 99),
            errno_of("dup3", 5, 9, 99),
            errno_of("personality", 1 << 32 | 0),
            errno_of("personality", 0xFFFFFFFF),
            errno_of("getpriority", 0x35, 0),
            errno_of("getpriority", 0x25, 0),
        ]

    def behind() -> list[int]:
        install(compile_policy(read(given_profile), MACHINE))
        return act()

    assert result_of(act) == [0, 22, 22, 22, 0, 0, 22, 22]
    assert result_of(behind) == [77, 1, 22, 22, 1, 0, 78, 22]


@pytest.mark.parametrize("action", ["SCMP_ACT_KILL", "SCMP_ACT_KILL_PROCESS", "SCMP_ACT_TRAP"])
def test_a_killing_action_kills_by_sigsys(action: str) -> None:
    def act() -> None:
        install(compile_policy(read(profile({"names": ["chdir"], "action": action}, default="SCMP_ACT_ALLOW")), MACHINE))
        errno_of("chdir", b"/\0")

    assert result_of(act, expected_signal=31) is None
