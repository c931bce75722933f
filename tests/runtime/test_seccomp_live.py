"""The default filter in the kernel: each call made behind it, and, as its control, without it."""

import ctypes
import mmap
import os
import signal
from collections.abc import Callable

import pytest

from runtime.capabilities import ALL, RUN_DEFAULT, mask_of
from runtime.seccomp import ALLOW, Profile, Rule, assemble, errno, machines
from runtime.seccomp_profile import default
from runtime.syscall_numbers import NUMBERS
from store.syscalls import MACHINE, libc, syscall
from tests.runtime.child import install, result_of

EPERM, ENOSYS = 1, 38
CALLS = NUMBERS.get(MACHINE, {})
HIGH = 1 << 32
SIGCHLD = 17

pytestmark = pytest.mark.skipif(MACHINE not in machines(), reason=f"no filter for {MACHINE}")


def errno_of(name: str, *arguments: int | bytes | None) -> int:
    """0, or the errno of the call. A child that it makes ends at once."""
    try:
        result = syscall(name, CALLS[name], *arguments)
    except OSError as error:
        return error.errno or -1
    if result == 0 and name in ("clone", "clone3"):
        os._exit(0)
    return 0


def behind(profile: Profile, call: Callable[[], int]) -> int:
    """What `call` returns in a process behind the filter."""

    def act() -> int:
        install(assemble(profile, MACHINE))
        return call()

    result = result_of(act)
    assert isinstance(result, int), result
    return result


def terminal() -> int:
    """The slave's side of a new terminal, which becomes the controlling one: only then may one type on it."""
    master, slave = os.openpty()
    os.set_inheritable(master, True)
    os.setsid()
    libc("ioctl", slave, 0x540E, 0)  # TIOCSCTTY
    return slave


def typing(high: int) -> int:
    return errno_of("ioctl", terminal(), high | 0x5412, b"x")


# call, what the filter answers, and what the kernel answers by itself in this machine and in others (none of them the filter's).
REFUSED: dict[str, tuple[Callable[[], int], int]] = {
    "TIOCSTI": (lambda: typing(0), EPERM),
    "TIOCSTI with an upper half": (lambda: typing(HIGH), EPERM),
    "TIOCLINUX": (lambda: errno_of("ioctl", terminal(), 0x541C, b"\x06"), EPERM),
    "AF_ALG": (lambda: errno_of("socket", 38, 5, 0), EPERM),
    "AF_ALG with an upper half": (lambda: errno_of("socket", HIGH | 38, 5, 0), EPERM),
    "AF_VSOCK": (lambda: errno_of("socket", 40, 1, 0), EPERM),
    "clone of a user namespace": (lambda: errno_of("clone", 0x10000000 | SIGCHLD, 0, 0, 0, 0), EPERM),
    "clone of a mount namespace": (lambda: errno_of("clone", 0x20000 | SIGCHLD, 0, 0, 0, 0), EPERM),
    "clone3": (lambda: errno_of("clone3", None, 0), ENOSYS),
    "unshare": (lambda: errno_of("unshare", 0x20000), EPERM),
    "setns": (lambda: errno_of("setns", -1, 0), EPERM),
    "mount": (lambda: errno_of("mount", None, None, None, 0, None), EPERM),
    "fsopen": (lambda: errno_of("fsopen", b"proc", 0), EPERM),
    "pivot_root": (lambda: errno_of("pivot_root", b"/nowhere", b"/nowhere"), EPERM),
    "keyctl": (lambda: errno_of("keyctl", 0, -3, 1), EPERM),
    "add_key": (lambda: errno_of("add_key", None, None, None, 0, 0), EPERM),
    "request_key": (lambda: errno_of("request_key", None, None, None, 0), EPERM),
    "bpf": (lambda: errno_of("bpf", 0, None, 0), EPERM),
    "perf_event_open": (lambda: errno_of("perf_event_open", None, 0, -1, -1, 0), EPERM),
    "io_uring_setup": (lambda: errno_of("io_uring_setup", 0, None), EPERM),
    "userfaultfd": (lambda: errno_of("userfaultfd", -1), EPERM),
    "open_by_handle_at": (lambda: errno_of("open_by_handle_at", -1, None, 0), EPERM),
    "vmsplice": (lambda: errno_of("vmsplice", -1, None, 0, 0), EPERM),
    "statmount": (lambda: errno_of("statmount", None, None, 0, 0), EPERM),
    "listmount": (lambda: errno_of("listmount", None, None, 0, 0), EPERM),
    "memfd_secret": (lambda: errno_of("memfd_secret", -1), EPERM),
    "personality without randomisation": (lambda: errno_of("personality", 0x40000), EPERM),
    "reboot with a wrong magic number": (lambda: errno_of("reboot", 0, 0, 0, 0), EPERM),
    "swapoff": (lambda: errno_of("swapoff", b"/nowhere"), EPERM),
    "process_madvise": (lambda: errno_of("process_madvise", -1, None, 0, 0, 0), EPERM),
    "pidfd_getfd": (lambda: errno_of("pidfd_getfd", -1, -1, 0), EPERM),
}
# A kernel may lack these, or root may be denied them from outside; its own answer then hides the filter's.
OPTIONAL = {"memfd_secret", "statmount", "listmount", "io_uring_setup", "TIOCLINUX", "keyctl", "add_key", "request_key"}


