"""The last steps before a bundle's command, as its config.json has them; runtime.entry and runtime.confinement are the same for
`box run`, which leaves less open."""

import posix as os

from runtime.bundle import Process
from runtime.bundle_scheduling import emit_scheduling
from runtime.capabilities import ALL, permitted
from runtime.confinement import (
    LAST_CAPABILITY,
    PR_CAP_AMBIENT,
    PR_SET_NO_NEW_PRIVS,
    emit_bounding,
    emit_capabilities,
    emit_filter,
    emit_limit,
)
from runtime.linux import PR_SET_DUMPABLE
from runtime.program import AT_FDCWD, ENOSYS, EPERM, Program
from runtime.steps import emit_default_signals, emit_unblocked, emit_working_directory
from store.errors import RunError
from store.syscalls import encode, open_how

TYPE_CHECKING = False
if TYPE_CHECKING:
    from runtime.engine_filters import Filter

READY = bytes(16)  # what a process that waits says to who has made it
_PR_CAP_AMBIENT_RAISE, _PR_SET_KEEPCAPS = 2, 8
_KEYCTL_JOIN_SESSION_KEYRING = 1
_DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def emit_birth(program: Program, process: Process, joined: list[int], *, score: bool = True) -> None:
    """Add a child's first steps: no signal ignored, a session of its own, into the control groups (descriptors of v1's `tasks`),
    and, unless somebody else does it, what of its `score` only the machine's /proc can be told."""
    emit_default_signals(program)
    program.call("prctl", PR_SET_DUMPABLE, 0, 0, 0, 0)
    program.call("setsid", tolerated=(EPERM,))
    if score and process.oom_score_adj is not None:
        value = str(process.oom_score_adj).encode()
        how = open_how(os.O_WRONLY, 0, 0)
        file = program.call("openat2", AT_FDCWD, b"/proc/self/oom_score_adj\0", how, len(how), action="open oom_score_adj")
        program.call("write", file, value, len(value), action=f"set process.oomScoreAdj to {process.oom_score_adj}")
    for tasks in joined:
        program.call("write", tasks, b"0", 1, action="join the control group")


def emit_limits(program: Program, process: Process) -> None:
    """Add its resource limits."""
    for name, soft, hard in process.limits:
        emit_limit(program, name, soft, hard)


def emit_identity(
    program: Program, process: Process, seccomp: "Filter | None", *, keyring: bool = True, users: bool = False
) -> None:
    """Add the steps from the container's root to all that the command is but itself: scheduling, limits, identity, capabilities,
    working directory; and the filter, if it cannot come later. Nothing but the descriptors that are closed before and after may
    be open. With `users` it has a user namespace of its own: every capability there, and its limits from elsewhere."""
    call = program.call
    emit_scheduling(program, process)
    if keyring:
        call("keyctl", _KEYCTL_JOIN_SESSION_KEYRING, None, action="join a new session keyring", tolerated=(ENOSYS, EPERM))
    if not users:
        emit_limits(program, process)
    if seccomp and not process.no_new_privileges:
        _emit_filter(program, seccomp)
    sets = process.capabilities
    held = ALL if users else permitted()
    masks = {name: mask & held for name, mask in sets.items()} if sets is not None else None
    if masks is not None:
        emit_bounding(program, masks["bounding"])
        call("prctl", _PR_SET_KEEPCAPS, 1, 0, 0, 0, action="keep capabilities")
    groups = b"".join([gid.to_bytes(4, "little") for gid in process.groups])
    # Where it is forbidden (user_namespaces(7)) there are none to be dropped that could be.
    call("setgroups", len(process.groups), groups or None, tolerated=(EPERM,) if users and not groups else ())
    call("setresgid", process.gid, process.gid, process.gid)
    call("setresuid", process.uid, process.uid, process.uid)
    call("prctl", PR_SET_DUMPABLE, 0, 0, 0, 0)
    if process.umask is not None:
        call("umask", process.umask)
    # As the user: a directory that only root may enter is none for it, unless its capabilities say so.
    if masks is not None:
        emit_capabilities(program, masks["effective"], masks["permitted"], masks["inheritable"])
        for number in range(LAST_CAPABILITY + 1):
            if (masks["ambient"] & masks["permitted"] & masks["inheritable"]) >> number & 1:
                call("prctl", PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, number, 0, 0, action=f"raise capability {number}")
    emit_working_directory(program, process.cwd)
    if seccomp and seccomp.listener and process.no_new_privileges:
        call("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, action="set no_new_privs")
        _emit_filter(program, seccomp)


def emit_execution(program: Program, process: Process, seccomp: "Filter | None", first_closed: int) -> None:
    """Add the very last steps: descriptors from `first_closed` on closed, no_new_privs, filter, execve."""
    call = program.call
    call("close_range", first_closed, 0xFFFFFFFF, 0, action="close descriptors")
    if process.no_new_privileges:
        call("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, action="set no_new_privs")
        if seccomp and not seccomp.listener:
            _emit_filter(program, seccomp)
    emit_unblocked(program)
    program.execute(candidates(process), [encode(word) for word in process.argv], [encode(item) for item in process.env])


def _emit_filter(program: Program, seccomp: "Filter") -> None:
    """Its installation; where an agent answers for it, that is waited for: what comes behind it may be asked."""
    listener = seccomp.listener
    if listener and listener.tell >= 0:
        program.call("write", listener.tell, READY, len(READY))
    emit_filter(program, seccomp.instructions, seccomp.flags)
    if listener:
        listener.emit_waiting(program)


def candidates(process: Process) -> list[str]:
    """The paths at which execvp(3) would look for the command, with the container's own PATH."""
    name = process.argv[0]
    if "/" in name:
        return [name]
    path = next((item[5:] for item in reversed(process.env) if item.startswith("PATH=")), _DEFAULT_PATH)
    return [f"{folder or '.'}/{name}" for folder in path.split(":")]


def not_executed(process: Process, errnos: list[int]) -> RunError:
    """Why the command could not be executed, in the words by which engines tell 126 from 127."""
    name = process.argv[0]
    errno = next((each for each in errnos if each not in (2, 20)), 2 if errnos else 8)
    if "/" in name and errnos:
        errno = errnos[0]  # there was but one to try
    if errno == 2 and "/" not in name:
        return RunError(f'exec: "{name}": executable file not found in $PATH')
    said = {2: "no such file or directory", 13: "permission denied", 20: "not a directory"}.get(errno) or os.strerror(
        errno
    ).lower()
    return RunError(f'exec: "{name}": {said}')
