"""What this machine can do, found by doing it: tests say `@pytest.mark.needs("overlay", "podman")`, the header prints it all.

A probe returns "" when the thing works, else why not.
"""

import errno
import functools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable

from store import syscalls

CLONE_NEWNS, CLONE_NEWUSER, CLONE_NEWNET = 0x20000, 0x10000000, 0x40000000


def _in_child(action: Callable[[], object]) -> str:
    """Do it in a process of its own; the reason of its failure by errno's name."""
    pid = os.fork()
    if pid == 0:
        status = 255
        try:
            action()
            status = 0
        except OSError as error:
            status = error.errno or 255
        finally:
            os._exit(status)
    _, waited = os.waitpid(pid, 0)
    status = os.waitstatus_to_exitcode(waited)
    if status == 0:
        return ""
    return f"{errno.errorcode.get(status, status)}: {os.strerror(status)}" if 0 < status < 255 else f"ended with {status}"


def _root() -> str:
    return "" if os.geteuid() == 0 else f"uid {os.geteuid()}"


def _own_mounts() -> None:
    syscalls.libc("unshare", CLONE_NEWNS)
    syscalls.mount("none", "/", "", syscalls.MS_REC | syscalls.MS_PRIVATE)


def _mount() -> str:
    def act() -> None:
        _own_mounts()
        syscalls.mount("probe", "/mnt", "tmpfs")

    return _in_child(act)


def _overlay() -> str:
    with tempfile.TemporaryDirectory(prefix="box-probe-") as top:
        for name in ("lower", "upper", "work", "merged"):
            os.mkdir(f"{top}/{name}")

        def act() -> None:
            _own_mounts()
            syscalls.mount(
                "probe", f"{top}/merged", "overlay", 0, f"lowerdir={top}/lower,upperdir={top}/upper,workdir={top}/work"
            )

        return _in_child(act)


def _erofs() -> str:
    return _in_child(lambda: syscalls.syscall("fsopen", syscalls.FSOPEN, b"erofs", 1))


def _userns() -> str:
    return _in_child(lambda: syscalls.libc("unshare", CLONE_NEWUSER))


def _netns() -> str:
    return _in_child(lambda: syscalls.libc("unshare", CLONE_NEWNET))


def _cgroup() -> str:
    """A group with a pids limit can be made, on v1 or on v2."""
    reasons = []
    for hierarchy in ("/sys/fs/cgroup/pids", "/sys/fs/cgroup"):
        group = f"{hierarchy}/box-probe-{os.getpid()}"
        try:
            os.mkdir(group)
        except OSError as error:
            reasons.append(f"{hierarchy}: {errno.errorcode[error.errno or 0]}")
            continue
        try:
            # On v2 a group has the controllers that the one above gives on, which box sees to.
            if os.path.exists(group + "/pids.max") or cgroup_version() == 2:
                return ""
            reasons.append(f"{hierarchy}: no pids.max")
        finally:
            os.rmdir(group)
    return ", ".join(reasons)


def cgroup_version() -> int:
    """2 where the unified hierarchy has the controllers, else 1."""
    try:
        with open("/sys/fs/cgroup/cgroup.controllers") as file:
            return 2 if "pids" in file.read() else 1
    except FileNotFoundError:
        return 1


def _cgroup2() -> str:
    return _cgroup() or ("" if cgroup_version() == 2 else "the controllers are on v1")


def _strace() -> str:
    return _program("strace") or _run("strace", "-o", "/dev/null", "true")


def _ext4() -> str:
    return _root() or _program("mkfs.ext4") or ("" if os.path.exists("/dev/loop-control") else "no loop devices")


def _xfs() -> str:
    return _root() or _program("mkfs.xfs") or ("" if os.path.exists("/dev/loop-control") else "no loop devices") or _kernel("xfs")


def _kernel(name: str) -> str:
    """Whether the kernel has this file system, by itself or as a module that mount(8) loads."""
    reason = _in_child(lambda: syscalls.syscall("fsopen", syscalls.FSOPEN, name.encode(), 1))
    return reason and f"no {name}: {reason}"


def _podman() -> str:
    return _program("podman") or _run("podman", "version")


def _dockerd() -> str:
    """The daemon is started by the tests that need it (tests/peers)."""
    return _root() or _program("dockerd") or _program("docker")


def _run(*command: str) -> str:
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]


def _program(name: str) -> str:
    return "" if shutil.which(name) else f"{name} is not installed"


PROBES: dict[str, Callable[[], str]] = {
    "root": _root,
    "mount": _mount,
    "overlay": _overlay,
    "erofs": _erofs,
    "userns": _userns,
    "netns": _netns,
    "cgroup": _cgroup,
    "cgroup2": _cgroup2,
    "strace": _strace,
    "ext4": _ext4,
    "xfs": _xfs,
    "podman": _podman,
    "dockerd": _dockerd,
} | {
    name: functools.partial(_program, name)
    for name in (
        "skopeo",
        "buildah",
        "runc",
        "crun",
        "umoci",
        "ctr",
        "bwrap",
        "mmdebstrap",
        "gcc",
        "bash",
        "zsh",
        "fish",
        "setfattr",
        "pigz",
        "unshare",
        "capsh",
        "busybox",
        "newuidmap",
    )
}


@functools.cache
def lacking(name: str) -> str:
    """Why this machine has not `name`, or an empty text. Probed once."""
    return PROBES[name]()


def required() -> frozenset[str]:
    """What BOX_REQUIRE says must not be skipped; `all` is every skip."""
    return frozenset(name.strip() for name in os.environ.get("BOX_REQUIRE", "").split(",") if name.strip())
