"""Output that nobody reads any more. Not on the hot path.

In a shell, SIGPIPE ends a command that goes on writing when its reader has gone. The kernel spares a container's process 1 every
signal whose default it has, so `while :; do echo y; done` would go on for ever. box finds out, and does what the kernel would.

A write to a pipe without a reader cannot be seen from outside. So box becomes the reader of such a pipe: what comes is thrown
away, and tells that somebody wrote. If it was process 1, and it neither ignores nor handles SIGPIPE, it is killed. For everybody
else the pipe is without a reader again, and the kernel does the rest.
"""

import os
import select
import time

from runtime.linux import SIGKILL

SIGPIPE = 13
_WITHOUT = 0.01  # seconds between two looks in which the pipe has no reader: who writes then learns of it
_PIECE = 1 << 16


def follow(pid: int, pidfd: int, pipes: list[int]) -> bool:
    """Wait until process 1 of a container, our child `pid`, has ended; whether it was killed for writing to one of `pipes` (the
    writing ends), which nobody reads."""
    listeners: dict[int, Listener] = {}
    watch = select.poll()
    watch.register(pidfd, select.POLLIN)
    for fd in filter(is_pipe, pipes):
        watch.register(fd, 0)
    try:
        while True:
            for fd, _ in watch.poll():
                if fd == pidfd:
                    return False
                watch.unregister(fd)
                listener = listeners.pop(fd, None) or Listener(pid, fd)
                if listener.heard():
                    os.kill(pid, SIGKILL)
                    return True
                if (reader := listener.listen()) >= 0:
                    listeners[reader] = listener
                    watch.register(reader, select.POLLIN)
    finally:
        for listener in listeners.values():
            listener.close()


class Listener:
    """The reader, now and then, of a pipe that has lost its own; `fd` is one of its ends."""

    __slots__ = ("_before", "_pid", "_pipe", "_reader")

    def __init__(self, pid: int, fd: int) -> None:
        self._pid = pid
        self._reader = -1
        self._before = 0
        self._pipe = os.open(f"/proc/self/fd/{fd}", os.O_PATH | os.O_CLOEXEC)  # neither a reader nor a writer

    def listen(self) -> int:
        """Become the reader: its descriptor, readable when somebody has written since. -1 when there is no point in it."""
        if not _spared(self._pid):
            self.close()
            return -1
        time.sleep(_WITHOUT)
        self._before = _written(self._pid)
        self._reader = os.open(f"/proc/self/fd/{self._pipe}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            while os.read(self._reader, _PIECE):  # what the former reader has left
                pass
        except BlockingIOError:
            return self._reader
        self.close()  # no writer either
        return -1

    def heard(self) -> bool:
        """Whether it was process 1 that wrote, and SIGPIPE would have ended it. The pipe has no reader again."""
        if self._reader < 0:
            return False
        os.close(self._reader)
        self._reader = -1
        written = _written(self._pid)
        return _spared(self._pid) and (written < 0 or written != self._before)

    def close(self) -> None:
        """Let go of the pipe."""
        for fd in (self._reader, self._pipe):
            if fd >= 0:
                os.close(fd)
        self._reader = self._pipe = -1


def is_pipe(fd: int) -> bool:
    """Whether it is a pipe of a shell's: a FIFO with a name may get another reader."""
    try:
        return os.readlink(f"/proc/self/fd/{fd}").startswith("pipe:")
    except OSError:
        return False


def _spared(pid: int) -> bool:
    """Whether SIGPIPE would end the process, were it not a first one."""
    try:
        with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as file:
            masks = [int(line.split()[1], 16) for line in file if line.startswith(("SigIgn:", "SigCgt:"))]
    except OSError:
        return False
    return not any(mask >> (SIGPIPE - 1) & 1 for mask in masks)


def _written(pid: int) -> int:
    """The bytes that the process itself has written, its children not counted: proc_pid_io(5). -1 where that is not known."""
    total = 0
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/io", encoding="ascii") as file:
                total += sum(int(line.split()[1]) for line in file if line.startswith("wchar:"))
    except OSError:  # a kernel that does not count, or a thread that has just ended
        return -1
    return total
