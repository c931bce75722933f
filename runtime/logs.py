"""A container's log: what it wrote to its output, by lines, with the time and the stream of each.

One line of the file is `TIME STREAM F TEXT`, TIME as RFC 3339 in UTC with nanoseconds, STREAM `stdout` or `stderr`; `P` in
place of `F` marks a piece whose line goes on in the next entry of its stream. It is the format that Kubernetes' engines write
(the CRI log format), so that tools for those read it.

A log that has reached its size is rotated as docker does: `log` becomes `log.1`, that `log.2`, and so on, and the oldest goes.
"""

import os
import time

from store.syscalls import exists

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

MAX_SIZE, MAX_FILES = 16 << 20, 4  # of a container that says nothing else: a flood takes 64 MiB of disk at most
_LONGEST_PIECE = 16 << 10
_PAUSE = 0.05
_BLOCK = 1 << 16


class LogWriter:
    """Appends to the log at `path`, in at most `files` files of about `size` bytes each. Every `feed` is in the file when it
    returns, but for a line whose end has not come."""

    __slots__ = ("_fd", "_files", "_path", "_pending", "_size", "_written")

    def __init__(self, path: str, size: int = MAX_SIZE, files: int = MAX_FILES) -> None:
        self._path = path
        self._size = size
        self._files = files
        self._pending: dict[str, bytes] = {}
        self._open()

    def _open(self) -> None:
        self._fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        self._written = os.fstat(self._fd).st_size

    @staticmethod
    def files(path: str) -> "list[str]":
        """The files that there are of the log at `path`, the newest first."""
        found = [path] if exists(path) else []
        number = 1
        while exists(f"{path}.{number}"):
            found.append(f"{path}.{number}")
            number += 1
        return found

    def feed(self, stream: str, data: bytes) -> None:
        """Take in what came on `stream`. What comes at once has one time."""
        data = self._pending.pop(stream, b"") + data
        whole, end, rest = data.rpartition(b"\n")
        head = self._head(stream)
        out = head + b"F " + whole.replace(b"\n", b"\n" + head + b"F ") + b"\n" if end else b""
        while len(rest) >= _LONGEST_PIECE:
            out += head + b"P " + rest[:_LONGEST_PIECE] + b"\n"
            rest = rest[_LONGEST_PIECE:]
        if rest:
            self._pending[stream] = rest
        if out:
            self._write(out)

    def close(self) -> None:
        """Write what has no line end yet, and close."""
        try:
            for stream, rest in self._pending.items():
                self._write(self._head(stream) + b"P " + rest + b"\n")
        finally:
            self._pending.clear()
            os.close(self._fd)

    def _head(self, stream: str) -> bytes:
        now = time.time_ns()
        whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now // 1_000_000_000))
        return f"{whole}.{now % 1_000_000_000:09d}Z {stream} ".encode()

    def _write(self, data: bytes) -> None:
        """By whole lines, so many that a file is not much larger than it may be."""
        while 0 < self._size < len(data):
            at = data.rfind(b"\n", 0, self._size) + 1 or data.index(b"\n") + 1
            if at == len(data):
                break
            self._append(data[:at])
            data = data[at:]
        self._append(data)

    def _append(self, data: bytes) -> None:
        if self._written and self._written + len(data) > self._size > 0:
            self._rotate()
        self._written += len(data)
        view = memoryview(data)
        while view:
            view = view[os.write(self._fd, view) :]

    def _rotate(self) -> None:
        if self._files < 2:
            os.ftruncate(self._fd, 0)
        else:
            for number in range(self._files - 1, 0, -1):
                source = f"{self._path}.{number - 1}" if number > 1 else self._path
                if exists(source):
                    os.rename(source, f"{self._path}.{number}")
            os.close(self._fd)
            self._open()
        self._written = 0


def open_log(container: str, options: "Mapping[str, int]") -> LogWriter:
    """The log of the container in this directory, as `--log-opt` wants it."""
    return LogWriter(container + "/log", options.get("max-size", MAX_SIZE), options.get("max-file", MAX_FILES))


