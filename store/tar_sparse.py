"""Files with holes in an archive: which pieces are there, in GNU tar's four ways of saying so.

Sources: GNU tar manual, "Sparse Formats" (old GNU, PAX 0.0, 0.1 and 1.0); tar.h. A map is believed only when its pieces are in
order, apart, inside the file, and as long together as what is stored.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from store.errors import ArchiveError

Pieces = list[tuple[int, int]]
"""Offset and length of what is there; the rest of the file is holes."""

BLOCK = 512
FILE_LIMIT = 1 << 39  # bytes that a file may claim to have, most of them holes
PIECE_LIMIT = 1 << 20
_IN_HEADER, _IN_EXTENSION = 4, 21
_PAIR = 24

Number = Callable[[bytes, str], int]


def old_gnu(header: bytes, next_block: Callable[[], bytes], number: Number) -> tuple[int, Pieces]:
    """The file's size and pieces, of a header of type `S` and the blocks that continue its map."""
    size = number(header[483:495], "size")
    pieces = _pairs(header[386 : 386 + _IN_HEADER * _PAIR], number)
    more = header[482]
    while more:
        block = next_block()
        pieces += _pairs(block[: _IN_EXTENSION * _PAIR], number)
        more = block[_IN_EXTENSION * _PAIR]
        _limit(pieces)
    return size, pieces


def _pairs(data: bytes, number: Number) -> Pieces:
    found = []
    for at in range(0, len(data), _PAIR):
        if not data[at]:
            break
        found.append((number(data[at : at + 12], "place of a piece"), number(data[at + 12 : at + _PAIR], "length of a piece")))
    return found


def from_records(records: Mapping[bytes, bytes], listed: list[bytes]) -> tuple[int, Pieces] | None:
    """The same of a PAX header of format 0.0 or 0.1; `listed` are the values of the keys that 0.0 repeats, in their order.

    None when the map stands before the content (format 1.0).
    """
    if b"GNU.sparse.major" in records:
        if (records[b"GNU.sparse.major"], records.get(b"GNU.sparse.minor")) != (b"1", b"0"):
            raise ArchiveError("a sparse file in a form that is not known")
        return None
    values = records[b"GNU.sparse.map"].split(b",") if b"GNU.sparse.map" in records else listed
    numbers = [_decimal(value) for value in values if value]
    if len(numbers) % 2:
        raise ArchiveError("a sparse file's map has an odd number of numbers")
    size = _decimal(records.get(b"GNU.sparse.size") or records.get(b"GNU.sparse.realsize") or b"")
    return size, list(zip(numbers[::2], numbers[1::2], strict=True))


def before_content(next_block: Callable[[], bytes]) -> tuple[Pieces, int]:
    """The map of format 1.0, read from the blocks in front of the content; and how many bytes they take."""
    taken = 0
    rest = b""

    def line() -> int:
        nonlocal taken, rest
        while b"\n" not in rest:
            if len(rest) > 20:
                raise ArchiveError("a sparse file's map cannot be read")
            rest += next_block()
            taken += BLOCK
        text, _, rest = rest.partition(b"\n")
        return _decimal(text)

    count = line()
    if count > PIECE_LIMIT:
        raise ArchiveError(f"a sparse file of more than {PIECE_LIMIT} pieces")
    return [(line(), line()) for _ in range(count)], taken


def check(size: int, pieces: Pieces, stored: int, name: str) -> Pieces:
    """The pieces that are not empty, when they can be those of a file of `size` bytes of which `stored` are in the archive."""
    _limit(pieces)
    if not 0 <= size <= FILE_LIMIT:
        raise ArchiveError(f"a sparse file of {size} bytes; the limit is {FILE_LIMIT}: {name}")
    end = total = 0
    for offset, length in pieces:
        if offset < end or length < 0 or offset + length > size:
            raise ArchiveError(f"a sparse file whose pieces overlap, or reach past its end: {name}")
        end = offset + length
        total += length
    if total != stored:
        raise ArchiveError(f"a sparse file has {stored} bytes where its map says {total}: {name}")
    return [piece for piece in pieces if piece[1]]


def _limit(pieces: Pieces) -> None:
    if len(pieces) > PIECE_LIMIT:
        raise ArchiveError(f"a sparse file of more than {PIECE_LIMIT} pieces")


def _decimal(text: bytes) -> int:
    if not text.isdigit() or len(text) > 19:
        raise ArchiveError(f"a number in a sparse file's map cannot be read: {text[:40]!r}")
    return int(text)
