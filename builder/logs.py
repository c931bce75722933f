"""The full output of a build's commands, kept in ROOT/logs."""

import os
import time

KEPT = 50  # logs of builds, before the oldest go


class Log:
    """One build's log, made when the first command is run; `path` is where it is then, and `tail` the last lines of a step."""

    __slots__ = ("_descriptor", "_directory", "_lines", "path")

    TAIL = 20

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._descriptor = -1
        self._lines: list[str] = []
        self.path = ""

    def start(self, heading: str) -> None:
        """What follows is the output of the step called `heading`."""
        if self._descriptor < 0:
            os.makedirs(self._directory, mode=0o700, exist_ok=True)
            self._drop_oldest()
            name = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
            self.path = f"{self._directory}/{name}-{os.getpid()}.log"
            self._descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._lines = []
        self.write(f"--- {heading}\n".encode())

    def write(self, data: bytes) -> None:
        """Append `data`; a full disk is no reason to end the step."""
        try:
            os.write(self._descriptor, data)
        except OSError:
            return

    def note(self, line: str) -> None:
        """Remember a line of the step for `tail`."""
        self._lines.append(line)
        del self._lines[: -self.TAIL]

    @property
    def tail(self) -> str:
        """The last lines of the current step."""
        return "\n".join(self._lines)

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _drop_oldest(self) -> None:
        names = sorted(name for name in os.listdir(self._directory) if name.endswith(".log"))
        for name in names[: -KEPT + 1]:
            try:
                os.unlink(f"{self._directory}/{name}")
            except FileNotFoundError:
                continue


class Lines:
    """Splits a command's output into lines; one of more than 64 KiB is given in pieces."""

    __slots__ = ("_rest",)

    LIMIT = 65536

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[str]:
        """The lines that `data` completes. Of a line that rewrites itself (a progress bar) the last state counts."""
        *whole, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > self.LIMIT:
            whole.append(self._rest)
            self._rest = b""
        return [_text(line) for line in whole]

    def end(self) -> list[str]:
        """The last line, if no newline ended it."""
        rest, self._rest = self._rest, b""
        return [_text(rest)] if rest else []


def _text(line: bytes) -> str:
    return line.rstrip(b"\r").rpartition(b"\r")[2].decode("utf-8", "replace")
