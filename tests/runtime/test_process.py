"""The first process of a container: what it may do, what it was given, and what it was not."""

import os
import resource
import signal
from typing import Any

import pytest

from runtime.capabilities import RUN_DEFAULT, adjust
from tests.containers import Site

pytestmark = pytest.mark.needs("root", "overlay", "cgroup")


def status() -> dict[str, str]:
    with open("/proc/self/status") as file:
        return {key: value.strip() for key, _, value in (line.partition(":") for line in file)}


def test_the_capabilities_are_the_eight_and_none_is_passed_on(site: Site) -> None:
    seen = site.probe(status)
    eight = 1 << 0 | 1 << 1 | 1 << 3 | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 7 | 1 << 10
    assert eight == RUN_DEFAULT
    assert {key: int(seen[key], 16) for key in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {
        "CapInh": 0, "CapPrm": eight, "CapEff": eight, "CapBnd": eight, "CapAmb": 0,
    }  # fmt: skip


def test_capabilities_are_added_and_dropped(site: Site) -> None:
    seen = site.probe(status, capabilities=adjust(RUN_DEFAULT, ["NET_RAW"], ["CHOWN", "KILL"]))
    assert int(seen["CapEff"], 16) == RUN_DEFAULT & ~1 & ~(1 << 5) | 1 << 13
    assert int(site.probe(status, capabilities=0)["CapBnd"], 16) == 0


def test_a_user_has_no_capabilities_but_the_bound_of_root_s(site: Site) -> None:
    seen = site.probe(status, user="app")
    assert [int(seen[key], 16) for key in ("CapInh", "CapPrm", "CapEff", "CapAmb")] == [0, 0, 0, 0]
    assert int(seen["CapBnd"], 16) == RUN_DEFAULT


def test_no_privilege_can_be_gained_and_a_filter_stands_unless_it_is_told(site: Site) -> None:
    seen = site.probe(status)
    assert (seen["NoNewPrivs"], seen["Seccomp"]) == ("1", "2")
    seen = site.probe(status, no_new_privileges=False)
    assert (seen["NoNewPrivs"], seen["Seccomp"]) == ("0", "2")
    seen = site.probe(status, seccomp=False)
    assert (seen["NoNewPrivs"], seen["Seccomp"]) == ("1", "0")


def test_only_the_three_standard_descriptors_are_open(site: Site) -> None:
    """Whatever this process has open, inheritable or not."""

    def descriptors() -> dict[str, str]:
        import os

        names = os.listdir("/proc/self/fd")  # and the listing's own, which is closed now
        return {name: os.readlink(f"/proc/self/fd/{name}") for name in names if os.path.exists(f"/proc/self/fd/{name}")}

    reader, writer = os.pipe()
    root = os.open("/", os.O_RDONLY)
    high = os.dup2(root, 200)
    os.set_inheritable(root, True)
    os.set_inheritable(writer, True)
    try:
        seen = site.probe(descriptors)
    finally:
        for fd in (reader, writer, root, high):
            os.close(fd)
    assert seen.keys() == {"0", "1", "2"}, seen


def test_nothing_of_the_caller_s_environment_reaches_the_container(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def environment() -> dict[str, str]:
        import os

        return dict(os.environ)

    monkeypatch.setenv("SECRET", "of the caller")
    monkeypatch.setenv("LD_LIBRARY_PATH", "/caller")
    seen = site.probe(environment, hostname="h")
    assert seen.pop("LC_CTYPE", "C.UTF-8") == "C.UTF-8"  # Python's own coercion, in the container
    assert seen == {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOSTNAME": "h", "HOME": "/root",
    }  # fmt: skip


def test_the_environment_is_the_image_s_with_the_later_of_two_winning(site: Site) -> None:
    ran = site.run(
        "env", env=["A=1", "PATH=/usr/bin", "HOME=/elsewhere", "HOSTNAME=mine", "A=2", "EMPTY=", "EQUALS=a=b"], hostname="h"
    )
    assert set(ran.out.split()) == {"A=2", "PATH=/usr/bin", "HOME=/elsewhere", "HOSTNAME=mine", "EMPTY=", "EQUALS=a=b"}


def test_the_mask_of_new_files_is_022_whatever_the_caller_s_is(site: Site) -> None:
    former = os.umask(0o077)
    try:
        ran = site.shell("umask; echo x > /tmp/x; ls -l /tmp/x")
    finally:
        os.umask(former)
    assert ran.out.split()[:2] == ["0022", "-rw-r--r--"]


def test_every_signal_has_its_default_meaning_and_none_is_blocked(site: Site) -> None:
    """Python itself ignores SIGPIPE, and a shell's background job SIGINT: a container must inherit neither."""
    assert signal.getsignal(signal.SIGPIPE) == signal.SIG_IGN
    former = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    try:
        ran = site.run("cat", "/proc/self/status")
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR1])
        signal.signal(signal.SIGHUP, former)
    seen = dict(line.split(":\t") for line in ran.out.splitlines() if line.startswith("Sig"))
    assert (seen["SigBlk"], seen["SigIgn"], seen["SigCgt"]) == ("0" * 16, "0" * 16, "0" * 16)


