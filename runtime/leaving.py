"""A command at the user's terminal that can be left running: another process does it, and this one only waits.

The other is this one's child. It ends when this one is killed, until the user has left it: then it gives up the terminal and the
session, and goes on by itself.
"""

import os
from _signal import SIG_DFL
from _signal import signal as set_handler

from runtime import linux
from runtime.container import FORWARDED, Forwarding
from runtime.spec import Outcome
from store.errors import BoxError, RunError
from store.syscalls import libc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

_LEFT, _ENDED, _FAILED = b"l", b"e", b"f"


def run_to_leave(action: "Callable[[Callable[[], None]], Outcome]") -> Outcome | None:
    """What `action` returns, or None when the user has left it: it is given the function to call then, which gives up the
    terminal. Raises the BoxError that it raised. What reaches this process by a signal reaches the other."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    parent = os.getpid()
    forwarding = Forwarding(patience=0)
    try:
        pid = os.fork()
        if pid == 0:
            os.close(reader)
            for number in FORWARDED:
                set_handler(number, SIG_DFL)
            _do(action, writer, parent)
        os.close(writer)
        writer = -1
        forwarding.to(pid)
        message = os.read(reader, 1)
        while message[:1] != _LEFT and (more := os.read(reader, 4096)):
            message += more
        if message != _LEFT:
            os.waitpid(pid, 0)
    finally:
        forwarding.stop()
        for fd in (reader, writer):
            if fd >= 0:
                os.close(fd)
    if message == _LEFT:
        return None
    if message[:1] == _ENDED:
        return Outcome(int(message[1:]))
    if message[:1] != _FAILED:
        raise RunError("the process that ran the command was killed", hint="the command ended with it")
    status, text, hint = message[1:].decode("utf-8", "surrogateescape").split("\0")
    error = RunError(text, hint=hint)
    error.exit_status = int(status)
    raise error


def _do(action: "Callable[[Callable[[], None]], Outcome]", messages: int, parent: int) -> "NoReturn":
    """In the child."""
    try:
        libc("prctl", linux.PR_SET_PDEATHSIG, linux.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)  # it was killed before

        def let_go() -> None:
            libc("prctl", linux.PR_SET_PDEATHSIG, 0, 0, 0, 0)
            os.setsid()
            null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
            for number in range(3):
                os.dup2(null, number)
            os.close(null)
            os.write(messages, _LEFT)

        outcome = action(let_go)
        wait_status = outcome.signal if outcome.signal is not None else outcome.status << 8
        os.write(messages, _ENDED + b"%d" % wait_status)
    except BoxError as err:
        _fail(messages, err.exit_status, err.message, err.hint)
    except Exception as err:  # a full disk, or a bug
        _fail(messages, RunError.exit_status, f"{type(err).__name__}: {err}", "")
    finally:
        os._exit(0)


def _fail(messages: int, status: int, message: str, hint: str) -> None:
    os.write(messages, _FAILED + f"{status}\0{message}\0{hint}".encode("utf-8", "surrogateescape"))
