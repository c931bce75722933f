"""The last steps before execve: what the program then is, and in which order it became so."""

import errno
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from runtime import privileges
from runtime.capabilities import RUN_DEFAULT, mask_of
from runtime.privileges import LIMITS, restrict, set_limit
from runtime.seccomp import assemble
from runtime.seccomp_profile import default
from runtime.users import User
from store.syscalls import MACHINE, libc, syscall
from tests.runtime.child import result_of, status

pytestmark = pytest.mark.needs("root")

ROOT = User(0, 0, (0,), "/root", "root")
APP = User(1234, 2345, (2345, 44, 4294967294), "/home/app", "app")
FILTER = assemble(default(RUN_DEFAULT), MACHINE)


def after(user: User, mask: int = RUN_DEFAULT, **options: object) -> dict[str, str]:
    """/proc/self/status of what is executed after `restrict`."""
    reader, writer = os.pipe()
    arguments = {"cwd": "/", "seccomp": FILTER, **options}

    def act() -> None:
        os.dup2(writer, 1)
        restrict(user, mask, **arguments)  # type: ignore[arg-type]  # the caller's keywords
        os.execv("/bin/cat", ["cat", "/proc/self/status"])

    pid = os.fork()
    if pid == 0:
        try:
            act()
        except BaseException as error:
            os.write(2, repr(error).encode())
        finally:
            os._exit(1)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        text = pipe.read()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    return {key: value.strip() for key, _, value in (line.partition(":") for line in text.splitlines())}


