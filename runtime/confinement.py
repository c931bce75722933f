"""The last steps before the container's program: the child gives up, in an order that matters, all that it shall not keep. Hot.

Both `run` and `exec` end with these calls. Sources: the man pages of the calls; credentials(7), keyrings(7), getrlimit(2),
seccomp(2).
"""

from runtime.capabilities import VERSION_3, permitted
from runtime.linux import PR_SET_DUMPABLE
from runtime.program import EINVAL, ENOSYS, Program
from runtime.users import User
from store.errors import RunError

PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, PR_CAP_AMBIENT = 38, 22, 47
_PR_CAPBSET_DROP, _PR_CAP_AMBIENT_CLEAR_ALL, _KEYCTL_JOIN_SESSION_KEYRING = 24, 4, 1
_SECCOMP_MODE_FILTER, _SECCOMP_SET_MODE_FILTER = 2, 1
FILTER_FLAG_LOG = 2  # SECCOMP_FILTER_FLAG_LOG
LAST_CAPABILITY = 63
NO_LIMIT = 2**64 - 1

# asm-generic/resource.h, which x86 and arm follow.
LIMITS = (
    "cpu", "fsize", "data", "stack", "core", "rss", "nproc", "nofile", "memlock", "as", "locks", "sigpending", "msgqueue", "nice",
    "rtprio", "rttime",
)  # fmt: skip

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable


def confine(
    program: Program, user: User, capability_mask: int, *, no_new_privileges: bool = True, seccomp: bytes = b"",
    filter_flags: int = 0, limits: "Iterable[tuple[str, int, int]]" = (),
) -> None:  # fmt: skip
    """Add the steps that make the child `user`, with `capability_mask`, behind the filter `seccomp` (empty: none), which is
    installed with `filter_flags`.

    A user that is not root gets no capabilities, as with docker; the mask then still bounds what a set-user-id program may
    gain. Root gets no more than box itself has. Inheritable and ambient capabilities are always empty. Core dumps are off
    unless `limits` (name, soft, hard; -1 is no limit) says otherwise. Raises RunError for a limit that nobody knows.
    """
    call = program.call
    # Namespaces do not separate the session keyring; a kernel without keys has none.
    call("keyctl", _KEYCTL_JOIN_SESSION_KEYRING, None, action="join a new session keyring", tolerated=(ENOSYS,))
    wanted = {"core": (0, 0)}  # each set once: to raise what was lowered takes CAP_SYS_RESOURCE
    for name, soft, hard in limits:
        wanted[name] = (soft, hard)
    for name, (soft, hard) in wanted.items():
        emit_limit(program, name, soft, hard)
    if seccomp and not no_new_privileges:
        emit_filter(program, seccomp, filter_flags)  # without no_new_privs it takes CAP_SYS_ADMIN, which is about to go
    emit_bounding(program, capability_mask)
    groups = b"".join([gid.to_bytes(4, "little") for gid in user.groups])
    call("setgroups", len(user.groups), groups)
    call("setresgid", user.gid, user.gid, user.gid)
    call("setresuid", user.uid, user.uid, user.uid)
    # Again: a change of identity sets it to what fs.suid_dumpable says.
    call("prctl", PR_SET_DUMPABLE, 0, 0, 0, 0)
    own = capability_mask & permitted() if user.uid == 0 else 0
    emit_capabilities(program, own, own, 0)
    if no_new_privileges:
        call("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, action="set no_new_privs")
        if seccomp:
            emit_filter(program, seccomp, filter_flags)


def emit_bounding(program: Program, mask: int) -> None:
    """Nothing that the child executes may gain a capability outside the mask."""
    for number in range(LAST_CAPABILITY + 1):
        if not mask >> number & 1:
            # EINVAL: past the kernel's last capability.
            program.call("prctl", _PR_CAPBSET_DROP, number, 0, 0, 0, action=f"drop capability {number}", tolerated=(EINVAL,))


def emit_capabilities(program: Program, effective: int, permitted: int, inheritable: int) -> None:
    """These sets, and no ambient ones."""
    # struct __user_cap_data_struct[2]: the low words, then the high ones.
    words = [mask >> shift & 0xFFFFFFFF for shift in (0, 32) for mask in (effective, permitted, inheritable)]
    data = b"".join([word.to_bytes(4, "little") for word in words])
    program.call("capset", VERSION_3.to_bytes(4, "little") + bytes(4), data, action="set capabilities")
    program.call("prctl", PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0, action="clear ambient capabilities")


def emit_limit(program: Program, name: str, soft: int, hard: int) -> None:
    """Add a resource limit; -1 is none. RunError when nobody knows the name."""
    if name not in LIMITS:
        raise RunError(f"unknown limit {name!r}", hint=f"known are {', '.join(LIMITS)}")
    values = b"".join([(NO_LIMIT if value < 0 else value).to_bytes(8, "little") for value in (soft, hard)])
    program.call("prlimit64", 0, LIMITS.index(name), values, None, action=f"set the limit {name} to {soft}:{hard}")


def emit_filter(program: Program, seccomp: bytes, flags: int = 0) -> None:
    """Add the installation of a compiled filter, with the flags of seccomp(2)."""
    # struct sock_fprog: how many instructions, where.
    fprog = ((len(seccomp) // 8).to_bytes(8, "little"), [seccomp])
    if flags:
        program.call("seccomp", _SECCOMP_SET_MODE_FILTER, flags, fprog, action="install the system call filter")
        return
    program.call("prctl", PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, fprog, 0, 0, action="install the system call filter")
