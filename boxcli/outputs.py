"""Where an archive goes: to a file that appears whole or not at all, or to standard output, which is no terminal."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

from boxcli.table import Values
from store.errors import UsageError


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
def output(path: str) -> Iterator[IO[bytes]]:
    """A file to write to that becomes `path` when the block ends well; standard output for an empty one."""
    if path:
        with _whole(path) as file:
            yield file
        return
    check_not_a_terminal()
    with open(1, "wb", closefd=False) as file:
        yield file


def check_not_a_terminal() -> None:
    """Raise UsageError where standard output is a terminal."""
    if sys.stdout.isatty():
        raise UsageError("a tar would not be readable on a terminal", hint="say -o FILE, or redirect the output")


@contextmanager
def _whole(path: str) -> Iterator[IO[bytes]]:
    """A file that replaces the one at `path` when the block ends well. What is there and no plain file is written to as it is."""
    try:
        plain = stat.S_ISREG(os.stat(path).st_mode)
    except FileNotFoundError:
        plain = True
    if not plain:
        with open(path, "wb") as file:
            yield file
        return
    path = os.path.realpath(path)
    draft = f"{path}.{os.getpid()}.part"
    try:
        file = open(draft, "xb")  # noqa: SIM115  # closed below; only a failure to open it is answered here
    except FileNotFoundError as err:
        raise UsageError(f"there is no directory {os.path.dirname(path)}") from err
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.rename(draft, path)
    except BaseException:
        os.unlink(draft)
        raise