@pytest.mark.parametrize("no_new_privileges", [True, False])
def test_root_runs_with_the_mask_and_nothing_more(no_new_privileges: bool) -> None:
    found = after(ROOT, no_new_privileges=no_new_privileges)
    sets = {name: int(found[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")}
    assert sets == {"CapInh": 0, "CapPrm": RUN_DEFAULT, "CapEff": RUN_DEFAULT, "CapBnd": RUN_DEFAULT, "CapAmb": 0}
    assert (found["NoNewPrivs"], found["Seccomp"]) == (str(int(no_new_privileges)), "2")
    assert found["Groups"] == "0"


@pytest.mark.parametrize("no_new_privileges", [True, False])
def test_another_user_runs_with_no_capability_and_its_own_groups(no_new_privileges: bool) -> None:
    found = after(APP, no_new_privileges=no_new_privileges)
    sets = {name: int(found[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")}
    assert sets == {"CapInh": 0, "CapPrm": 0, "CapEff": 0, "CapBnd": RUN_DEFAULT, "CapAmb": 0}
    assert found["Uid"].split() == ["1234"] * 4
    assert found["Gid"].split() == ["2345"] * 4
    assert sorted(map(int, found["Groups"].split())) == [44, 2345, 4294967294]
    assert found["Seccomp"] == "2"


def test_a_user_without_groups_has_none_of_the_callers() -> None:
    def act() -> list[int]:
        os.setgroups([0, 4, 27])
        restrict(User(5, 6, ()), 0, cwd="/")
        return os.getgroups()

    assert result_of(act) == []


def test_without_a_filter_there_is_none() -> None:
    assert after(ROOT, seccomp=b"")["Seccomp"] == "0"


def test_no_capabilities_at_all() -> None:
    found = after(ROOT, 0)
    assert {int(found[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {0}


def test_a_set_user_id_program_gains_nothing_unless_that_was_asked_for(tmp_path: Path) -> None:
    os.chmod(tmp_path, 0o755)
    for parent in tmp_path.parents:
        if parent != Path("/") and parent.stat().st_uid == os.geteuid() and str(parent) != "/tmp":
            os.chmod(parent, 0o755)
    program = tmp_path / "su"
    shutil.copy("/usr/bin/id", program)
    os.chmod(program, 0o4755)
    answers = {}
    for no_new_privileges in (True, False):
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                os.dup2(writer, 1)
                restrict(APP, RUN_DEFAULT, cwd="/", seccomp=FILTER, no_new_privileges=no_new_privileges)
                os.execv(program, ["id", "-u"])
            finally:
                os._exit(1)
        os.close(writer)
        with os.fdopen(reader) as pipe:
            answers[no_new_privileges] = pipe.read().strip()
        os.waitpid(pid, 0)
    assert answers[True] == "1234"
    if not os.statvfs(tmp_path).f_flag & os.ST_NOSUID:
        assert answers[False] == "0"  # the control


def test_the_session_keyring_is_a_new_one() -> None:
    keyctl = {"x86_64": 250, "aarch64": 219}[MACHINE]

    def session() -> int:
        return syscall("keyctl", keyctl, 0, -3, 0)  # KEYCTL_GET_KEYRING_ID of KEY_SPEC_SESSION_KEYRING

    def act() -> list[object]:
        syscall("keyctl", keyctl, 1, b"callers")
        before = session()
        syscall("add_key", {"x86_64": 248, "aarch64": 217}[MACHINE],
                           b"user", b"secret", b"x", 1, -3)  # fmt: skip
        found = syscall("keyctl", keyctl, 10, before, b"user", b"secret", 0)  # the control: KEYCTL_SEARCH finds it
        restrict(ROOT, RUN_DEFAULT, cwd="/")
        try:
            syscall("keyctl", keyctl, 10, -3, b"user", b"secret", 0)
        except OSError as error:
            return [before != session(), found > 0, error.errno]
        return [before != session(), found > 0, 0]

    assert result_of(act) == [True, True, errno.ENOKEY]


def test_a_kernel_without_keys_has_no_keyring_to_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(number: int) -> None:
        def call(name: str, *arguments: object) -> int:
            raise OSError(number, f"{name}: {os.strerror(number)}")

        monkeypatch.setattr(privileges, "_call", call)

    answer(errno.ENOSYS)
    privileges.new_session_keyring()
    for number in (errno.EDQUOT, errno.EPERM):
        answer(number)
        with pytest.raises(OSError, match="keyctl"):
            privileges.new_session_keyring()


def test_the_working_directory_is_entered(tmp_path: Path) -> None:
    def act() -> str:
        restrict(ROOT, RUN_DEFAULT, cwd=str(tmp_path), seccomp=FILTER)
        return os.getcwd()

    assert result_of(act) == str(tmp_path)


def test_a_missing_working_directory_is_an_error_that_names_it() -> None:
    failure = result_of(lambda: restrict(ROOT, RUN_DEFAULT, cwd="/nowhere/at/all"))
    assert failure["errno"] == errno.ENOENT
    assert "chdir" in failure["text"] and "/nowhere/at/all" in failure["text"]


def test_a_directory_that_only_the_user_may_enter_is_entered_as_the_user(tmp_path: Path) -> None:
    """Root of the container without CAP_DAC_OVERRIDE, or a network file system that maps root to nobody."""
    for directory in (tmp_path, *tmp_path.parents):
        if directory != Path("/") and str(directory) != "/tmp":
            os.chmod(directory, 0o755)
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    os.chown(home, APP.uid, APP.gid)

    def act() -> str:
        from runtime.capabilities import limit_own

        limit_own(mask_of(["SETUID", "SETGID", "SETPCAP"]))
        try:
            os.chdir(home)
        except PermissionError:
            restrict(APP, 0, cwd=str(home), seccomp=FILTER)
            return os.getcwd()
        return "root could enter: the test shows nothing"

    assert result_of(act) == str(home)


def test_a_directory_that_nobody_may_enter_is_an_error(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0)

    def act() -> None:
        from runtime.capabilities import limit_own

        limit_own(mask_of(["SETUID", "SETGID", "SETPCAP"]))
        restrict(APP, 0, cwd=str(closed))

    assert result_of(act)["errno"] == errno.EACCES


@pytest.mark.needs("mount")
def test_a_working_directory_outside_the_root_is_refused(tmp_path: Path) -> None:
    """CVE-2024-21626: /proc/self/fd/N, with a descriptor that was forgotten."""
    inside = tmp_path / "inside"
    (inside / "proc").mkdir(parents=True)
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "canary").write_bytes(b"secret")

    def act(careless: bool) -> object:
        libc("unshare", 0x20000)
        libc("mount", b"none", b"/", None, 0x44000, None)  # MS_REC | MS_PRIVATE
        libc("mount", os.fsencode(inside), os.fsencode(inside), None, 4096, None)
        libc("mount", b"/proc", os.fsencode(inside / "proc"), None, 4096 | 16384, None)
        forgotten = os.open(outside, os.O_PATH | os.O_DIRECTORY)
        os.chroot(inside)
        os.chdir("/")
        if careless:
            os.chdir(f"/proc/self/fd/{forgotten}")
            with open("canary") as file:
                return file.read()
        restrict(ROOT, RUN_DEFAULT, cwd=f"/proc/self/fd/{forgotten}")
        return "entered"

    assert result_of(lambda: act(careless=True)) == "secret"
    failure = result_of(lambda: act(careless=False))
    assert failure["errno"] == errno.ENOENT
    assert "lies outside the container" in failure["text"]


@pytest.mark.parametrize("user", [ROOT, APP])
def test_nobody_else_may_trace_the_process_before_it_executes(user: User) -> None:
    """A process of the same user in the same container could otherwise take it over while it still is our code."""

    def dumpable() -> int:
        return libc("prctl", 3, 0, 0, 0, 0)  # PR_GET_DUMPABLE

    def act() -> int:
        restrict(user, RUN_DEFAULT, cwd="/")
        return dumpable()

    assert result_of(dumpable) == 1
    assert result_of(act) == 0


def test_no_id_is_left_to_return_to() -> None:
    def act() -> list[tuple[int, int, int]]:
        restrict(APP, RUN_DEFAULT, cwd="/")
        return [os.getresuid(), os.getresgid()]

    assert result_of(act) == [[APP.uid] * 3, [APP.gid] * 3]


def test_a_caller_that_keeps_capabilities_over_a_change_of_user_makes_no_difference() -> None:
    def act() -> list[str]:
        libc("prctl", 28, 1 << 2, 0, 0, 0)  # PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP: the kernel alone would let them all stay
        restrict(APP, RUN_DEFAULT, cwd="/")
        found = status()
        return [found["CapPrm"], found["CapEff"]]

    assert [int(found, 16) for found in result_of(act)] == [0, 0]


def test_core_dumps_are_off_and_other_limits_as_asked() -> None:
    def act() -> list[tuple[int, int]]:
        restrict(ROOT, RUN_DEFAULT, cwd="/", limits=[("nofile", 100, 200), ("stack", 1 << 20, 1 << 21)])
        return [resource.getrlimit(which) for which in (resource.RLIMIT_CORE, resource.RLIMIT_NOFILE, resource.RLIMIT_STACK)]

    resource.setrlimit(
        resource.RLIMIT_STACK, (resource.getrlimit(resource.RLIMIT_STACK)[0], resource.getrlimit(resource.RLIMIT_STACK)[1])
    )
    core, files, stack = result_of(act)
    assert (core, files, stack) == ([0, 0], [100, 200], [1 << 20, 1 << 21])


def test_core_dumps_may_be_asked_for() -> None:
    def act() -> tuple[int, int]:
        restrict(ROOT, RUN_DEFAULT, cwd="/", limits=[("core", 4096, 4096)])
        return resource.getrlimit(resource.RLIMIT_CORE)

    assert result_of(act) == [4096, 4096]


def test_no_limit_takes_a_capability_to_be_lowered_and_a_raise_says_what_failed() -> None:
    def act() -> dict[str, object]:
        from runtime.capabilities import limit_own

        set_limit("nofile", 10, 20)
        limit_own(0)
        for number, name in enumerate(LIMITS):
            soft = resource.getrlimit(number)[0]
            set_limit(name, soft, soft)
        set_limit("nofile", 30, 30)
        return {}

    failure = result_of(act)
    assert failure["errno"] == errno.EPERM
    assert "set the limit nofile to 30:30" in failure["text"]


def test_the_limits_are_named_as_the_kernel_numbers_them() -> None:
    for number, name in enumerate(LIMITS):
        if name != "locks":
            assert getattr(resource, f"RLIMIT_{name.upper()}") == number


def test_changing_the_user_leaves_the_threads_of_the_parent_alone() -> None:
    """libc's setuid would signal every thread it knows of; the raw call changes the calling one."""
    before = status()["Uid"]
    result_of(lambda: restrict(APP, 0, cwd="/"))
    assert status()["Uid"] == before


@pytest.mark.skipif(shutil.which("strace") is None, reason="no strace")
def test_the_order_of_the_steps(tmp_path: Path) -> None:
    code = f"""
import os, sys
sys.path.insert(0, {os.getcwd()!r})
from runtime.privileges import restrict
from runtime.users import User
switch, program = sys.argv[1] == "on", bytes.fromhex(sys.argv[2])
restrict(User(1234, 2345, (2345,)), 0x4fb, cwd="/tmp", no_new_privileges=switch, seccomp=program)
os.execv("/bin/true", ["true"])
"""
    orders = {}
    for switch in ("on", "off"):
        log = tmp_path / switch
        subprocess.run(
            ["strace", "-o", log, "-e", "trace=keyctl,chdir,getcwd,prctl,setgroups,setresgid,setresuid,capset,execve,prlimit64",
             sys.executable, "-I", "-S", "-c", code, switch, FILTER.hex()],
            check=True,
        )  # fmt: skip
        lines = log.read_text().splitlines()
        start = next(index for index, line in enumerate(lines) if line.startswith("keyctl"))
        steps = []
        for line in lines[start:]:
            name, _, rest = line.partition("(")
            step = f"{name}({rest.split(',')[0].rstrip(')')}" if name == "prctl" else name
            if line.startswith(("+++", "---")) or (steps and steps[-1] == step):
                continue
            steps.append(step)
        orders[switch] = steps[: steps.index("execve") + 1]
    enter = ["keyctl", "prlimit64", "chdir", "getcwd"]
    bounding, install = "prctl(PR_CAPBSET_DROP", "prctl(PR_SET_SECCOMP"
    become = ["setgroups", "setresgid", "setresuid", "prctl(PR_SET_DUMPABLE", "capset", "prctl(PR_CAP_AMBIENT"]
    assert orders["on"] == [*enter, bounding, *become, "prctl(PR_SET_NO_NEW_PRIVS", install, "execve"]
    assert orders["off"] == [*enter, install, bounding, *become, "execve"]


@pytest.mark.skipif(shutil.which("strace") is None, reason="no strace")
@pytest.mark.parametrize(
    ("call", "when", "said"),
    [
        ("keyctl", 1, "keyctl"),
        ("prlimit64", 1, "set the limit core"),
        ("chdir", 1, "chdir"),
        ("getcwd", 1, "getcwd"),
        ("setgroups", 1, "setgroups"),
        ("setresgid", 1, "setresgid"),
        ("setresuid", 1, "setresuid"),
        ("capset", 1, "capset"),
        ("prctl", 1, "drop capability 2 from the bounding set"),
        ("prctl", 35, "prctl"),
        ("prctl", 36, "prctl"),
        ("prctl", 37, "prctl"),
        ("prctl", 38, "install the system call filter"),
    ],
)
def test_every_step_that_fails_is_an_error_with_its_name(call: str, when: int, said: str, tmp_path: Path) -> None:
    code = f"""
import os, sys
sys.path.insert(0, {os.getcwd()!r})
from runtime.privileges import restrict
from runtime.users import User
filter = bytes.fromhex(sys.argv[1])
os.write(2, b"now")
try:
    restrict(User(1234, 2345, (2345,)), 0x4fb, cwd="/tmp", seccomp=filter)
except OSError as error:
    print(error.errno, error, flush=True)
    os._exit(3)
print("it went on")
"""
    command = [sys.executable, "-I", "-S", "-c", code, FILTER.hex()]
    # Counted from where our code starts: the interpreter makes calls of its own before.
    log = tmp_path / "calls"
    subprocess.run(["strace", "-o", log, "-e", f"trace={call},write", *command], check=False, capture_output=True)
    before = log.read_text().split('write(2, "now"')[0].count(f"{call}(")
    inject = f"inject={call}:error=ENXIO:when={before + when}"
    done = subprocess.run(["strace", "-o", "/dev/null", "-e", inject, *command], check=False, capture_output=True, text=True)
    assert done.returncode == 3, done.stdout
    assert done.stdout.startswith(str(errno.ENXIO))
    assert said in done.stdout


def test_a_machine_without_numbers_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(privileges, "MACHINE", "s390x")
    with pytest.raises(OSError, match="does not know the system call numbers of s390x"):
        privileges.become(ROOT)
