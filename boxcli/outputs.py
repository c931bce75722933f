"""Where an archive goes: to a file that appears whole or not at all, or to standard output, which is no terminal."""

from __future__ import annotations

import errno
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from boxcli.table import Values
from boxcli.unwinding import unwound
from store.drafts import FileDraft, sync_directory, write_all
from store.errors import BoxError, UsageError

_PIECE = 1 << 18
_PLACES = {
    errno.ENOENT: "there is no directory {directory}",
    errno.ENOTDIR: "{directory} is not a directory",
    errno.EISDIR: "{path} is a directory",
}


class Output:
    """What is written to: an OSError becomes a BoxError that names it, but for a reader who has gone."""

    __slots__ = ("_descriptor", "_name", "_waiting")

    def __init__(self, descriptor: int, name: str) -> None:
        self._descriptor = descriptor
        self._name = name
        self._waiting = bytearray()

    def write(self, data: bytes | bytearray | memoryview, /) -> None:
        """Write all of it, at the latest by `flush`."""
        if len(self._waiting) + len(data) >= _PIECE:
            self.flush()
        if len(data) < _PIECE:
            self._waiting += data
            return
        with _said(f"cannot write {self._name}"):
            write_all(self._descriptor, data)

    def flush(self) -> None:
        """On return everything was written."""
        waiting, self._waiting = self._waiting, bytearray()
        with _said(f"cannot write {self._name}"):
            write_all(self._descriptor, waiting)


def destination(values: Values) -> str:
    """What --output names; empty for standard output, which is no terminal then. Raises UsageError."""
    path = values.text("output")
    if values.flag("output") and not path:
        raise UsageError("the name of the output is empty", hint="name a file, or '-' for standard output")
    if path in ("", "-"):
        check_not_a_terminal()
        return ""
    return path


@contextmanager
def output(path: str) -> Iterator[Output]:
    """A file to write to that becomes `path` when the block ends well; standard output for an empty one.

    UsageError where no file can be at `path`, BoxError when it cannot be written.
    """
    if path:
        with unwound(), _whole(path) as made:
            yield made
        return
    check_not_a_terminal()
    made = Output(1, "the output")
    yield made
    made.flush()


def check_not_a_terminal() -> None:
    """Raise UsageError where standard output is a terminal."""
    if sys.stdout.isatty():
        raise UsageError("a tar would not be readable on a terminal", hint="say -o FILE, or redirect the output")


@contextmanager
def _whole(path: str) -> Iterator[Output]:
    """A file that replaces the one at `path` when the block ends well. What is there and no plain file is written to as it is."""
    if path.endswith("/"):
        raise UsageError(f"{path} names a directory", hint="name a file in it")
    try:
        plain = stat.S_ISREG(os.stat(path).st_mode)
    except FileNotFoundError:
        plain = True
    except OSError as err:
        raise _refused(path, err) from err
    try:
        if not plain:
            descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_TRUNC)
        else:
            target = os.path.realpath(path)
            draft = FileDraft(os.path.dirname(target), 0o666)
    except OSError as err:
        raise _refused(path, err) from err
    if not plain:
        try:
            made = Output(descriptor, path)
            yield made
            made.flush()
        finally:
            os.close(descriptor)
        return
    with draft:
        made = Output(draft.descriptor, path)
        yield made
        made.flush()
        with _said(f"cannot write {path}"):
            os.fsync(draft.descriptor)
            draft.publish(target)
            sync_directory(os.path.dirname(target))


@contextmanager
def _said(what: str) -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise  # nobody reads it any more
    except OSError as err:
        raise BoxError(f"{what}: {os.strerror(err.errno or 0).lower()}") from err


def _refused(path: str, err: OSError) -> BoxError:
    known = _PLACES.get(err.errno or 0)
    if known is None:
        return BoxError(f"cannot write {path}: {os.strerror(err.errno or 0).lower()}")
    text = known.format(path=path, directory=os.path.dirname(path) or ".")
    return UsageError(text, hint="name a file in a directory that is there")
