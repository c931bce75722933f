"""What went wrong in a container's process, in words: it says so itself in numbers (runtime.waiting)."""

import posix as os

from runtime import waiting
from runtime.bundle import Bundle
from runtime.bundle_command import not_executed
from runtime.program import EPERM
from store.errors import BoxError, RunError, SetupFailed

# What only the owner of a namespace may mount.
_OWNED = {
    "mount proc": "pid",
    "mount sysfs": "network",
    "mount mqueue": "ipc",
    "mount cgroup": "cgroup",
    "mount cgroup2": "cgroup",
}


def failure_of(message: bytes, steps: "list[tuple[str, str, str]]", bundle: Bundle) -> BoxError:
    """What it means that the process ended, having said `message`."""
    if len(message) < waiting.LEAST or bundle.process is None:
        return RunError("the container's process was killed before its command was executed")
    ended = waiting.Ended(message, len(steps))
    if ended.index is None or steps[ended.index][0] == "execve":
        return not_executed(bundle.process, ended.executions)
    errno = ended.errno
    _, action, path = steps[ended.index]
    hint = ""
    if errno == EPERM and "user" in bundle.namespaces and action in _OWNED:
        hint = (
            f"the container's {_OWNED[action]} namespace is another user namespace's: bind the machine's, or make one of its own"
        )
    return SetupFailed(action, errno, os.strerror(errno), path=path, hint=hint)