class Entry:
    """One piece of output: `time` as RFC 3339 text, `stream`, and `text` with its line end unless it is a piece of a longer
    line."""

    __slots__ = ("stream", "text", "time")

    def __init__(self, line: bytes) -> None:
        when, stream, tag, text = [*line.split(b" ", 3), b"", b"", b""][:4]
        self.time = when.decode("ascii", "replace")
        self.stream = stream.decode("ascii", "replace")
        self.text = text + (b"\n" if tag == b"F" else b"")


def read(path: str, *, tail: int | None = None, since: str = "", until: str = "") -> "Iterator[Entry]":
    """The entries of the log at `path`, oldest first: of those from `since` on and before `until` (RFC 3339 in UTC, as in the
    log; empty: no bound) the last `tail`, or all. No log: none."""
    opened = _open_all(path)
    try:
        yield from _bounded(opened, tail, since, until)
    finally:
        for fd in opened:
            os.close(fd)


def follow(path: str, *, tail: int | None = None, since: str = "", until: str = "") -> "Iterator[Entry]":
    """The same, and then what is added, until nobody looks after the container any more and all has been read, or until `until`.
    A rotation or a restart loses nothing that is there for a twentieth of a second."""
    from runtime.journal import looked_after, monitor_died, reap

    opened = _open_all(path)
    container = os.path.dirname(path)
    root = path.rpartition("/containers/")[0]
    try:
        yield from _bounded(opened, tail, since, until)
        over = not opened
        while not over:
            time.sleep(_PAUSE)
            over = not (looked_after(container) or _comes_back(container)) or bool(until and until <= _now())
            if not over and monitor_died(root):
                reap(root)
            _open_newer(path, opened)
            yield from _bounded(opened, None, since, until)
            while len(opened) > 1:
                os.close(opened.pop(0))
    finally:
        for fd in opened:
            os.close(fd)


def _open_all(path: str) -> list[int]:
    """The files of the log, the oldest first, each once, though it be rotated meanwhile."""
    opened: list[int] = []
    _open_newer(path, opened)
    return opened


def _open_newer(path: str, opened: list[int]) -> None:
    """Add what is newer than the last that is open."""
    known = {os.fstat(opened[-1]).st_ino} if opened else set()
    last = next(iter(known), None)
    found: list[int] = []
    for name in LogWriter.files(path):
        try:
            fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            continue  # rotated just now
        number = os.fstat(fd).st_ino
        if number in known:
            os.close(fd)
            if number == last:
                break
            continue
        known.add(number)
        found.insert(0, fd)
    opened += found


def _bounded(opened: list[int], tail: int | None, since: str, until: str) -> "Iterator[Entry]":
    """What has not been read yet of the files, each of which is left where its last whole line ends."""
    entries = (entry for fd in opened for entry in _entries(fd) if entry.time >= since and (not until or entry.time < until))
    if tail is None:
        yield from entries
        return
    kept: list[Entry] = []
    for entry in entries:
        kept.append(entry)
        if len(kept) > 2 * tail + 1000:
            del kept[: len(kept) - tail]
    yield from kept[max(len(kept) - tail, 0) :]


def _entries(fd: int) -> "Iterator[Entry]":
    at = os.lseek(fd, 0, os.SEEK_CUR)
    if at > os.fstat(fd).st_size:  # there is one file only, which was begun again
        at = 0
    rest = b""
    while block := os.pread(fd, _BLOCK, at + len(rest)):
        *lines, last = (rest + block).split(b"\n")
        at += len(rest) + len(block) - len(last)
        rest = last
        os.lseek(fd, at, os.SEEK_SET)
        for line in lines:
            yield Entry(line)


def _comes_back(container: str) -> bool:
    """Whether the container is to be started again after a while."""
    from runtime.records import read as record_of

    record = record_of(container + "/journal")
    return bool(record and record.get("restarting"))


def _now() -> str:
    now = time.time_ns()
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now // 1_000_000_000)) + f".{now % 1_000_000_000:09d}Z"
