"""Decompressing what nobody vouches for: plain, gzip, zstd, xz or bzip2, told apart by their first bytes, and bounded.

A stream may consist of several members or frames, as each of these formats allows. One that is cut short, damaged, or grows past
the limits is an ArchiveError, never an early end.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from store.errors import ArchiveError
from store.record import Record

if TYPE_CHECKING:
    from zstandard import ZstdDecompressionReader

READ_SIZE = 1 << 17
WINDOW_LIMIT = 128 << 20  # of memory; zstd --long=27 and xz -9 need no more
_TRUNCATED = "the compressed stream is cut short"
_DAMAGED = "the compressed stream is damaged"
_AGAIN = "make the archive again, or fetch it again"


class Source(Protocol):
    """What is read from: an unbuffered file, or anything that fills a buffer."""

    def readinto(self, buffer: memoryview, /) -> int | None:
        """Fill some of `buffer`; 0 at the end."""


class _Member(Protocol):
    """bz2's and lzma's common interface."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int = -1) -> bytes: ...


class Bounds(Record):
    """How far a stream may grow: to `total` bytes, and past `floor` to no more than `ratio` times its compressed size."""

    total: int = 256 << 30
    ratio: int = 200
    floor: int = 1 << 30


DEFAULT_BOUNDS = Bounds()


def open_stream(source: Source, bounds: Bounds = DEFAULT_BOUNDS) -> Stream:
    """A reader of what `source` holds, whichever way it is compressed; `source` is read from where it stands and not closed."""
    counted = _Counted(source)
    start = counted.peek(6)
    if start.startswith(b"\x1f\x8b"):
        return Stream("gzip", _gzip(counted), counted, bounds)
    if start.startswith(b"\x28\xb5\x2f\xfd") or (start[1:4] == b"\x2a\x4d\x18" and 0x50 <= start[0] <= 0x5F):
        return Stream("zstd", _zstd(counted), counted, bounds)
    if start.startswith(b"\xfd7zXZ\0"):
        return Stream("xz", _xz(counted), counted, bounds)
    if start.startswith(b"BZh"):
        return Stream("bzip2", _bzip2(counted), counted, bounds)
    return Stream("", counted.readinto, counted, bounds)


class Stream:
    """The decompressed bytes; `compression` is "" (none), "gzip", "zstd", "xz" or "bzip2"; `consumed` counts compressed bytes."""

    __slots__ = ("_bounds", "_fill", "_source", "compression", "size")

    def __init__(self, compression: str, fill: Callable[[memoryview], int], source: _Counted, bounds: Bounds) -> None:
        self.compression = compression
        self.size = 0
        self._fill = fill
        self._source = source
        self._bounds = bounds

    @property
    def consumed(self) -> int:
        """How many bytes of the source were read."""
        return self._source.size

    def readinto(self, buffer: memoryview) -> int:
        """Fill `buffer`, only at the end less than all of it; 0 when nothing is left."""
        filled = 0
        while filled < len(buffer):
            got = self._fill(buffer[filled:])
            if not got:
                break
            filled += got
            self.size += got
            self._check()
        return filled

    def _check(self) -> None:
        if self.size > self._bounds.total:
            raise ArchiveError(f"the archive grows past {self._bounds.total} bytes")
        if self.compression and self.size > max(self._bounds.floor, self._bounds.ratio * self._source.size):
            raise ArchiveError(
                f"the archive grows to more than {self._bounds.ratio} times its compressed size",
                hint="if you trust it, decompress it yourself and give box the plain tar",
            )


class _Counted:
    """The source, with its first bytes looked at in advance and all of them counted."""

    __slots__ = ("_ahead", "_source", "size")

    def __init__(self, source: Source) -> None:
        self._source = source
        self._ahead = b""
        self.size = 0

    def peek(self, size: int) -> bytes:
        start = bytearray(size)
        filled = 0
        while filled < size and (got := self._source.readinto(memoryview(start)[filled:])):
            filled += got
        self._ahead = bytes(start[:filled])
        return self._ahead

    def readinto(self, buffer: memoryview) -> int:
        if self._ahead:
            taken = min(len(buffer), len(self._ahead))
            buffer[:taken] = self._ahead[:taken]
            self._ahead = self._ahead[taken:]
        else:
            taken = self._source.readinto(buffer) or 0
        self.size += taken
        return taken

    def read(self, size: int = -1) -> bytes:
        buffer = bytearray(READ_SIZE if size < 0 else size)
        return bytes(memoryview(buffer)[: self.readinto(memoryview(buffer))])


class _File(io.RawIOBase):
    """The source as a file object, for readers that want one."""

    def __init__(self, source: _Counted) -> None:
        super().__init__()
        self._source = source

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # typeshed's Buffer has no name before 3.12
        return self._source.readinto(memoryview(buffer))


