"""What is told of refused system calls: from records as the kernel writes them, and from the kernel itself."""

import os
import time
from collections.abc import Callable
from typing import Any

import pytest

from runtime.refusals import HAD_FILTER, KILLED, Refusal, explained, parse, refusals, state_of
from runtime.seccomp_oci import compile_policy
from runtime.seccomp_policy import FLAG_LOG, Policy, read
from runtime.syscall_numbers import NUMBERS
from store.syscalls import MACHINE, address_of, libc, syscall

RECORD = (
    b"5,112328,16893695792,-;audit: type=1326 audit(1795460169.229:2): auid=4294967295 uid=0 gid=0 ses=4294967295 pid=1220 "
    b'comm="python" exe="/usr/bin/python3.11" sig=31 arch=c000003e syscall=80 compat=0 ip=0x7ffa99f6bbf7 code=0x80000000\n'
)


def policy(action: str, *names: str, **more: Any) -> Policy:
    entry = {"names": list(names), "action": action, **more}
    return read({"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86"], "syscalls": [entry]})


def born(given: Policy, call: Callable[[], object], *, flags: int = 0) -> int:
    """A child that has ended behind the filter, not reaped."""
    program = compile_policy(given, MACHINE)
    pid = os.fork()
    if pid == 0:
        try:
            libc("prctl", 38, 1, 0, 0, 0)
            fprog = (len(program) // 8).to_bytes(8, "little") + address_of(program).to_bytes(8, "little")
            syscall("seccomp", NUMBERS[MACHINE]["seccomp"], 1, flags, fprog)
            call()
        finally:
            os._exit(0)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    return pid


def found(since: float, pid: int, number: int) -> list[Refusal]:
    """The log's lines on this call; the kernel's thread may take a moment to write them."""
    deadline = time.monotonic() + 5
    while True:
        lines = [line for line in refusals(since, [pid]) if line.number == number]
        if lines or time.monotonic() > deadline:
            return lines
        time.sleep(0.01)


def test_a_record_of_the_kernel_is_read() -> None:
    refusal = parse(RECORD)
    assert refusal is not None
    assert (refusal.pid, refusal.command, refusal.way, refusal.name) == (1220, "python", "x86_64", "chdir")
    assert (refusal.action, refusal.signal, refusal.time) == (0x80000000, 31, 1795460169.229)
    assert explained(refusal) == "python was killed for chdir by its system call filter"


@pytest.mark.parametrize(
    ("old", "new", "name"),
    [
        (b"arch=c000003e syscall=80", b"arch=40000003 syscall=310", "unshare (i386)"),
        (b"syscall=80", b"syscall=1073741904", "chdir (x32)"),
        (b"arch=c000003e syscall=80", b"arch=c00000b7 syscall=49", "chdir"),
        (b"syscall=80", b"syscall=5000", "system call 5000"),
        (b"arch=c000003e", b"arch=16", "system call 80 (architecture 0x16)"),
    ],
)
def test_a_call_is_named_with_its_way_into_the_kernel(old: bytes, new: bytes, name: str) -> None:
    refusal = parse(RECORD.replace(old, new))
    assert refusal is not None and refusal.name == name


def test_a_command_that_could_deceive_is_shown_without_what_could() -> None:
    refusal = parse(RECORD.replace(b'"python"', b"\x1b[31m pid=1".hex().encode()))
    assert refusal is not None and refusal.command == "?[31m pid=1" and refusal.pid == 1220


@pytest.mark.parametrize(
    "record",
    [
        RECORD.replace(b"5,", b"13,", 1),  # written by a process: facility 1
        RECORD.replace(b"type=1326", b"type=1300"),
        RECORD.replace(b"syscall=80 ", b""),
        RECORD.replace(b"syscall=80", b"syscall=eighty"),
        RECORD.replace(b'"python"', b"xyz"),
        RECORD.replace(b"audit(1795460169.229:2)", b"audit(never)"),
        RECORD[:60],
        b"6,1,2,-;erofs: mounted\n",
        b";",
        b"",
    ],
)
def test_other_records_and_forged_ones_are_not_taken(record: bytes) -> None:
    assert parse(record) is None


@pytest.mark.needs("root")
@pytest.mark.parametrize("action", ["SCMP_ACT_KILL_PROCESS", "SCMP_ACT_KILL_THREAD"])
def test_a_process_that_its_filter_killed_is_told_with_its_call(action: str) -> None:
    given = policy(action, "chdir")
    since = time.time() - 1
    pid = born(given, lambda: os.chdir("/"))
    state = state_of(pid)
    _, status = os.waitpid(pid, 0)
    assert os.WTERMSIG(status) == 31
    assert state == KILLED
    lines = found(since, pid, NUMBERS[MACHINE]["chdir"])
    if not lines:
        pytest.skip("the kernel's log does not have it: no audit, or a daemon that takes it")
    assert lines[-1].signal == 31
    assert explained(lines[-1], given, MACHINE).endswith(
        "was killed for chdir by its system call filter (linux.seccomp.syscalls[0])"
    )
    assert refusals(time.time() + 60, [pid]) == []


@pytest.mark.needs("root")
def test_a_refusal_with_an_errno_is_told_where_the_filter_logs() -> None:
    given = policy("SCMP_ACT_ERRNO", "chdir")
    since = time.time() - 1
    pid = born(given, lambda: os.chdir("/"), flags=FLAG_LOG)
    assert state_of(pid) == HAD_FILTER
    os.waitpid(pid, 0)
    lines = found(since, pid, NUMBERS[MACHINE]["chdir"])
    if not lines:
        pytest.skip("the kernel's log does not have it: no audit, or a daemon that takes it")
    assert (lines[-1].signal, lines[-1].action) == (0, 0x00050000)
    assert "was refused chdir by its system call filter (linux.seccomp.syscalls[0])" in explained(lines[-1], given, MACHINE)


def test_which_of_several_conditions_held_is_not_guessed() -> None:
    refusal = parse(RECORD)
    assert refusal is not None
    given = policy("SCMP_ACT_KILL_PROCESS", "chdir", args=[{"index": 0, "op": "SCMP_CMP_EQ", "value": 5}])
    assert explained(refusal, given, "x86_64") == explained(refusal)


def test_a_process_that_is_gone_has_no_state() -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    assert state_of(pid) == -1
