"""The default profile: what it decides, held against libseccomp's reading of the same tables and against what threatens."""

import os
import re
from pathlib import Path

import pytest

from runtime import seccomp_cache, seccomp_profile
from runtime.capabilities import ALL, BUILD_DEFAULT, RUN_DEFAULT, mask_of
from runtime.seccomp import ALLOW, assemble, errno, machines
from runtime.seccomp_profile import ALLOWED, GATES, WITH_CAPABILITY, default
from runtime.syscall_numbers import NUMBERS
from tests.runtime.bpf import AUDIT_ARCH, LIBSECCOMP, Oracle, run

EPERM, ENOSYS = errno(1), errno(38)
MACHINES = sorted(machines())
EVERYDAY = """
    read write open openat close stat fstat lstat newfstatat statx lseek mmap mprotect munmap brk rt_sigaction rt_sigprocmask
    ioctl pread64 access pipe pipe2 select poll dup dup2 dup3 getpid fork vfork clone execve exit exit_group wait4 kill uname
    fcntl fsync getcwd chdir rename mkdir rmdir link unlink symlink readlink chmod chown getuid setuid setgid setgroups setsid
    getrandom set_tid_address set_robust_list rseq prlimit64 arch_prctl socket connect accept4 bind listen epoll_wait epoll_ctl
    sendfile futex getdents64 clock_gettime nanosleep utimensat memfd_create pidfd_open close_range faccessat2 openat2 prctl
    seccomp sync
"""
HIGH = 1 << 32  # a bit that the kernel does not look at where it takes an int


def decision(name: str, *arguments: int, capabilities: int = RUN_DEFAULT, machine: str = "x86_64") -> int:
    return run(assemble(default(capabilities), machine), AUDIT_ARCH[machine], NUMBERS[machine][name], arguments)


def test_the_tables_name_only_calls_that_exist() -> None:
    known = set(NUMBERS["x86_64"]) | set(NUMBERS["aarch64"])
    gated = {name for names in WITH_CAPABILITY.values() for name in names.split()}
    assert ALLOWED | gated | set(seccomp_profile.FALLING_BACK) <= known
    assert not ALLOWED & gated


def test_the_numbers_are_those_of_the_kernel_headers() -> None:
    header = Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h")
    if not header.exists():
        pytest.skip("no kernel headers of x86_64")
    numbers = {name: int(number) for name, number in re.findall(r"#define __NR_(\w+) (\d+)", header.read_text())}
    ours = NUMBERS["x86_64"]
    assert {name: ours.get(name) for name in numbers} == numbers
    assert all(number > max(numbers.values()) or number in (335, 336) for name, number in ours.items() if name not in numbers)


@pytest.mark.skipif(LIBSECCOMP is None, reason="libseccomp is not installed")
@pytest.mark.parametrize("machine", MACHINES)
def test_the_numbers_are_those_of_libseccomp(machine: str) -> None:
    assert LIBSECCOMP is not None
    architecture = AUDIT_ARCH[machine]
    theirs = {name: LIBSECCOMP.seccomp_syscall_resolve_name_arch(architecture, name.encode()) for name in NUMBERS[machine]}
    shared = {name: number for name, number in theirs.items() if number >= 0}
    assert len(shared) > 290
    assert {name: NUMBERS[machine][name] for name in shared} == shared


def test_numbers_are_unique_and_later_calls_are_numbered_alike_everywhere() -> None:
    for numbers in NUMBERS.values():
        assert len(set(numbers.values())) == len(numbers)
    first, second = ({name: number for name, number in numbers.items() if number >= 424} for numbers in NUMBERS.values())
    assert first == second
    assert (first["openat2"], first["statmount"], first["mseal"], first["file_setattr"]) == (437, 457, 462, 469)