def _gzip(source: _Counted) -> Callable[[memoryview], int]:
    import zlib

    damage: tuple[type[Exception], ...] = (OSError, zlib.error)
    try:
        from isal import igzip, isal_zlib
    except ImportError:  # isal has no wheel for this machine: zlib is two and a half times slower
        import gzip

        reader: io.BufferedIOBase = gzip.GzipFile(fileobj=_File(source), mode="rb")
    else:
        reader = igzip.IGzipFile(fileobj=_File(source), mode="rb")  # type: ignore[no-untyped-call]  # isal's stubs lack __init__
        damage += (isal_zlib.error,)  # type: ignore[operator]  # isal's stubs have an instance where the class is

    def fill(buffer: memoryview) -> int:
        try:
            return reader.readinto(buffer)
        except EOFError as err:
            raise ArchiveError(_TRUNCATED, hint=_AGAIN) from err
        except damage as err:
            if isinstance(err, OSError) and err.errno is not None:
                raise  # the disk's, not the stream's
            raise ArchiveError(f"{_DAMAGED}: {err}", hint=_AGAIN) from err

    return fill


def _zstd(source: _Counted) -> Callable[[memoryview], int]:
    import zstandard

    # The reader takes the end of its input for the end of the data, even inside a frame.
    frames = _Frames(source)
    decoder = zstandard.ZstdDecompressor(max_window_size=WINDOW_LIMIT)
    reader: ZstdDecompressionReader = decoder.stream_reader(
        frames,  # type: ignore[arg-type]  # it calls no more of a file than read()
        read_size=READ_SIZE,
        read_across_frames=True,
    )

    def fill(buffer: memoryview) -> int:
        try:
            got = reader.readinto(buffer)
        except zstandard.ZstdError as err:
            if frames.ended_inside:
                raise ArchiveError(_TRUNCATED, hint=_AGAIN) from err
            raise ArchiveError(f"{_DAMAGED}: {err}", hint=_AGAIN) from err
        if not got and frames.ended_inside:
            raise ArchiveError(_TRUNCATED, hint=_AGAIN)
        return got

    return fill


class _Frames:
    """Follows the frames and blocks of a zstd stream as it is read, so that a cut is noticed (RFC 8878, section 3.1)."""

    __slots__ = ("_checksum", "_head", "_skip", "_source", "_state", "ended_inside")

    def __init__(self, source: _Counted) -> None:
        self._source = source
        self._head = b""  # the part seen of a header that reaches over a read
        self._skip = 0  # of a block or frame whose content is none of our business
        self._state = "frame"
        self._checksum = False
        self.ended_inside = False

    def read(self, size: int) -> bytes:
        data = self._source.read(size)
        if data:
            self._follow(data)
        else:
            self.ended_inside = self._state != "frame" or bool(self._skip) or bool(self._head)
        return data

    def _follow(self, data: bytes) -> None:
        at = 0
        while True:
            skipped = min(self._skip, len(data) - at)
            self._skip -= skipped
            at += skipped
            if at >= len(data):
                return
            head = self._head + data[at : at + 18]
            length = self._header(head)
            if length is None:  # 18 bytes hold every header, so this one reaches over the end of `data`
                self._head = head
                return
            at += length - len(self._head)
            self._head = b""

    def _header(self, head: bytes) -> int | None:
        """Step over the header at the beginning of `head`: its length, or None when it is not all there."""
        if self._state == "block":
            if len(head) < 3:
                return None
            word = int.from_bytes(head[:3], "little")
            self._skip = 1 if word >> 1 & 3 == 1 else word >> 3  # a run of one byte keeps that byte only
            if word & 1:
                self._state = "frame"
                self._skip += 4 if self._checksum else 0
            return 3
        if len(head) < 8:
            return None if len(head) < 5 or head[1:4] == b"\x2a\x4d\x18" else self._frame(head)
        if head[1:4] == b"\x2a\x4d\x18":
            self._skip = int.from_bytes(head[4:8], "little")
            return 8
        return self._frame(head)

    def _frame(self, head: bytes) -> int | None:
        flags = head[4]
        single = flags >> 5 & 1
        length = 5 + (1 - single) + (0, 1, 2, 4)[flags & 3] + (single, 2, 4, 8)[flags >> 6]
        if len(head) < length:
            return None
        self._checksum = bool(flags & 4)
        self._state = "block"
        return length


def _xz(source: _Counted) -> Callable[[memoryview], int]:
    import lzma

    # The limit is on the decoder's memory, which is its dictionary and a little more.
    return _members(source, lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=2 * WINDOW_LIMIT), lzma.LZMAError)


def _bzip2(source: _Counted) -> Callable[[memoryview], int]:
    import bz2

    return _members(source, bz2.BZ2Decompressor, OSError)


def _members(source: _Counted, start: Callable[[], _Member], damage: type[Exception]) -> Callable[[memoryview], int]:
    """Read member after member; between and behind them there may be zeros (xz pads its streams so)."""
    member = start()
    fresh = False  # no byte of this member was seen yet
    pending = b""

    def fill(buffer: memoryview) -> int:
        nonlocal member, fresh, pending
        while True:
            if member.eof:
                pending, member, fresh = member.unused_data, start(), True
            if not pending and member.needs_input:
                pending = source.read(READ_SIZE)
                if not pending:
                    if fresh:
                        return 0
                    raise ArchiveError(_TRUNCATED, hint=_AGAIN)
            if fresh:
                pending = pending.lstrip(b"\0")
                if not pending:
                    continue
                fresh = False
            data, pending = pending, b""
            try:
                got = member.decompress(data, len(buffer))
            except damage as err:
                raise ArchiveError(f"{_DAMAGED}: {err}", hint=_AGAIN) from err
            if got:
                buffer[: len(got)] = got
                return len(got)

    return fill
