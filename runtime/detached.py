"""Containers in the background: a process of their own looks after each, with no terminal and no open file of its starter."""

import os
from _signal import SIG_DFL
from _signal import signal as set_handler  # the signal module would import enum

from runtime import linux
from runtime.container import FORWARDED, prepare
from runtime.journal import Journal
from runtime.keeper import Client, Keeper
from runtime.spec import Spec
from store.errors import BoxError, RunError

SIGWINCH = 28

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket
    from typing import NoReturn


def run_detached(spec: Spec) -> None:
    """Start the container and return once its program runs. Raises what `container.run` would, and nothing is left then."""
    detach(spec, prepare(spec))


def detach(spec: Spec, journal: Journal, client: "socket | None" = None, *, lifeline: bool = False) -> None:
    """Start the container that `journal` is of, looked after by another process, and return once its program runs.

    The other end of `client` is attached from the start, and with `lifeline` the container's life hangs on it (runtime.keeper);
    here it is closed. Raises what `container.run` would; what `journal` had is then all that is left.
    """
    reader, writer = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        _look_after(spec, journal, writer, client, lifeline)
    os.close(writer)
    journal.close()  # the lock is shared with the child, and stays with it
    if client is not None:
        client.close()
    message = b""
    while data := os.read(reader, 4096):
        message += data
    os.close(reader)
    os.waitpid(pid, 0)
    if message != b"ok":
        status, text, hint = ([*message.decode("utf-8", "replace").split("\0"), "", ""])[:3]
        error = RunError(text or "the process that was to look after the container was killed", hint=hint)
        if status.isdigit():
            error.exit_status = int(status)
        raise error


def _look_after(spec: Spec, journal: Journal, messages: int, client: "socket | None", lifeline: bool) -> None:
    """In the child: leave the starter's session, start the container, stay until it has ended. Never returns."""
    try:
        os.setsid()
        if os.fork():
            os._exit(0)  # init is now the parent of the one that stays, and will wait for it
        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        for number in range(3):
            os.dup2(null, number)
        first = 3
        # Whoever waits for the end of a pipe of the starter's waits not for this.
        for kept in sorted((journal.fd, messages, *([client.fileno()] if client is not None else []))):
            os.closerange(first, kept)
            first = kept + 1
        linux.close_from(first)
        os.chdir("/")
        for number in (*FORWARDED, SIGWINCH):  # the starter may have had something done at these
            set_handler(number, SIG_DFL)
        try:
            keeper = Keeper(spec, journal, Client(client, first=True, lifeline=lifeline) if client is not None else None)
            keeper.start()
        except BoxError as err:
            _tell(messages, err.exit_status, err.message, err.hint)
        except Exception as err:  # a full disk, or a bug: whoever started it says so
            journal.abandon()
            _tell(messages, RunError.exit_status, f"{type(err).__name__}: {err}", "")
        os.write(messages, b"ok")
        os.close(messages)
        keeper.keep()
    finally:
        os._exit(0)


def _tell(messages: int, status: int, message: str, hint: str) -> "NoReturn":
    os.write(messages, f"{status}\0{message}\0{hint}".encode("utf-8", "surrogateescape"))
    os._exit(1)
