"""Bearing a child that performs a Program, by the fastest way this machine has. Hot."""

import posix as os
from _thread import allocate_lock

from runtime import native
from runtime.program import Failure, Program
from store.errors import SetupFailed
from store.syscalls import libc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_PR_GET_DUMPABLE, _PR_SET_DUMPABLE = 3, 4
_HINTS = {
    1: "box needs to be root to make namespaces",
    11: "the machine's limit of processes is reached",
    12: "the machine has no memory for one more process",
    28: "the machine's limit of namespaces is reached: see sysctl user.max_pid_namespaces and its like",
    38: "box needs Linux 5.12 or later, and clone3 allowed where it runs",
}


def spawn(
    program: Program, namespaces: int, cgroup: int | None = None, ready: "Callable[[int], object] | None" = None
) -> "tuple[int, Failure | None]":
    """The child's pid, and None once it has executed something, else what failed (it has ended, and is to be waited for).

    `ready` is called with the pid while the child lives already, and may have to wait for it: see runtime.native. Raises
    SetupFailed when it could not be born at all.
    """
    try:
        if native.available():
            with _NotDumpable():
                return native.perform(program, namespaces, cgroup, ready)
        from runtime import portable

        return portable.perform(program, namespaces, cgroup, ready)
    except OSError as err:
        errno = err.errno or 0
        raise SetupFailed("clone into new namespaces", errno, os.strerror(errno), hint=_HINTS.get(errno, "")) from err


class _NotDumpable:
    """What a child with shared memory makes of itself it makes of this process too: after the last of those that threads bear
    at once, this one may be traced and dumped as before, not earlier and not less."""

    __slots__ = ()
    lock = allocate_lock()
    children = 0
    former = 1

    def __enter__(self) -> None:
        cls = _NotDumpable
        with cls.lock:
            if not cls.children:
                cls.former = libc("prctl", _PR_GET_DUMPABLE, 0, 0, 0, 0) & 1
            cls.children += 1

    def __exit__(self, *error: object) -> None:
        cls = _NotDumpable
        with cls.lock:
            cls.children -= 1
            if not cls.children:
                libc("prctl", _PR_SET_DUMPABLE, cls.former, 0, 0, 0)
