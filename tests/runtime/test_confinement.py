"""What a program is when it starts: the last steps, done by either performer, and what they have taken away."""

import errno
import os
import resource
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from runtime import native, portable
from runtime.capabilities import ALL, RUN_DEFAULT, mask_of, permitted
from runtime.confinement import LIMITS, confine
from runtime.program import Failure, Program
from runtime.seccomp import assemble
from runtime.seccomp_profile import default
from runtime.users import User
from store.errors import RunError
from store.syscalls import MACHINE, libc, syscall
from tests.runtime.child import keep, result_of

pytestmark = pytest.mark.needs("root")

ROOT = User(0, 0, (0,), "/root", "root")
APP = User(1234, 2345, (2345, 44, 4294967294), "/home/app", "app")
FILTER = assemble(default(RUN_DEFAULT), MACHINE)
SETS = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")

Perform = Callable[[Program, int], tuple[int, Failure | None]]


@pytest.fixture(params=["native", "portable"])
def perform(request: pytest.FixtureRequest) -> Perform:
    if request.param == "native" and not native.available():
        pytest.skip("there is no native code for this machine")
    return native.perform if request.param == "native" else portable.perform


def executing(user: User, mask: int, argv: list[str], *, before: Iterable[tuple[Any, ...]] = (), **options: Any) -> Program:
    """A program that confines itself, after the calls `before`, and executes `argv`."""
    program = Program()
    for name, *arguments in before:
        program.call(name, *arguments)
    confine(program, user, mask, **{"seccomp": FILTER, **options})
    program.execute([argv[0]], [os.fsencode(word) for word in argv], [])
    return program


def output(perform: Perform, user: User, mask: int, argv: list[str], **options: Any) -> str:
    """What it prints. In a child of its own: a native performer leaves its traces in the process that bears it."""

    def act() -> str:
        reader, writer = os.pipe()
        os.dup2(writer, 1)
        os.close(writer)
        pid, failure = perform(executing(user, mask, argv, **options), 0)
        os.close(1)
        assert failure is None, f"{failure.call}: {os.strerror(failure.errno)}"
        with os.fdopen(reader) as pipe:
            text = pipe.read()
        os.waitpid(pid, 0)
        return text

    text = result_of(act)
    assert isinstance(text, str), text
    return text


def status(perform: Perform, user: User, mask: int = RUN_DEFAULT, **options: Any) -> dict[str, str]:
    """/proc/self/status of what is executed."""
    lines = output(perform, user, mask, ["/bin/cat", "/proc/self/status"], **options).splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def sets(found: dict[str, str]) -> dict[str, int]:
    return {name: int(found[name], 16) for name in SETS}


@pytest.mark.parametrize("no_new_privileges", [True, False])
def test_root_runs_with_the_mask_and_nothing_more(perform: Perform, no_new_privileges: bool) -> None:
    found = status(perform, ROOT, no_new_privileges=no_new_privileges)
    assert sets(found) == {"CapInh": 0, "CapPrm": RUN_DEFAULT, "CapEff": RUN_DEFAULT, "CapBnd": RUN_DEFAULT, "CapAmb": 0}
    assert (found["NoNewPrivs"], found["Seccomp"]) == (str(int(no_new_privileges)), "2")
    assert found["Groups"] == "0"


@pytest.mark.parametrize("no_new_privileges", [True, False])
def test_another_user_runs_with_no_capability_and_its_own_groups(perform: Perform, no_new_privileges: bool) -> None:
    found = status(perform, APP, no_new_privileges=no_new_privileges)
    assert sets(found) == {"CapInh": 0, "CapPrm": 0, "CapEff": 0, "CapBnd": RUN_DEFAULT, "CapAmb": 0}
    assert (found["Uid"].split(), found["Gid"].split()) == (["1234"] * 4, ["2345"] * 4)
    assert sorted(map(int, found["Groups"].split())) == [44, 2345, 4294967294]
    assert found["Seccomp"] == "2"


def test_a_user_without_groups_has_none_of_the_caller_s(perform: Perform) -> None:
    groups = b"".join(gid.to_bytes(4, "little") for gid in (0, 4, 27))
    assert status(perform, User(5, 6, (0, 4, 27)))["Groups"].split() == ["0", "4", "27"]  # the control
    assert status(perform, User(5, 6, ()), before=[("setgroups", 3, groups)])["Groups"] == ""