def test_the_caller_s_own_signals_are_as_before(site: Site) -> None:
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    handlers = {number: signal.getsignal(number) for number in signal.valid_signals() if number not in (9, 19)}
    assert site.run("true").status == 0
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == blocked
    assert {number: signal.getsignal(number) for number in signal.valid_signals() if number not in (9, 19)} == handlers


def test_there_are_no_core_dumps_and_other_limits_are_the_caller_s(site: Site) -> None:
    def limits() -> list[Any]:
        import resource

        return [resource.getrlimit(name) for name in (resource.RLIMIT_CORE, resource.RLIMIT_NOFILE, resource.RLIMIT_STACK)]

    core, files, stack = site.probe(limits)
    assert core == [0, 0]
    assert tuple(files) == resource.getrlimit(resource.RLIMIT_NOFILE)
    assert tuple(stack) == resource.getrlimit(resource.RLIMIT_STACK)
    assert site.probe(limits, ulimits=[("nofile", 64, 128), ("core", 10, 20)])[:2] == [[10, 20], [64, 128]]


def test_the_session_keyring_is_a_new_one(site: Site) -> None:
    def keyring() -> int:
        import ctypes
        import os

        libc = ctypes.CDLL(None, use_errno=True)
        number = {"x86_64": 250, "aarch64": 219}[os.uname().machine]
        return int(libc.syscall(number, 0, -3, 0))  # KEYCTL_GET_KEYRING_ID, KEY_SPEC_SESSION_KEYRING

    own = keyring()
    # keyctl is not in the filter's list: the filter is off for the look.
    seen = site.probe(keyring, seccomp=False)
    assert seen > 0
    assert seen != own


def test_the_process_leads_a_session_of_its_own_and_has_no_terminal(site: Site) -> None:
    def session() -> list[Any]:
        import os

        try:
            os.close(os.open("/dev/tty", os.O_RDWR))
            terminal = 0
        except OSError as error:
            terminal = error.errno or 0
        return [os.getsid(0) == os.getpid(), terminal]

    assert site.probe(session) == [True, 6]  # ENXIO


def test_input_and_both_outputs_are_the_descriptors_given(site: Site) -> None:
    ran = site.run("sh", "-c", "cat; echo problem >&2", stdin=b"through and through\n")
    assert (ran.out, ran.err, ran.status) == ("through and through\n", "problem\n", 0)


@pytest.mark.parametrize("status", [0, 1, 42, 125, 255])
def test_the_exit_status_is_the_command_s(site: Site, status: int) -> None:
    ran = site.shell(f"exit {status}")
    assert (ran.outcome.status, ran.outcome.signal) == (status, None)


@pytest.mark.parametrize("number", [9, 11, 15])
def test_a_signal_s_end_is_128_and_its_number(site: Site, number: int) -> None:
    """Sent from inside to a child of process 1, which passes it on as a shell does; and met by process 1 itself."""
    assert site.shell(f"sh -c 'kill -{number} $$'; exit $?").status == 128 + number

    def fault() -> None:
        import ctypes

        ctypes.string_at(1)  # the kernel's own SIGSEGV ends even process 1

    from tests.containers import probing

    outcome = site.run(*probing(fault)).outcome
    assert (outcome.status, outcome.signal) == (139, 11)
