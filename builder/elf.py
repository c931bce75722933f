"""What an ELF file needs at run time: its interpreter and libraries. Read by us, since ldd executes what it looks at.

Source: elf(5), System V ABI gABI chapter 5 (program headers, dynamic section).
"""

from __future__ import annotations

import struct

from store.record import Record

_PT_LOAD, _PT_DYNAMIC, _PT_INTERP = 1, 2, 3
_DT_NEEDED, _DT_STRTAB, _DT_SONAME, _DT_RPATH, _DT_STRSZ, _DT_RUNPATH = 1, 5, 14, 15, 10, 29
_LIMIT = 1 << 20  # of any table that is read here: real ones have a few hundred bytes


class Elf(Record):
    """`machine` is e_machine with the class bit, as a 32-bit library fits no 64-bit program; paths are as the file has them."""

    machine: int
    interpreter: bytes
    needed: tuple[bytes, ...]
    rpath: tuple[bytes, ...]
    runpath: tuple[bytes, ...]


class _Reader:
    __slots__ = ("_data", "_order", "_wide")

    def __init__(self, data: memoryview) -> None:
        self._data = data
        self._wide = data[4] == 2
        self._order = "<" if data[5] == 1 else ">"

    def unpack(self, format_64: str, format_32: str, at: int) -> tuple[int, ...]:
        form = self._order + (format_64 if self._wide else format_32)
        return struct.unpack_from(form, self._data, at)

    def size(self, size_64: int, size_32: int) -> int:
        return size_64 if self._wide else size_32

    def bytes(self, at: int, size: int) -> bytes:
        return bytes(self._data[at : at + min(size, _LIMIT)])


def parse(data: memoryview) -> Elf | None:
    """What `data`, the bytes of a file, needs; None when it is no dynamic or executable ELF file that can be understood."""
    if len(data) < 52 or bytes(data[:4]) != b"\x7fELF" or data[4] not in (1, 2) or data[5] not in (1, 2):
        return None
    try:
        return _parse(_Reader(data))
    except (struct.error, IndexError, OverflowError):
        return None


def _parse(reader: _Reader) -> Elf:
    (machine,) = reader.unpack("H", "H", 18)
    (headers_at,) = reader.unpack("Q", "I", reader.size(32, 28))
    size, count = reader.unpack("HH", "HH", reader.size(54, 42))
    loads: list[tuple[int, int, int]] = []
    dynamic: tuple[int, int] | None = None
    interpreter = b""
    for index in range(count):
        at = headers_at + index * size
        if reader.size(1, 0):
            kind, _, offset, address, _, length = reader.unpack("IIQQQQ", "", at)
        else:
            kind, offset, address, _, length = reader.unpack("", "IIIII", at)
        if kind == _PT_LOAD:
            loads.append((address, offset, length))
        elif kind == _PT_DYNAMIC:
            dynamic = offset, length
        elif kind == _PT_INTERP:
            interpreter = reader.bytes(offset, length).rstrip(b"\0")
    tags = _tags(reader, dynamic) if dynamic is not None else {}
    strings = _strings(reader, tags, loads)

    def text(at: int) -> bytes:
        return strings[at : strings.find(b"\0", at)]

    def paths(tag: int) -> tuple[bytes, ...]:
        return tuple(path for at in tags.get(tag, []) for path in text(at).split(b":") if path)

    return Elf(
        machine << 1 | reader.size(1, 0),
        interpreter,
        tuple(text(at) for at in tags.get(_DT_NEEDED, [])),
        paths(_DT_RPATH),
        paths(_DT_RUNPATH),
    )


def _tags(reader: _Reader, dynamic: tuple[int, int]) -> dict[int, list[int]]:
    offset, length = dynamic
    entry = reader.size(16, 8)
    tags: dict[int, list[int]] = {}
    for at in range(offset, offset + min(length, _LIMIT), entry):
        tag, value = reader.unpack("QQ", "II", at)
        if tag == 0:
            break
        tags.setdefault(tag, []).append(value)
    return tags


def _strings(reader: _Reader, tags: dict[int, list[int]], loads: list[tuple[int, int, int]]) -> bytes:
    """The dynamic string table, whose address is that in memory."""
    if _DT_STRTAB not in tags:
        return b""
    address = tags[_DT_STRTAB][0]
    for start, offset, length in loads:
        if start <= address < start + length:
            return reader.bytes(offset + address - start, tags.get(_DT_STRSZ, [_LIMIT])[0])
    return b""
