"""A user at a terminal: `box` (or another program) runs on it as from a shell, keys are typed, what is shown is read."""

import fcntl
import os
import re
import select
import struct
import subprocess
import termios
import time
from types import TracebackType
from typing import Any

from tests.command.installed import BOX


class Terminal:
    """One command of box on a terminal of its own, which is that of its session too."""

    def __init__(self, *arguments: str, rows: int = 33, columns: int = 111, program: str = BOX) -> None:
        self.master, self.slave = os.openpty()
        self.resize(rows, columns)
        self.before = termios.tcgetattr(self.slave)
        # setsid --ctty: a program of its own, since Python may run no code between fork and exec here.
        self.process = subprocess.Popen(
            ["setsid", "--ctty", program, *arguments], stdin=self.slave, stdout=self.slave, stderr=self.slave
        )
        self.shown = b""

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for fd in (self.master, self.slave):
            if fd >= 0:
                os.close(fd)

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, keys: bytes) -> None:
        while keys:
            self._read(0)
            keys = keys[os.write(self.master, keys[:1024]) :]

    def until(self, pattern: bytes, patience: float = 20) -> re.Match[bytes]:
        """Wait for it to be shown; what came before it is taken off."""
        deadline = time.monotonic() + patience
        while not (found := re.search(pattern, self.shown)):
            assert time.monotonic() < deadline, (pattern, self.shown[-2000:])
            self._read(0.05)
        self.shown = self.shown[found.end() :]
        return found

    def end(self, patience: float = 20) -> int:
        """The exit status, when all that was shown has been read."""
        deadline = time.monotonic() + patience
        while self.process.poll() is None:
            assert time.monotonic() < deadline, self.shown[-2000:]
            self._read(0.02)
        while self._read(0):
            pass
        return self.process.returncode

    def settings(self) -> list[Any]:
        """As they are now; `before` are those that the command found."""
        return termios.tcgetattr(self.slave)

    def hang_up(self) -> None:
        """Close the window."""
        os.close(self.slave)
        os.close(self.master)
        self.master = self.slave = -1

    def _read(self, wait: float) -> bool:
        if not select.select([self.master], [], [], wait)[0]:
            return False
        self.shown += os.read(self.master, 65536)
        return True