@pytest.mark.needs("root")
@pytest.mark.parametrize("what", REFUSED)
def test_the_filter_answers_where_the_kernel_alone_would_act(what: str) -> None:
    call, expected = REFUSED[what]
    assert behind(default(RUN_DEFAULT), call) == expected
    control = result_of(call)
    assert control != expected or what in OPTIONAL, f"without the filter the kernel answers {control} too"


@pytest.mark.needs("root")
@pytest.mark.parametrize("what", ["TIOCSTI", "TIOCSTI with an upper half", "AF_ALG", "AF_VSOCK", "vmsplice", "userfaultfd"])
def test_every_capability_together_does_not_lift_it(what: str) -> None:
    call, expected = REFUSED[what]
    assert behind(default(ALL), call) == expected


@pytest.mark.needs("root")
def test_sys_admin_opens_what_it_is_for() -> None:
    for what in ("unshare", "clone of a mount namespace"):
        call, _ = REFUSED[what]
        assert behind(default(mask_of(["SYS_ADMIN"])), call) == 0


def test_ordinary_life_goes_on_behind_the_filter() -> None:
    def live() -> int:
        pid = os.fork()
        if pid == 0:
            os._exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
        with open("/proc/self/status") as file:
            assert "Seccomp:\t2" in file.read()
        assert errno_of("personality", 0xFFFFFFFF) == 0
        assert errno_of("socket", 2, 1, 0) == 0
        assert errno_of("socket", 1, 1, 0) == 0
        os.posix_spawn("/bin/sh", ["sh", "-c", "ls / | cat >/dev/null"], {})
        return os.waitstatus_to_exitcode(os.wait()[1])

    assert behind(default(RUN_DEFAULT), live) == 0


@pytest.mark.parametrize("number", [470, 5000, 0x3FFFFFFF])
def test_an_unknown_number_is_answered_by_the_filter(number: int) -> None:
    """The kernel says ENOSYS too, so a filter whose answer is another one shows who speaks."""

    def call() -> int:
        try:
            return syscall("unknown", number)
        except OSError as error:
            return error.errno or -1

    everything = {name: (Rule(ALLOW),) for name in CALLS}
    assert behind(default(RUN_DEFAULT), call) == ENOSYS
    assert behind(Profile(everything, refused=errno(1), unknown=errno(77), foreign=errno(78)), call) == 77


@pytest.mark.skipif(MACHINE != "x86_64", reason="x32 is of x86_64")
def test_x32_is_answered_by_the_filter() -> None:
    def call() -> int:
        try:
            return syscall("getpid", 0x40000000 | CALLS["getpid"])
        except OSError as error:
            return error.errno or -1

    everything = {name: (Rule(ALLOW),) for name in CALLS}
    assert behind(default(RUN_DEFAULT), call) == ENOSYS
    assert behind(Profile(everything, refused=errno(1), unknown=errno(77), foreign=errno(78)), call) == 78


# push rbx; mov eax, edi; int 0x80; pop rbx; ret: the i386 call whose number is the function's argument.
_INT80 = bytes.fromhex("53 89f8 cd80 5b c3")


def _int80(number: int) -> int:
    code = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    code.write(_INT80)
    address = ctypes.addressof(ctypes.c_char.from_buffer(code))
    return int(ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int)(address)(number))


def _without_i386() -> bool:
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGSEGV, signal.SIG_DFL)
        _int80(20)
        os._exit(0)
    return os.waitpid(pid, 0)[1] != 0


@pytest.mark.skipif(MACHINE != "x86_64", reason="int 0x80 is of x86")
def test_i386_calls_do_not_pass_the_filter() -> None:
    """310 is unshare there: a filter that looks at numbers alone takes it for what 310 is here, process_vm_readv."""
    if _without_i386():
        pytest.skip("this kernel has no i386 calls")
    assert result_of(lambda: _int80(20) == os.getpid()) is True  # the control: 20 is getpid there
    assert behind(default(ALL), lambda: _int80(20)) == -ENOSYS
    assert behind(default(RUN_DEFAULT), lambda: _int80(310)) == -ENOSYS
