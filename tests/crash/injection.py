"""Striking a program at its N-th call of the operating system, without strace: every call that Python code makes is counted.

What runs below Python (a program of system calls, a thread of C) is struck by strace, in test_strace.py. This is a hundred
times as fast, so that every call can be struck in every way.
"""

from __future__ import annotations

import builtins
import errno
import fcntl
import os
import posix
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable
from types import TracebackType
from typing import Any

from store.errors import BoxError

MAKING = frozenset(
    {"write", "writev", "pwrite", "link", "rename", "replace", "mkdir", "symlink", "fsync", "setxattr", "truncate", "ftruncate"}
)
CHANGING = MAKING | {"unlink", "rmdir", "utime", "chmod", "chown", "removexattr", "flock"}
READING = frozenset(
    {"read", "readv", "pread", "stat", "lstat", "fstat", "listdir", "scandir", "readlink", "getxattr", "listxattr"}
)
OPENING = frozenset({"open", "builtins.open"})
CALLS = CHANGING | READING | OPENING
_CREATING = os.O_CREAT | (os.O_TMPFILE & ~os.O_DIRECTORY)

CAUSES: dict[int, frozenset[str]] = {
    errno.ENOSPC: MAKING | {"create"},
    errno.EIO: MAKING | READING | {"open", "create"},
    errno.EMFILE: OPENING | {"create", "listdir", "scandir"},
    errno.ENOMEM: CALLS | {"create"},
}
"""Which calls may answer what."""

Wanted = Callable[[str], bool]


def changes(call: str) -> bool:
    """Whether being killed at this call can differ from being killed at the next."""
    return call in CHANGING or call == "create"


def may_answer(error: int) -> Wanted:
    """Whether a call may answer with this error."""
    return lambda call: call in CAUSES[error]


class Injection:
    """In this block the calls of this thread that are `wanted` are counted, and at number `point` (from 1) `strike` is called."""

    def __init__(self, wanted: Wanted, point: int, strike: Callable[[], object]) -> None:
        self.wanted = wanted
        self.point = point
        self.strike = strike
        self.count = 0
        self.call = ""
        self._thread = threading.get_ident()
        self._undone: list[tuple[Any, str, Any]] = []

    @property
    def struck(self) -> bool:
        """Whether it came to it."""
        return bool(self.call)

    def _at(self, name: str, arguments: tuple[Any, ...]) -> None:
        if threading.get_ident() != self._thread:
            return
        if name == "open" and len(arguments) > 1 and isinstance(arguments[1], int) and arguments[1] & _CREATING:
            name = "create"
        if self.wanted(name):
            self.count += 1
            if self.count == self.point:
                self.call = name
                self.strike()

    def _patch(self, owner: Any, attribute: str, name: str) -> None:
        real = getattr(owner, attribute)

        def call(*arguments: Any, **named: Any) -> Any:
            self._at(name, arguments)
            return real(*arguments, **named)

        self._undone.append((owner, attribute, real))
        setattr(owner, attribute, call)

    def __enter__(self) -> Injection:
        for name in CALLS:
            for module in (os, posix):
                if name in vars(module):
                    self._patch(module, name, name)
        self._patch(fcntl, "flock", "flock")
        self._patch(builtins, "open", "builtins.open")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for owner, attribute, real in reversed(self._undone):
            setattr(owner, attribute, real)


DONE, REFUSED, UNEXPLAINED = 0, 1, 2


class Attempt:
    """What became of an attempt: `status` is DONE, REFUSED (an error that was explained), UNEXPLAINED or -9; `said` its words."""

    def __init__(self, status: int, said: str) -> None:
        self.status = status
        self.said = said


def attempt(act: Callable[[], int], wanted: Wanted, point: int, error: int | None = None) -> tuple[Attempt, bool]:
    """Do it in a process of its own, killed at a point, or with that call answering `error`; and whether it came to the point."""
    reader, writer = os.pipe()
    with tempfile.TemporaryFile() as output:
        pid = os.fork()
        if pid == 0:
            os.close(reader)
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
            sys.stdout = sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115  # the test run's own go to its report
            status = UNEXPLAINED
            try:
                status = _do(act, wanted, point, error, writer)
            except BaseException:
                os.write(2, traceback.format_exc().encode("utf-8", "replace"))
            finally:
                os._exit(status)
        os.close(writer)
        struck = os.read(reader, 1) == b"!"
        os.close(reader)
        _, waited = os.waitpid(pid, 0)
        output.seek(0)
        said = output.read().decode("utf-8", "replace")
    return Attempt(os.waitstatus_to_exitcode(waited), said), struck


def _do(act: Callable[[], int], wanted: Wanted, point: int, error: int | None, writer: int) -> int:
    write = os.write

    def strike() -> None:
        write(writer, b"!")
        if error is None:
            os.kill(os.getpid(), signal.SIGKILL)
        else:
            raise OSError(error, os.strerror(error))

    try:
        with Injection(wanted, point, strike):
            status = act()
    except BoxError as err:
        write(2, err.message.encode())
        return REFUSED
    except OSError as err:
        if err.errno == error:  # boxcli.failure says it in one line
            write(2, os.strerror(err.errno or 0).encode())
            return REFUSED
        raise
    sys.stdout.flush()
    sys.stderr.flush()
    return DONE if status == 0 else REFUSED
