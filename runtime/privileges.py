"""The last steps before a process becomes the container's program: it gives up, in an order that matters, all it shall not keep.

Both `run` and `exec` end their child side here. Only raw system calls change the identity: libc's setuid and its like signal
every thread that libc remembers, and after a clone those are another process's. Hot, and it imports nothing later either.

Sources: the man pages of the calls; credentials(7), keyrings(7), getrlimit(2).
"""

import os

from runtime import capabilities
from runtime.seccomp_cache import install
from runtime.users import User
from store.syscalls import MACHINE, Page, libc, syscall

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

PR_SET_DUMPABLE, PR_SET_NO_NEW_PRIVS = 4, 38
KEYCTL_JOIN_SESSION_KEYRING = 1
RLIM_INFINITY = 2**64 - 1

# asm-generic/resource.h, which x86 and arm follow.
LIMITS = (
    "cpu", "fsize", "data", "stack", "core", "rss", "nproc", "nofile", "memlock", "as", "locks", "sigpending", "msgqueue", "nice",
    "rtprio", "rttime",
)  # fmt: skip

_NUMBERS = {
    "x86_64": {"getcwd": 79, "setgroups": 116, "setresuid": 117, "setresgid": 119, "keyctl": 250, "prlimit64": 302},
    "aarch64": {"getcwd": 17, "setgroups": 159, "setresuid": 147, "setresgid": 149, "keyctl": 219, "prlimit64": 261},
}
_EPERM, _ENOENT, _EACCES, _ENOSYS = 1, 2, 13, 38


def restrict(
    user: User,
    capability_mask: int,
    *,
    cwd: str,
    no_new_privileges: bool = True,
    seccomp: bytes = b"",
    limits: "Iterable[tuple[str, int, int]]" = (),
) -> None:
    """Become `user`, in `cwd`, with `capability_mask` and behind the filter `seccomp` (empty: none): the next call is execve.

    To be called inside the container's root, with no descriptor open that the program shall not have. A user that is not root
    gets no capabilities, as with docker; the mask then still bounds what a set-user-id program may gain. Core dumps are off
    unless `limits` (name, soft, hard; -1 is no limit) says otherwise. An OSError names the action that failed; after one, only
    `_exit` is safe.
    """
    new_session_keyring()
    wanted = {"core": (0, 0)}
    wanted.update((name, (soft, hard)) for name, soft, hard in limits)
    for name, (soft, hard) in wanted.items():
        set_limit(name, soft, hard)
    entered = _enter(cwd, denied_is_fatal=False)
    if seccomp and not no_new_privileges:
        install(seccomp)  # without no_new_privs this takes CAP_SYS_ADMIN, which is about to go
    capabilities.limit_bounding(capability_mask)
    become(user)
    if not entered:
        _enter(cwd, denied_is_fatal=True)
    forbid_tracing()  # again: a change of identity resets it to what fs.suid_dumpable says
    capabilities.limit_own(capability_mask if user.uid == 0 else 0)
    if no_new_privileges:
        libc("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        if seccomp:
            install(seccomp)


def become(user: User) -> None:
    """Take the user's groups, group and user ids: real, effective and saved."""
    ids = b"".join(gid.to_bytes(4, "little") for gid in user.groups)
    _call("setgroups", len(user.groups), ids)
    _call("setresgid", user.gid, user.gid, user.gid)
    _call("setresuid", user.uid, user.uid, user.uid)


def forbid_tracing() -> None:
    """Let no other process without CAP_SYS_PTRACE read or trace this one until it executes a program."""
    libc("prctl", PR_SET_DUMPABLE, 0, 0, 0, 0)


def new_session_keyring() -> None:
    """Leave the caller's session keyring, which no namespace separates, for a new, empty one. A kernel without keys has none."""
    try:
        _call("keyctl", KEYCTL_JOIN_SESSION_KEYRING, None)
    except OSError as err:
        if err.errno != _ENOSYS:
            raise


def set_limit(name: str, soft: int, hard: int) -> None:
    """Set a limit of the calling process, `name` of LIMITS, -1 for none. Only raising `hard` takes a privilege."""
    values = b"".join((RLIM_INFINITY if value < 0 else value).to_bytes(8, "little") for value in (soft, hard))
    try:
        _call("prlimit64", 0, LIMITS.index(name), values, None)
    except OSError as err:
        raise OSError(err.errno, f"set the limit {name} to {soft}:{hard}: {os.strerror(err.errno or 0)}") from err


def _enter(cwd: str, *, denied_is_fatal: bool) -> bool:
    """Change into `cwd`, which must lie below the root. False: it denies entry to this identity, perhaps not to the next."""
    try:
        libc("chdir", os.fsencode(cwd), path=cwd)
    except OSError as err:
        if denied_is_fatal or err.errno not in (_EACCES, _EPERM):
            raise
        return False
    # A link such as /proc/self/fd/N can lead out of the root. The kernel then says "(unreachable)/...", which libc's getcwd
    # hides.
    page = Page()
    _call("getcwd", page, 4096)
    if page[0] != b"/":
        raise OSError(_ENOENT, "chdir: the working directory lies outside the container", cwd)
    return True


def _call(name: str, *arguments: int | bytes | Page | None) -> int:
    numbers = _NUMBERS.get(MACHINE)
    if numbers is None:
        raise OSError(_ENOSYS, f"{name}: box does not know the system call numbers of {MACHINE}")
    return syscall(name, numbers[name], *arguments)