def test_without_a_filter_there_is_none(perform: Perform) -> None:
    found = status(perform, ROOT, seccomp=b"")
    assert (found["Seccomp"], found["NoNewPrivs"]) == ("0", "1")


def test_no_capabilities_at_all(perform: Perform) -> None:
    assert set(sets(status(perform, ROOT, 0)).values()) == {0}


def test_what_box_itself_lacks_is_left_out(perform: Perform) -> None:
    """Root in a container or a service that was denied some: capset(2) alone would refuse the whole set."""
    assert sets(status(perform, ROOT, ALL))["CapEff"] == permitted()

    def act() -> dict[str, str]:
        keep(permitted() & ~(1 << 5))
        return status(perform, ROOT)

    assert int(result_of(act)["CapEff"], 16) == RUN_DEFAULT & ~(1 << 5)


def test_inheritable_and_ambient_capabilities_of_the_caller_are_not_passed_on(perform: Perform) -> None:
    def act() -> list[dict[str, str]]:
        everything = permitted()
        low, high = (everything & 0xFFFFFFFF).to_bytes(4, "little"), (everything >> 32).to_bytes(4, "little")
        libc("capset", (0x20080522).to_bytes(4, "little") + bytes(4), low * 3 + high * 3)
        libc("prctl", 47, 2, 5, 0, 0)  # PR_CAP_AMBIENT_RAISE, CAP_KILL
        with open("/proc/self/status") as file:
            own = {key: value.strip() for key, _, value in (line.partition(":") for line in file)}
        return [own, status(perform, APP)]

    own, found = result_of(act)
    assert int(own["CapInh"], 16) and int(own["CapAmb"], 16) == 1 << 5  # the control
    assert sets(found) == {"CapInh": 0, "CapPrm": 0, "CapEff": 0, "CapBnd": RUN_DEFAULT, "CapAmb": 0}


def test_a_caller_that_keeps_capabilities_over_a_change_of_user_makes_no_difference(perform: Perform) -> None:
    """With SECBIT_NO_SETUID_FIXUP the kernel alone would let them stay."""
    found = status(perform, APP, before=[("prctl", 28, 1 << 2, 0, 0, 0)])
    assert (int(found["CapPrm"], 16), int(found["CapEff"], 16)) == (0, 0)


def test_a_set_user_id_program_gains_nothing_unless_that_was_asked_for(perform: Perform, tmp_path: Path) -> None:
    program = Path("/var/tmp") / f"box-test-{os.getpid()}"
    shutil.copy("/usr/bin/id", program)
    try:
        os.chmod(program, 0o4755)
        assert output(perform, APP, RUN_DEFAULT, [str(program), "-u"]).strip() == "1234"
        if not os.statvfs(program).f_flag & os.ST_NOSUID:
            assert output(perform, APP, RUN_DEFAULT, [str(program), "-u"], no_new_privileges=False).strip() == "0"  # the control
    finally:
        program.unlink()


def test_the_session_keyring_is_a_new_one(perform: Perform) -> None:
    keyctl, add_key = {"x86_64": (250, 248), "aarch64": (219, 217)}[MACHINE]

    def act(confined: bool) -> str:
        syscall("keyctl", keyctl, 1, b"callers")
        key = syscall("add_key", add_key, b"user", b"box-test-secret", b"x", 1, -3)
        syscall("keyctl", keyctl, 5, key, 0x3F3F3F3F)  # KEYCTL_SETPERM: whoever possesses it sees it
        if not confined:
            with open("/proc/keys") as file:
                return file.read()
        return output(perform, User(1234, 1234, ()), 0, ["/bin/cat", "/proc/keys"])

    assert "callers" in result_of(lambda: act(False))  # the control
    assert "callers" not in result_of(lambda: act(True))


def test_core_dumps_are_off_and_other_limits_as_asked(perform: Perform) -> None:
    def limits(**options: Any) -> dict[str, list[str]]:
        lines = output(perform, ROOT, RUN_DEFAULT, ["/bin/cat", "/proc/self/limits"], **options).splitlines()
        return {line[:26].strip(): line[26:].split()[:2] for line in lines}

    assert limits()["Max core file size"] == ["0", "0"]
    found = limits(limits=[("nofile", 100, 200), ("core", 4096, 8192), ("stack", 1 << 20, 1 << 21)])
    assert found["Max open files"] == ["100", "200"]
    assert found["Max core file size"] == ["4096", "8192"]
    assert found["Max stack size"] == ["1048576", "2097152"]