@pytest.mark.skipif(LIBSECCOMP is None, reason="libseccomp is not installed")
@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize(
    "capabilities", [0, RUN_DEFAULT, BUILD_DEFAULT, mask_of(["SYS_ADMIN"]), mask_of(["SYS_PTRACE", "BPF"]), ALL]
)
def test_libseccomp_decides_the_same(machine: str, capabilities: int) -> None:
    """Two oracles, since libseccomp cannot allow all but two values of one argument: one of permissions, one of refusals."""
    profile = default(capabilities)
    ours = assemble(profile, machine)
    numbers = NUMBERS[machine]
    otherwise = errno(99)
    permissions, refusals = Oracle(machine, otherwise), Oracle(machine, ALLOW)
    compared = {name for name in numbers if permissions.knows(name)}
    for name in compared:
        for rule in profile.rules.get(name, ()):
            if name in ("ioctl", "socket"):
                if rule.when:
                    refusals.add(name, rule.action, *[(held.argument, "&", held.mask, held.value) for held in rule.when])
            else:
                permissions.add(name, rule.action, *[(held.argument, "&", held.mask, held.value) for held in rule.when])
    permitting, refusing = permissions.program(), refusals.program()
    arguments = [
        (0, 0),
        (8, 8),
        (0x20000, 0),
        (0x20008, 0),
        (0xFFFFFFFF, 0),
        (2**64 - 1, 0),
        (0x5412, 0x5412),
        (38, 0x541C),
        (40, HIGH | 0x5412),
        (HIGH | 38, HIGH | 0x541C),
        (HIGH | 40, 0x5413),
        (0x10000000, 0x5411),
        (0x11, 0x5401),
        (0x7E020000, 0),
        (0x3D0F00, 0x80045430),
        (HIGH, HIGH),
    ]
    names = {number: name for name, number in numbers.items()}
    for number in range(601):
        name = names.get(number, "")
        if name and name not in compared:
            continue  # later than this libseccomp: the tests below have these
        oracle = refusing if name in ("ioctl", "socket") else permitting
        for held in arguments:
            theirs = run(oracle, AUDIT_ARCH[machine], number, held)
            expected = (EPERM if name else ENOSYS) if theirs == otherwise else theirs
            assert run(ours, AUDIT_ARCH[machine], number, held) == expected, (number, name, held)


@pytest.mark.parametrize("machine", MACHINES)
def test_what_docker_allows_and_box_does_not(machine: str) -> None:
    for name in ("vmsplice", "statmount", "listmount", "memfd_secret"):
        assert decision(name, machine=machine) == EPERM
        assert decision(name, machine=machine, capabilities=ALL) == EPERM


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize(
    "name",
    [
        *("io_uring_setup", "io_uring_enter", "io_uring_register", "bpf", "perf_event_open", "userfaultfd", "keyctl", "add_key"),
        *("request_key", "kexec_load", "kexec_file_load", "mount", "umount2", "pivot_root", "fsopen", "fsmount", "move_mount"),
        *(
            "open_tree",
            "open_tree_attr",
            "mount_setattr",
            "unshare",
            "setns",
            "init_module",
            "finit_module",
            "delete_module",
            "reboot",
        ),
        *("swapon", "swapoff", "open_by_handle_at", "settimeofday", "clock_settime", "acct", "quotactl", "syslog", "nfsservctl"),
        *(
            "pidfd_getfd",
            "kcmp",
            "process_madvise",
            "mbind",
            "move_pages",
            "migrate_pages",
            "lookup_dcookie",
            "vhangup",
            "sethostname",
        ),
    ],
)
def test_dangerous_calls_are_refused(name: str, machine: str) -> None:
    assert decision(name, machine=machine) == EPERM


@pytest.mark.parametrize("machine", MACHINES)
def test_a_container_that_has_every_capability_still_cannot_have_some(machine: str) -> None:
    for name in ("io_uring_setup", "userfaultfd", "keyctl", "add_key", "request_key", "kexec_load", "pivot_root", "swapon"):
        assert decision(name, machine=machine, capabilities=ALL) == EPERM


@pytest.mark.parametrize("capability", sorted(WITH_CAPABILITY))
def test_a_gate_opens_with_its_capability_and_with_no_other(capability: str) -> None:
    own = mask_of([capability])
    elsewhere = {name for other, names in WITH_CAPABILITY.items() if other != capability for name in names.split()}
    for name in WITH_CAPABILITY[capability].split():
        assert decision(name, 0x10000000, capabilities=own) == ALLOW
        if name not in elsewhere:
            assert decision(name, 0x10000000, capabilities=ALL & ~own) in (EPERM, ENOSYS)


