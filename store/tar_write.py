"""Writing tar so that the same tree gives the same bytes: ustar where it suffices, PAX records where it does not.

No names of users, no times but those given, no fields left to chance. `store.tar_read` reads it back unchanged; GNU tar,
libarchive, Go and Python read it, too.
"""

import os
from collections.abc import Callable
from struct import Struct

from store.errors import StoreError
from store.tar_fields import ID_LIMIT
from store.tar_read import BLOCK, DIRECTORY, Entry, shown

Write = Callable[[memoryview], object]
"""Takes the next bytes of the archive. It may keep the view until its next call returns, then the bytes become others."""

BUFFER = 1 << 20
_HEADER = Struct("100s8s8s8s12s12s8s1s100s8s32s32s8s8s155s12x")
_USTAR = b"ustar\00000"
_OCTAL_ID = 0o7777777
_OCTAL_LONG = 0o77777777777
_NANO = 1_000_000_000


class TarWriter:
    """An archive being written through `write`, in pieces of `BUFFER` bytes: add entries, then `finish`."""

    __slots__ = ("_buffer", "_filled", "_spare", "_write", "entries", "size")

    def __init__(self, write: Write) -> None:
        self._write = write
        self._buffer = memoryview(bytearray(BUFFER))
        self._spare: memoryview | None = None
        self._filled = 0
        self.entries = 0
        self.size = 0  # of what was written, the buffer included

    def add(self, entry: Entry, content: bytes = b"") -> None:
        """Append `entry` and, for a file, its `content`, which `entry.size` counts."""
        self._header(entry)
        if content:
            self._put(content)
            self._pad(len(content))

    def add_file(self, entry: Entry, descriptor: int) -> None:
        """Append `entry` and, as its content, `entry.size` bytes from the open file."""
        self.add_stream(entry, lambda buffer: os.readv(descriptor, [buffer]))

    def add_stream(self, entry: Entry, readinto: Callable[[memoryview], int]) -> None:
        """Append `entry` and, as its content, the `entry.size` bytes with which `readinto` fills the buffers it is given."""
        self._header(entry)
        left = entry.size
        while left:
            if self._filled == BUFFER:
                self._flush()
            got = readinto(self._buffer[self._filled : self._filled + left])
            if not got:
                raise StoreError(
                    f"{shown(entry.name)} became shorter while it was read", hint="is something still writing there?"
                )
            self._filled += got
            self.size += got
            left -= got
        self._pad(entry.size)

    def finish(self) -> None:
        """Append the end marker and hand over what is left. Nothing is synced."""
        self._put(bytes(2 * BLOCK))
        self._flush()

    def _put(self, data: bytes) -> None:
        self.size += len(data)
        at = 0
        while at < len(data):
            if self._filled == BUFFER:
                self._flush()
            taken = min(BUFFER - self._filled, len(data) - at)
            self._buffer[self._filled : self._filled + taken] = data[at : at + taken]
            self._filled += taken
            at += taken

    def _pad(self, size: int) -> None:
        if size % BLOCK:
            self._put(bytes(-size % BLOCK))

    def _flush(self) -> None:
        if self._filled:
            self._write(self._buffer[: self._filled])
            self._buffer, self._spare = self._spare or memoryview(bytearray(BUFFER)), self._buffer
            self._filled = 0

    def _header(self, entry: Entry) -> None:
        self.entries += 1
        name = entry.name
        if entry.kind == DIRECTORY:
            name = name + b"/" if name else b"./"
        records: dict[bytes, bytes] = {}
        prefix, base = _split(name)
        if not base:
            records[b"path"] = name
            base = name[:100]
        link = entry.link
        if len(link) > 100:
            records[b"linkpath"] = link
            link = link[:100]
        seconds, fraction = divmod(entry.mtime, _NANO)
        if fraction or not 0 <= seconds <= _OCTAL_LONG:
            records[b"mtime"] = _time(entry.mtime)
            seconds = seconds if 0 <= seconds <= _OCTAL_LONG else 0
        size, uid, gid = entry.size, entry.uid, entry.gid
        if size > _OCTAL_LONG:
            records[b"size"] = b"%d" % size
            size = 0
        if not (0 <= uid < ID_LIMIT and 0 <= gid < ID_LIMIT):
            raise StoreError(f"{shown(entry.name)} has an owner that cannot be: {uid}:{gid}")
        if uid > _OCTAL_ID:
            records[b"uid"] = b"%d" % uid
            uid = 0
        if gid > _OCTAL_ID:
            records[b"gid"] = b"%d" % gid
            gid = 0
        for key, value in (entry.xattrs or {}).items():
            records[b"SCHILY.xattr." + key.replace(b"%", b"%25").replace(b"=", b"%3D")] = value
        if records:
            data = b"".join(_record(key, records[key]) for key in sorted(records))
            self._put(_block(b"PaxHeaders.0/" + name.rstrip(b"/").rpartition(b"/")[2][:80], 0o644, 0, 0, len(data), 0, b"x"))
            self._put(data)
            self._pad(len(data))
        self._put(_block(base, entry.mode, uid, gid, size, seconds, entry.kind, link, entry.device, prefix))


def _block(
    name: bytes,
    mode: int,
    uid: int,
    gid: int,
    size: int,
    seconds: int,
    kind: bytes,
    link: bytes = b"",
    device: tuple[int, int] = (0, 0),
    prefix: bytes = b"",
) -> bytes:
    blank = _HEADER.pack(
        name, b"%07o" % mode, b"%07o" % uid, b"%07o" % gid, b"%011o" % size, b"%011o" % seconds, b"        ", kind, link, _USTAR,
        b"", b"", b"%07o" % device[0], b"%07o" % device[1], prefix,
    )  # fmt: skip
    return b"%b%06o\0 %b" % (blank[:148], sum(blank), blank[156:])


def _split(name: bytes) -> tuple[bytes, bytes]:
    """The prefix and name fields for a path; an empty name when it fits in no way."""
    if len(name) <= 100:
        return b"", name
    # The last part of a directory's name ends in a slash itself, where no split may be.
    at = name.find(b"/", max(len(name) - 101, 0), len(name) - 1)
    return (name[:at], name[at + 1 :]) if 0 < at <= 155 else (b"", b"")


def _record(key: bytes, value: bytes) -> bytes:
    """`LENGTH KEY=VALUE\\n`, where the length counts its own digits."""
    rest = len(key) + len(value) + 3
    length = rest + len(b"%d" % rest)
    length = rest + len(b"%d" % length)
    return b"%d %b=%b\n" % (length, key, value)


def _time(nanoseconds: int) -> bytes:
    sign = b"-" if nanoseconds < 0 else b""
    seconds, fraction = divmod(abs(nanoseconds), _NANO)
    return b"%b%d" % (sign, seconds) + (b".%09d" % fraction).rstrip(b"0") if fraction else b"%b%d" % (sign, seconds)
