"""What an archive has that the store has already: told by comparing, so that no byte of it is written again."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from io import FileIO
from typing import Protocol

from store.blobs import CHUNK, Blobs, Readable
from store.digest import Digest


class Pieces(Readable, Protocol):
    """A source that is read in pieces, or into buffers; the one goes on where the other ended."""

    def __iter__(self) -> Iterator[memoryview]: ...


@contextmanager
def known(blobs: Blobs, digest: Digest, size: int, pieces: Pieces) -> Iterator[Callable[[], memoryview] | None]:
    """Compare `pieces`, of `size` bytes, with the blob `digest`, which is in the lease from now on.

    Gives None when the store has those very bytes, and they have this digest. Otherwise (there is no such blob, or a damaged one)
    what gives all the pieces once more, within this block.
    """
    blobs.use(digest)
    try:
        file = FileIO(blobs.path(digest))
    except OSError:
        yield _rest(pieces)
        return
    with file:
        at, whole = _equal(file, digest, size, pieces)
        yield None if whole else _again(file, at, pieces)


def _equal(file: FileIO, digest: Digest, size: int, pieces: Pieces) -> tuple[int, bool]:
    """How many bytes are the same in both, and whether that is all of them, and what the digest promises."""
    at = 0
    hasher = sha256()
    try:
        if os.fstat(file.fileno()).st_size != size:
            return 0, False
        for piece in pieces:
            if file.read(len(piece)) != piece:
                return at, False  # the piece is still to be had
            hasher.update(piece)
            at += len(piece)
    except OSError:  # the store's copy cannot be read: the archive's takes its place
        return at, False
    return at, hasher.hexdigest() == digest.hex


def _again(file: FileIO, left: int, pieces: Pieces) -> Callable[[], memoryview]:
    """The first `left` bytes of the file, and then what is left of the pieces."""
    buffer = memoryview(bytearray(CHUNK))
    rest = _rest(pieces)
    file.seek(0)

    def next_piece() -> memoryview:
        nonlocal left
        count = file.readinto(buffer[: min(left, CHUNK)]) or 0
        left -= count
        return buffer[:count] if count else rest()

    return next_piece


def _rest(pieces: Pieces) -> Callable[[], memoryview]:
    buffer = memoryview(bytearray(CHUNK))
    return lambda: buffer[: pieces.readinto(buffer)]