def test_capabilities_that_open_no_gate_make_no_difference() -> None:
    assert seccomp_cache.GATES == GATES
    for machine in MACHINES:
        assert assemble(default(ALL & ~GATES), machine) == assemble(default(0), machine)


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("capabilities", [RUN_DEFAULT, ALL])
@pytest.mark.parametrize("high", [0, HIGH, 0xFFFFFFFF << 32])
def test_no_capability_and_no_upper_half_lets_type_on_the_callers_terminal(machine: str, capabilities: int, high: int) -> None:
    """A comparison of all 64 bits would let 0x1_0000_5412 pass, which the kernel takes for TIOCSTI."""
    for request in (0x5412, 0x541C):
        assert decision("ioctl", 0, high | request, capabilities=capabilities, machine=machine) == EPERM
    for request in (0x5401, 0x5411, 0x5413, 0x541B, 0x541D):
        assert decision("ioctl", 0, high | request, capabilities=capabilities, machine=machine) == ALLOW


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("capabilities", [RUN_DEFAULT, ALL])
@pytest.mark.parametrize("high", [0, HIGH, 0xFFFFFFFF << 32])
def test_two_socket_families_are_refused_whatever_the_upper_half(machine: str, capabilities: int, high: int) -> None:
    for family in (38, 40):
        assert decision("socket", high | family, capabilities=capabilities, machine=machine) == EPERM
    for family in (1, 2, 10, 16, 17, 37, 39, 41):
        assert decision("socket", high | family, capabilities=capabilities, machine=machine) == ALLOW


@pytest.mark.parametrize("machine", MACHINES)
def test_clone_makes_processes_and_threads_and_no_namespaces(machine: str) -> None:
    for flags in (17, 0x3D0F00, 0x1200011, 0x4111, 0x11 | HIGH):
        assert decision("clone", flags, machine=machine) == ALLOW
    for namespace in (0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000):
        for flags in (namespace | 17, namespace | HIGH, namespace | 0x3D0F00):
            assert decision("clone", flags, machine=machine) == EPERM
            assert decision("clone", flags, machine=machine, capabilities=mask_of(["SYS_ADMIN"])) == ALLOW


@pytest.mark.parametrize("machine", MACHINES)
def test_a_program_is_told_to_take_the_older_call_where_there_is_one(machine: str) -> None:
    for name in ("clone3", "file_getattr", "file_setattr"):
        assert decision(name, machine=machine) == ENOSYS
    assert decision("clone3", machine=machine, capabilities=mask_of(["SYS_ADMIN"])) == ALLOW
    program = assemble(default(ALL), machine)
    for number in (470, 471, 600, 1000, 5000, 0x3FFFFFFF):
        assert run(program, AUDIT_ARCH[machine], number) == ENOSYS


@pytest.mark.parametrize("machine", MACHINES)
def test_personalities(machine: str) -> None:
    for value in (0, 8, 0x20000, 0x20008, 0xFFFFFFFF, 2**64 - 1):
        assert decision("personality", value, machine=machine) == ALLOW
    for value in (0x40000, 0x400000, 4, HIGH | 0x40000, 0x20009):
        assert decision("personality", value, machine=machine) == EPERM


def test_calls_of_i386_arm_and_x32_are_answered_as_by_a_kernel_without_them() -> None:
    for machine, other in (("x86_64", "i386"), ("aarch64", "arm")):
        program = assemble(default(ALL), machine)
        for number in range(512):
            assert run(program, AUDIT_ARCH[other], number) == ENOSYS
    for number in range(600):
        assert run(assemble(default(ALL), "x86_64"), AUDIT_ARCH["x86_64"], 0x40000000 | number) == ENOSYS


@pytest.mark.parametrize("machine", MACHINES)
def test_a_call_is_decided_in_few_steps(machine: str) -> None:
    program = assemble(default(RUN_DEFAULT), machine)
    assert len(program) // 8 < 150
    for number in range(601):
        run(program, AUDIT_ARCH[machine], number, (0x10000000, 0x5413), longest=24)


def test_the_kept_filters_are_named_by_these_tables() -> None:
    """After any change of the profile, the numbers or the compiler: the new digest belongs into seccomp_cache.PROFILE."""
    assert seccomp_profile.digest() == seccomp_cache.PROFILE


def test_the_digest_notices_every_table(monkeypatch: pytest.MonkeyPatch) -> None:
    before = seccomp_profile.digest()
    for name, value in (
        ("ALLOWED", ALLOWED - {"tee"}),
        ("FALLING_BACK", ("clone3",)),
        ("_AF_VSOCK", 41),
        ("_PERSONALITIES", (0,)),
        ("WITH_CAPABILITY", {**WITH_CAPABILITY, "SYS_BOOT": ""}),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(seccomp_profile, name, value)
            assert seccomp_profile.digest() != before, name


def test_what_every_program_needs_is_allowed() -> None:
    """The calls of /bin/true, a shell, a compiler and a web server, as strace shows them."""
    denied = {name for name in EVERYDAY.split() if decision(name) != ALLOW}
    assert not denied


def test_the_tests_see_this_machine() -> None:
    assert os.uname().machine in MACHINES
