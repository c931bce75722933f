"""The fields of a tar's header: numbers that are checked before they are believed. See store/tar_read.py for the sources."""

from __future__ import annotations

from store.errors import ArchiveError

ID_LIMIT = (1 << 32) - 1  # (uid_t)-1 means "leave as it is" to chown(2)
# What ext4, XFS, Btrfs and EROFS can all hold, in seconds: a time beyond is taken to be the nearest that they can.
EARLIEST, LATEST = -(1 << 31), (1 << 34) - (1 << 31) - 1
CHECKSUM_BLANKS = 8 * 0x20
ADLER = 65521
NO_TAR = "a tar may be plain, or compressed by gzip, zstd, xz or bzip2"

_NANO = 1_000_000_000


def ids_of(numbers: bytes) -> tuple[int, int, int]:
    """Mode, owner and group, from the 24 bytes of the three."""
    return number(numbers[:8], "mode") & 0o7777, owner_of(number(numbers[8:16], "owner")), owner_of(number(numbers[16:], "group"))


def owner_of(value: int) -> int:
    """A user's or group's id, or ArchiveError."""
    if not 0 <= value < ID_LIMIT:
        raise ArchiveError(f"an owner that cannot be: {value}")
    return value


def nearest_time(nanoseconds: int) -> int:
    """The time that every file system can hold. The kernel drops the fraction of the first and of the last second."""
    return min(max(nanoseconds, EARLIEST * _NANO), LATEST * _NANO)


def octal(field: bytes, what: str) -> int:
    """A number in octal digits; 0 for a field of blanks."""
    text = field.strip(b"\0 ")
    # int() takes signs, underscores and 0o as well.
    if text.translate(None, b"01234567"):
        raise ArchiveError(f"this is no tar archive, or a damaged one: a {what} in a header is not a number", hint=NO_TAR)
    return int(text, 8) if text else 0


def number(field: bytes, what: str) -> int:
    """A number in octal, or in base 256 with the top bit set (GNU and star)."""
    if field[0] < 0x80:
        return octal(field, what)
    bits = 8 * len(field) - 1
    value = int.from_bytes(field, "big") & ((1 << bits) - 1)
    return value - (1 << bits) if field[0] & 0x40 else value


def checksum_of(field: bytes) -> int:
    """The checksum that the header says it has, -1 for none."""
    return octal(field, "checksum") if field.strip(b"\0 ") else -1


def check_slowly(header: bytes, expected: int) -> None:
    """Raise unless the checksum is the one of old tars, which summed signed bytes."""
    blanked = header[:148] + b" " * 8 + header[156:]
    signed = sum(byte - 256 if byte > 127 else byte for byte in blanked)
    if signed != expected:
        raise ArchiveError("this is no tar archive, or a damaged one: a header's checksum is wrong", hint=NO_TAR)
