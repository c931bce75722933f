"""Python's bytecode files, made independent of time.

A .pyc names the time and size of its source; the image's sources have another time, so python would compile each of them again
at every start. PEP 552 has a form without a time that python believes unchecked: flags 1, then a hash that nobody reads.
"""

import os

_HEADER = 16  # magic, flags, then time and size of the source, or its hash; all little-endian


def header(data: bytes) -> bytes:
    """The header of a .pyc; empty when it has none."""
    return data[:_HEADER] if len(data) >= _HEADER else b""


def unchecked(data: bytes) -> bytes:
    """The same code, believed without a look at its source."""
    return data[:4] + (1).to_bytes(4, "little") + bytes(8) + data[_HEADER:]


class Bytecode:
    """The header of a .pyc."""

    __slots__ = ("_header",)

    def __init__(self, head: bytes) -> None:
        self._header = head

    def is_of(self, path: bytes) -> bool:
        """Whether the .pyc at `path` (…/__pycache__/NAME.TAG.pyc) is up to date with its source, by time and size."""
        folder, name = os.path.split(path)
        parts = name.split(b".")
        if len(parts) != 3 or os.path.basename(folder) != b"__pycache__" or self._header[4:8] != bytes(4):
            return False
        try:
            status = os.stat(os.path.dirname(folder) + b"/" + parts[0] + b".py")
        except OSError:
            return False
        wanted = (int(status.st_mtime) & 0xFFFFFFFF).to_bytes(4, "little") + (status.st_size & 0xFFFFFFFF).to_bytes(4, "little")
        return self._header[8:] == wanted
