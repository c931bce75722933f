"""Bearing a child that performs a Program, by the fastest way this machine has. Hot."""

import posix as os

from runtime import native
from runtime.program import Failure, Program
from store.errors import SetupFailed
from store.syscalls import libc

_PR_GET_DUMPABLE, _PR_SET_DUMPABLE = 3, 4
_HINTS = {
    1: "box needs to be root to make namespaces",
    11: "the machine's limit of processes is reached",
    12: "the machine has no memory for one more process",
    28: "the machine's limit of namespaces is reached: see sysctl user.max_pid_namespaces and its like",
    38: "box needs Linux 5.12 or later, and clone3 allowed where it runs",
}


def spawn(program: Program, namespaces: int, cgroup: int | None = None) -> "tuple[int, Failure | None]":
    """The child's pid, and None once it has executed something, else what failed (it has ended, and is to be waited for).

    Raises SetupFailed when it could not be born at all.
    """
    try:
        if native.available():
            dumpable = libc("prctl", _PR_GET_DUMPABLE, 0, 0, 0, 0)
            try:
                return native.perform(program, namespaces, cgroup)
            finally:
                # The child made itself, and with the shared memory this process too, not dumpable.
                libc("prctl", _PR_SET_DUMPABLE, dumpable & 1, 0, 0, 0)
        from runtime import portable

        return portable.perform(program, namespaces, cgroup)
    except OSError as err:
        errno = err.errno or 0
        raise SetupFailed("clone into new namespaces", errno, os.strerror(errno), hint=_HINTS.get(errno, "")) from err
