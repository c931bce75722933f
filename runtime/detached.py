"""Containers in the background: each is given a keeper here, and the store's monitor (runtime.monitor) looks after it."""

import os
from _signal import SIG_BLOCK, SIG_DFL, pthread_sigmask, sigwait
from _signal import signal as set_handler  # the signal module would import enum
from _socket import AF_UNIX, SOCK_STREAM, socket, socketpair
from fcntl import F_DUPFD_CLOEXEC, fcntl

from runtime import linux, stubs
from runtime.container import FORWARDED, Process, launch, prepare
from runtime.journal import Journal
from runtime.monitoring import connect, hand_over, reach, start
from runtime.spec import Spec
from runtime.streams import Streams
from store.errors import BoxError, RunError

SIGCHLD, SIGWINCH = 17, 28
_LEAST = 16  # above all that a keeper holds

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn


def run_detached(spec: Spec) -> None:
    """Start the container and return once its program runs. Raises what `container.run` would, and nothing is left then."""
    detach(spec, prepare(spec))


def detach(spec: Spec, journal: Journal, client: socket | None = None, *, lifeline: bool = False) -> None:
    """Start the container that `journal` is of, looked after by the monitor, and return once its program runs.

    The other end of `client` is attached from the start, and with `lifeline` the container's life hangs on it (runtime.clients);
    here it is closed. Raises what `container.run` would; what `journal` had is then all that is left.
    """
    reader, writer = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        _start_and_keep(spec, journal, writer, client, lifeline)
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


def _start_and_keep(spec: Spec, journal: Journal, messages: int, client: socket | None, lifeline: bool) -> None:
    """In the child: leave the starter's session, start the container, hand it over and be its keeper. Never returns."""
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
        for number in (*FORWARDED, SIGCHLD, SIGWINCH):  # the starter may have had something done at these
            set_handler(number, SIG_DFL)
        pthread_sigmask(SIG_BLOCK, (SIGCHLD, stubs.CLOSE_INPUT))  # which the keeper waits for
        messages = _aside(messages)
        theirs = _aside(client.detach()) if client is not None else -1
        streams = Streams(terminal=spec.terminal)
        try:
            monitor = connect(spec.root)
            if monitor is None:
                start(spec.root)  # meanwhile
            process = launch(spec, journal, streams.ends(interactive=spec.interactive))
        except BoxError as err:
            _tell(messages, err)
        except Exception as err:
            journal.abandon()
            _tell(messages, err)
        if process.namespace is not None:
            process.namespace.keep(_LEAST)
        try:
            _hand_over(process, streams, monitor, theirs, lifeline)
        except Exception as err:  # a full disk, or a bug: whoever started it says so
            process.abandon()
            _tell(messages, err)
        os.write(messages, b"ok")
        os.close(messages)
        _become_keeper(spec.id)
        _keep(process.pid)
    finally:
        os._exit(0)


def _hand_over(process: Process, streams: Streams, monitor: socket | None, client: int, lifeline: bool) -> None:
    """Put all that is open of the container in a keeper's places, and give it to the monitor too."""
    spec, journal = process.spec, process.journal
    streams.begin(process.master)
    writer, status = (end.detach() for end in socketpair(AF_UNIX, SOCK_STREAM))
    held = {stubs.DIRECTORY: journal.fd, stubs.STATUS_WRITER: writer, stubs.STATUS: status, **streams.held()}
    link = _aside(monitor.detach()) if monitor is not None else -1
    for number, fd in {number: _aside(fd) for number, fd in held.items()}.items():
        os.dup2(fd, number)
        os.close(fd)
    journal.fd = stubs.DIRECTORY
    if spec.removed:
        journal.trim()
    pid = os.getpid()
    given = [number for number in held if number != stubs.STATUS_WRITER]
    message = f"{spec.id} {pid} {','.join(map(str, given))} {'lifeline' if lifeline else 'free'}"
    connection = socket(fileno=link) if link >= 0 else reach(spec.root, starting=True)
    hand_over(spec.root, connection, message, [*given, *([client] if client >= 0 else [])])
    if client >= 0:
        os.close(client)


def _aside(fd: int) -> int:
    """The same descriptor, above all that a keeper holds."""
    moved = fcntl(fd, F_DUPFD_CLOEXEC, _LEAST)
    os.close(fd)
    return moved


def _become_keeper(identity: str) -> None:
    """Execute the keeper, where that is possible: kilobytes in place of megabytes."""
    if not stubs.available():
        return
    from runtime.waiting import sealed

    try:
        os.execve(sealed(stubs.keeper(), _LEAST), [stubs.KEEPER_NAME, identity], {})
    except OSError:  # no memory for it, or a policy forbids it
        return


def _keep(pid: int) -> None:
    """Do in this interpreter what a keeper does."""
    while True:
        if sigwait((SIGCHLD, stubs.CLOSE_INPUT)) == stubs.CLOSE_INPUT:
            os.close(stubs.INPUT)
        elif pid:
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                pid = 0
                os.write(stubs.STATUS_WRITER, status.to_bytes(4, "little"))


def _tell(messages: int, error: Exception) -> "NoReturn":
    if isinstance(error, BoxError):
        status, text, hint = error.exit_status, error.message, error.hint
    else:
        status, text, hint = RunError.exit_status, f"{type(error).__name__}: {error}", ""
    os.write(messages, f"{status}\0{text}\0{hint}".encode("utf-8", "surrogateescape"))
    os._exit(1)
