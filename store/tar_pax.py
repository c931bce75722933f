"""PAX's extended headers: records of a key and a value each, from archives nobody vouches for.

Sources: POSIX.1-2017 pax(1); the xattr records of star and libarchive; GNU tar's sparse records.
"""

from __future__ import annotations

import binascii

from store.errors import ArchiveError

_XATTR = b"SCHILY.xattr."
_LIBARCHIVE_XATTR = b"LIBARCHIVE.xattr."
_LISTED = (b"GNU.sparse.offset", b"GNU.sparse.numbytes")


def decimal(text: bytes, what: str) -> int:
    if not text.isdigit() or len(text) > 20:
        raise ArchiveError(f"a {what} is not a number: {text[:40]!r}")
    return int(text)


def parse_time(text: bytes) -> int:
    """Nanoseconds of a PAX time: decimal seconds, a sign, a fraction of any length."""
    digits = text[1:] if text.startswith(b"-") else text
    whole, _, fraction = digits.partition(b".")
    if not whole.isdigit() or len(whole) > 20 or (fraction and not fraction.isdigit()):
        raise ArchiveError(f"a modification time is not a number: {text[:40]!r}")
    value = int(whole) * 1_000_000_000 + int((fraction[:9] or b"0").ljust(9, b"0"))
    return -value if text.startswith(b"-") else value


def read_records(data: bytes, records: dict[bytes, bytes], listed: list[bytes] | None = None) -> None:
    """Add the records `LENGTH KEY=VALUE\\n` of a PAX header; an empty value takes the key away again.

    `listed` gets the values of the keys of which GNU tar's sparse format 0.0 writes several.
    """
    at, end = 0, len(data)
    while at < end:
        blank = data.find(b" ", at, at + 9)
        digits = data[at:blank]
        if blank < 0 or not digits.isdigit():
            raise ArchiveError("an extended header that cannot be read")
        stop = at + int(digits)
        equals = data.find(b"=", blank, stop)
        if stop > end or equals < blank + 2 or data[stop - 1] != 0x0A:
            raise ArchiveError("an extended header that cannot be read")
        key, value = data[blank + 1 : equals], data[equals + 1 : stop - 1]
        if key in (b"path", b"linkpath") and key in records:
            raise ArchiveError(f"two {key.decode()}s for one entry")
        if listed is not None and key in _LISTED:
            listed.append(value)
        if value or key.startswith((_XATTR, _LIBARCHIVE_XATTR)):
            records[key] = value
        else:
            records.pop(key, None)
        at = stop


def read_xattrs(records: dict[bytes, bytes]) -> dict[bytes, bytes] | None:
    found: dict[bytes, bytes] = {}
    for key, value in records.items():
        if key.startswith(_LIBARCHIVE_XATTR):
            try:
                decoded = binascii.a2b_base64(value + b"=" * (-len(value) % 4), strict_mode=True)
            except binascii.Error as err:
                raise ArchiveError("an extended attribute that cannot be read") from err
            found.setdefault(_unquote(key[len(_LIBARCHIVE_XATTR) :]), decoded)
    for key, value in records.items():
        if key.startswith(_XATTR):
            # As GNU tar writes a name that has a `=` in it.
            found[key[len(_XATTR) :].replace(b"%3D", b"=").replace(b"%25", b"%")] = value
    if any(b"\0" in name or not name for name in found):
        raise ArchiveError("an extended attribute whose name cannot be")
    return found or None


def _unquote(name: bytes) -> bytes:
    parts = name.split(b"%")
    try:
        return parts[0] + b"".join(binascii.a2b_hex(part[:2]) + part[2:] for part in parts[1:])
    except binascii.Error as err:
        raise ArchiveError("an extended attribute whose name cannot be read") from err
