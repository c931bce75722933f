"""Reaching a store's monitor (runtime.monitor), started where there is none: the side of whoever hands a container over."""

import os
import time
from _socket import AF_UNIX, SCM_RIGHTS, SOCK_SEQPACKET, SOL_SOCKET, socket

from runtime.journal import make_directories
from store.errors import RunError

SOCKET = "socket"
ACCEPTED = b"ok"
MESSAGE = 4096  # bytes of one at most
_PATIENCE = 10.0


def open_directory(root: str) -> int:
    """The monitor's directory."""
    path = root + "/monitor"
    flags = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        return os.open(path, flags)
    except FileNotFoundError:
        make_directories(path)
        return os.open(path, flags)


def lock_path(root: str) -> str:
    """The file that the monitor holds a flock of."""
    os.close(open_directory(root))
    return root + "/monitor/lock"


def connect(root: str) -> socket | None:
    """A connection to the monitor; None where there is none."""
    directory = open_directory(root)
    connection = socket(AF_UNIX, SOCK_SEQPACKET)
    try:
        connection.connect(f"/proc/self/fd/{directory}/{SOCKET}")
    except OSError:
        connection.close()
        return None
    finally:
        os.close(directory)
    return connection


def start(root: str) -> None:
    """Start a monitor; it leaves at once where there is one. It has no descriptor of this process' but 0, 1 and 2, which are
    replaced."""
    pid = os.fork()
    if pid == 0:
        try:
            os.setsid()
            if os.fork():
                os._exit(0)  # init becomes its parent, and will wait for it
            null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
            for number in range(3):
                os.dup2(null, number)
            os.chdir("/")
            _default_signals()
            from runtime.monitor import main

            main(root)
        finally:
            os._exit(1)
    os.waitpid(pid, 0)


def reach(root: str, *, starting: bool = False) -> socket:
    """A connection to the monitor, which is started where there is none, unless somebody is `starting` it. Raises RunError."""
    deadline = time.monotonic() + _PATIENCE
    started = time.monotonic() if starting else 0.0
    while True:
        found = connect(root)
        if found is not None:
            return found
        now = time.monotonic()
        if now > deadline:
            raise RunError("the process that looks after containers in the background does not start", hint="try again")
        if now - started > 1.0:
            start(root)
            started = now
        time.sleep(0.001)


def hand_over(root: str, connection: socket, message: str, descriptors: list[int]) -> None:
    """Give the monitor a container: on return it looks after it. Raises RunError with what it says."""
    data = b"".join([fd.to_bytes(4, "little") for fd in descriptors])
    for _ in range(5):
        try:
            connection.sendmsg([message.encode()], [(SOL_SOCKET, SCM_RIGHTS, data)])
            answer = connection.recv(MESSAGE)
        except OSError:
            answer = b""
        connection.close()
        if answer == ACCEPTED:
            return
        if answer:
            raise RunError(answer.decode("utf-8", "replace"))
        connection = reach(root)  # it has just left, or was killed
    raise RunError("the process that looks after containers in the background was killed", hint="try again")


def revive(root: str) -> None:
    """Where the monitor was killed, start another, and return when that has taken over."""
    try:
        reach(root).close()
    except RunError:
        pass  # the command that finds it so can do without


def born(pid: int) -> int:
    """When the process was born, in the kernel's ticks; 0 where there is none."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[19])
    except OSError:
        return 0


def _default_signals() -> None:
    from _signal import SIG_DFL, SIG_SETMASK, pthread_sigmask
    from _signal import signal as set_handler

    from runtime.container import FORWARDED

    for number in (*FORWARDED, 28):
        set_handler(number, SIG_DFL)
    pthread_sigmask(SIG_SETMASK, ())