def test_the_limits_are_named_as_the_kernel_numbers_them() -> None:
    for number, name in enumerate(LIMITS):
        if name != "locks":
            assert getattr(resource, f"RLIMIT_{name.upper()}") == number


def test_an_unknown_limit_is_an_error() -> None:
    with pytest.raises(RunError, match="unknown limit 'files'"):
        confine(Program(), ROOT, 0, limits=[("files", 1, 1)])


def test_the_order_of_the_steps() -> None:
    """Each takes away what the one before still needed."""

    def names(**options: Any) -> list[str]:
        steps: list[str] = []
        for call in executing(APP, RUN_DEFAULT, ["/bin/true"], **options).calls:
            step = f"prctl {call.arguments[0]}" if call.name == "prctl" else call.name
            if not steps or steps[-1] != step:
                steps.append(step)
        return steps

    bounding, dumpable, ambient, no_new_privs, seccomp = "prctl 24", "prctl 4", "prctl 47", "prctl 38", "prctl 22"
    identity = ["setgroups", "setresgid", "setresuid", dumpable, "capset", ambient]
    assert names() == ["keyctl", "prlimit64", bounding, *identity, no_new_privs, seccomp, "execve"]
    assert names(no_new_privileges=False) == ["keyctl", "prlimit64", seccomp, bounding, *identity, "execve"]
    assert names(seccomp=b"") == ["keyctl", "prlimit64", bounding, *identity, no_new_privs, "execve"]


def test_real_effective_and_saved_ids_are_all_the_user_s() -> None:
    """execve hides a saved id that is still root's, but the steps in between would have it."""
    calls = {call.name: call.arguments for call in executing(APP, RUN_DEFAULT, ["/bin/true"]).calls}
    assert calls["setresgid"] == (APP.gid,) * 3
    assert calls["setresuid"] == (APP.uid,) * 3


def test_every_capability_outside_the_mask_is_dropped_those_that_nobody_knows_too() -> None:
    dropped = [
        call.arguments[1]
        for call in executing(ROOT, RUN_DEFAULT, ["/bin/true"]).calls
        if call.arguments[0] == 24 and call.name == "prctl"
    ]
    assert dropped == [number for number in range(64) if not RUN_DEFAULT >> number & 1]


@pytest.mark.parametrize("step", ["setgroups", "setresgid", "setresuid", "prctl", "capset"])
def test_a_step_that_fails_is_the_end_and_says_so(perform: Perform, step: str) -> None:
    """Nothing may run that kept what it should have lost."""
    program = executing(APP, RUN_DEFAULT, ["/bin/true"])
    call = next(call for call in program.calls if call.name == step and not call.tolerated)
    call.arguments = {
        "setgroups": (1 << 20, b"\0" * 4),
        "setresgid": (0xFFFFFFFE, 0xFFFFFFFE, 0xFFFFFFFE),
        "setresuid": (0xFFFFFFFE, 0xFFFFFFFE, 0xFFFFFFFE),
        "prctl": (4, 99, 0, 0, 0),
        "capset": (bytes(8), bytes(24)),
    }[step]
    if step.startswith("setres"):
        # Before it, the right to it is given up.
        program.calls.insert(program.calls.index(call), _keeping(mask_of(["SETPCAP"])))
    pid, failure = perform(program, 0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 125
    assert failure is not None and failure.call is call
    assert failure.errno in (errno.EPERM, errno.EINVAL)


def _keeping(mask: int) -> Any:
    program = Program()
    words = (mask & 0xFFFFFFFF).to_bytes(4, "little") * 2 + bytes(4) + (mask >> 32).to_bytes(4, "little") * 2 + bytes(4)
    return program.call("capset", (0x20080522).to_bytes(4, "little") + bytes(4), words).call


def test_a_filter_that_the_kernel_refuses_is_the_end(perform: Perform) -> None:
    """An install that failed unnoticed would leave the program unfiltered."""
    pid, failure = perform(executing(APP, RUN_DEFAULT, ["/bin/true"], seccomp=b"\0" * 8), 0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 125
    assert failure is not None and failure.errno == errno.EINVAL
    assert str(failure.call) == "install the system call filter"


def test_the_kernel_without_keys_is_no_failure() -> None:
    (call,) = [call for call in executing(APP, RUN_DEFAULT, ["/bin/true"]).calls if call.name == "keyctl"]
    assert call.tolerated == (errno.ENOSYS,)
