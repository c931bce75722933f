"""A container's log: what it wrote to its output, by lines, with the time and the stream of each.

One line of the file is `TIME STREAM F TEXT`, TIME as RFC 3339 in UTC with nanoseconds, STREAM `stdout` or `stderr`; `P` in
place of `F` marks a piece whose line goes on in the next entry of its stream. It is the format that Kubernetes' engines write
(the CRI log format), so that tools for those read it.
"""

import os
import time

from store.syscalls import exists

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_LONGEST_PIECE = 16 << 10


class LogWriter:
    """Appends to the log at `path`. Every `feed` is in the file when it returns, but for a line whose end has not come."""

    __slots__ = ("_fd", "_pending")

    def __init__(self, path: str) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        self._pending: dict[str, bytes] = {}

    @staticmethod
    def files(path: str) -> "list[str]":
        """The files that there are of the log at `path`."""
        return [path] if exists(path) else []

    def feed(self, stream: str, data: bytes) -> None:
        """Take in what came on `stream`."""
        data = self._pending.pop(stream, b"") + data
        lines = data.split(b"\n")
        rest = lines.pop()
        out = b"".join([self._entry(stream, b"F", line) for line in lines])
        while len(rest) >= _LONGEST_PIECE:
            out += self._entry(stream, b"P", rest[:_LONGEST_PIECE])
            rest = rest[_LONGEST_PIECE:]
        if rest:
            self._pending[stream] = rest
        if out:
            self._write(out)

    def close(self) -> None:
        """Write what has no line end yet, and close."""
        for stream, rest in self._pending.items():
            self._write(self._entry(stream, b"P", rest))
        self._pending.clear()
        os.close(self._fd)

    def _entry(self, stream: str, tag: bytes, text: bytes) -> bytes:
        now = time.time_ns()
        whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now // 1_000_000_000))
        return f"{whole}.{now % 1_000_000_000:09d}Z {stream} ".encode() + tag + b" " + text + b"\n"

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._fd, view) :]


class Entry:
    """One piece of output: `time` as RFC 3339 text, `stream`, and `text` with its line end unless it is a piece of a longer
    line."""

    __slots__ = ("stream", "text", "time")

    def __init__(self, line: bytes) -> None:
        when, stream, tag, text = [*line.split(b" ", 3), b"", b"", b""][:4]
        self.time = when.decode("ascii", "replace")
        self.stream = stream.decode("ascii", "replace")
        self.text = text + (b"\n" if tag == b"F" else b"")


def read(path: str, *, tail: int | None = None) -> "Iterator[Entry]":
    """The entries of the log at `path`, oldest first; with `tail`, the last so many. No log: none."""
    for line in _lines(path, tail):
        yield Entry(line)


def follow(path: str, *, tail: int | None = None) -> "Iterator[Entry]":
    """The same, and then what is added, until nobody looks after the container any more and all has been read."""
    from runtime.journal import looked_after, monitor_died, reap

    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    root = path.rpartition("/containers/")[0]
    with open(fd, "rb") as file:  # it can be read to its end though the container be removed meanwhile
        lines = file.readlines()
        rest = lines.pop() if lines and not lines[-1].endswith(b"\n") else b""
        for line in lines if tail is None else lines[max(len(lines) - tail, 0) :]:
            yield Entry(line[:-1])
        over = False
        while not over:
            time.sleep(0.05)
            over = not looked_after(os.path.dirname(path))
            if not over and monitor_died(root):
                reap(root)
            *lines, rest = (rest + file.read()).split(b"\n")
            for line in lines:
                yield Entry(line)


def _lines(path: str, tail: int | None) -> "list[bytes]":
    try:
        with open(path, "rb") as file:
            lines = file.read().split(b"\n")[:-1]
    except FileNotFoundError:
        return []
    return lines if tail is None else lines[max(len(lines) - tail, 0) :]
