"""Containers in the background: a process of their own looks after each, with no terminal and no open file of its starter."""

import os

from runtime import linux
from runtime.attach import Copies
from runtime.container import launch, prepare
from runtime.journal import Journal
from runtime.logs import LogWriter
from runtime.spec import Spec
from store.errors import BoxError, RunError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn


def run_detached(spec: Spec) -> None:
    """Start the container and return once its program runs. Raises what `container.run` would, and nothing is left then."""
    journal = prepare(spec)
    reader, writer = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        _look_after(spec, journal, writer)
    os.close(writer)
    journal.close()  # the lock is shared with the child, and stays with it
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


def _look_after(spec: Spec, journal: Journal, messages: int) -> None:
    """In the child: leave the starter's session, start the container, stay until it has ended. Never returns."""
    try:
        os.setsid()
        if os.fork():
            os._exit(0)  # init is now the parent of the one that stays, and will wait for it
        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        for number in range(3):
            os.dup2(null, number)
        first = 3
        for kept in sorted((journal.fd, messages)):  # whoever waits for the end of a pipe of the starter's waits not for this
            os.closerange(first, kept)
            first = kept + 1
        linux.close_from(first)
        os.chdir("/")
        try:
            copies = Copies(spec.terminal, -1, -1, -1, LogWriter(journal.path + "/log"))
            process = launch(spec, journal, copies.ends())
        except BoxError as err:
            _tell(messages, err.exit_status, err.message, err.hint)
        except Exception as err:  # a full disk, or a bug: whoever started it says so
            journal.remove()
            _tell(messages, RunError.exit_status, f"{type(err).__name__}: {err}", "")
        copies.begin(process.master)
        os.write(messages, b"ok")
        os.close(messages)
        try:
            copies.until_end(process.pid)
            copies.close()  # the log is whole before the container counts as ended
            process.finish()
        except BaseException:
            process.abandon()
    finally:
        os._exit(0)


def _tell(messages: int, status: int, message: str, hint: str) -> "NoReturn":
    os.write(messages, f"{status}\0{message}\0{hint}".encode("utf-8", "surrogateescape"))
    os._exit(1)
