"""Content that the kernel cannot take from a layer's tar: copied into one file beside its index, each piece on a block."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from hashlib import sha256

from store.drafts import Drafts, FileDraft, write_all
from store.errors import StoreError

_BLOCK = 512
_PIECE = 1 << 20
_PAGE = 4096
_ZEROS = bytes(_PAGE)


def digest_of(descriptor: int) -> bytes:
    """What an index keeps to know the file again: 28 bytes of the sha256 of its size, and of its pages that are not all zero,
    each with its place. Holes cost nothing, however large they are."""
    size = os.fstat(descriptor).st_size
    found = sha256(size.to_bytes(8, "little"))
    at = 0
    while at < size:
        try:
            at = os.lseek(descriptor, at, os.SEEK_DATA) & -_PAGE
        except OSError as err:
            if err.errno != errno.ENXIO:  # nothing but a hole from here on
                raise
            break
        end = os.lseek(descriptor, at, os.SEEK_HOLE)
        while at < end:
            piece = os.pread(descriptor, min(_PIECE, size - at), at)
            if not piece:
                break
            for start in range(0, len(piece), _PAGE):
                page = piece[start : start + _PAGE]
                if page != _ZEROS:
                    found.update((at + start).to_bytes(8, "little"))
                    found.update(page)
            at += len(piece)
    return found.digest()[:28]


class AsideFile:
    """The file, made when the first piece comes. `size` is a multiple of a block; addresses begin at `base`."""

    __slots__ = ("_base", "_draft", "_drafts", "size")

    def __init__(self, drafts: Drafts, base: int) -> None:
        self._drafts = drafts
        self._base = base
        self._draft: FileDraft | None = None
        self.size = 0

    def take(self, size: int, readinto: Callable[[memoryview], int]) -> int:
        """Keep the `size` bytes with which `readinto` fills the buffers it is given; returns their address."""
        return self.take_pieces(size, [(0, size)], readinto)

    def take_pieces(self, size: int, pieces: list[tuple[int, int]], readinto: Callable[[memoryview], int]) -> int:
        """The same for a file of `size` bytes of which only the `pieces` (offset, length) come; holes stay holes."""
        if self._draft is None:
            self._draft = self._drafts.file()
        descriptor = self._draft.descriptor
        start = self.size
        buffer = memoryview(bytearray(min(_PIECE, size or 1)))
        for offset, length in pieces:
            os.lseek(descriptor, start + offset, os.SEEK_SET)
            while length:
                got = readinto(buffer[:length])
                if not got:
                    raise StoreError("a file became shorter while it was read", hint="is something still writing there?")
                write_all(descriptor, buffer[:got])
                length -= got
        self.size = start + size + -size % _BLOCK
        os.ftruncate(descriptor, self.size)
        return self._base + start

    def digest(self) -> bytes:
        """See `digest_of`."""
        return b"" if self._draft is None else digest_of(self._draft.descriptor)

    def publish(self, path: str) -> None:
        """Give the file its name, over one that may be there."""
        if self._draft is not None:
            self._draft.publish(path)

    def close(self) -> None:
        """Drop what was not published."""
        if self._draft is not None:
            self._draft.close()
