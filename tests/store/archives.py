"""Tar archives made byte by byte, so that a test can say things no honest writer says."""

import io
import tarfile


def header(
    name: bytes,
    kind: bytes = b"0",
    *,
    size: int | bytes = 0,
    mode: int | bytes = 0o644,
    uid: int | bytes = 0,
    gid: int | bytes = 0,
    mtime: int | bytes = 0,
    link: bytes = b"",
    device: tuple[int, int] = (0, 0),
    magic: bytes = b"ustar\x0000",
    prefix: bytes = b"",
    checksum: int | None = None,
) -> bytes:
    """One header; a number given as bytes goes into its field as it is."""

    def field(value: int | bytes, width: int) -> bytes:
        text = value if isinstance(value, bytes) else b"%0*o\0" % (width - 1, value)
        assert len(text) <= width, (value, width)
        return text.ljust(width, b"\0")

    block = bytearray(512)
    block[0:100] = name.ljust(100, b"\0")
    block[100:108] = field(mode, 8)
    block[108:116] = field(uid, 8)
    block[116:124] = field(gid, 8)
    block[124:136] = field(size, 12)
    block[136:148] = field(mtime, 12)
    block[148:156] = b" " * 8
    block[156:157] = kind
    block[157:257] = link.ljust(100, b"\0")
    block[257:265] = magic
    block[329:337] = field(device[0], 8)
    block[337:345] = field(device[1], 8)
    block[345:500] = prefix.ljust(155, b"\0")
    assert len(block) == 512, "a field was too long"
    total = sum(block) if checksum is None else checksum
    block[148:156] = b"%06o\0 " % total
    return bytes(block)


def padded(content: bytes) -> bytes:
    return content + bytes(-len(content) % 512)


def file(name: bytes, content: bytes = b"", **fields: object) -> bytes:
    return header(name, size=len(content), **fields) + padded(content)  # type: ignore[arg-type]


def directory(name: bytes, mode: int = 0o755, **fields: object) -> bytes:
    return header(name, b"5", mode=mode, **fields)  # type: ignore[arg-type]


def symlink(name: bytes, target: bytes, **fields: object) -> bytes:
    return header(name, b"2", link=target, mode=0o777, **fields)  # type: ignore[arg-type]


def hardlink(name: bytes, target: bytes, **fields: object) -> bytes:
    return header(name, b"1", link=target, **fields)  # type: ignore[arg-type]


def record(key: bytes, value: bytes) -> bytes:
    length = len(key) + len(value) + 3
    while length != len(key) + len(value) + 3 + len(str(length)):
        length = len(key) + len(value) + 3 + len(str(length))
    return b"%d %b=%b\n" % (length, key, value)


def pax(records: dict[bytes, bytes], *, kind: bytes = b"x") -> bytes:
    """An extended header for the entry that follows, or with kind "g" for all that follow."""
    return raw_pax(b"".join(record(key, value) for key, value in records.items()), kind=kind)


def raw_pax(data: bytes, *, kind: bytes = b"x") -> bytes:
    return header(b"PaxHeaders/x", kind, size=len(data)) + padded(data)


def long_name(name: bytes, *, kind: bytes = b"L") -> bytes:
    """GNU's way to say the name (or with kind "K" the link target) of the entry that follows."""
    return header(b"././@LongLink", kind, size=len(name) + 1, magic=b"ustar  \0") + padded(name + b"\0")


END = bytes(1024)


def archive(*members: bytes) -> bytes:
    """A whole archive of these members."""
    return b"".join(members) + END


def stdlib_names(data: bytes) -> list[str]:
    """What Python's own tarfile finds in it: the control that believes what it is told."""
    with tarfile.open(fileobj=io.BytesIO(data)) as opened:
        return opened.getnames()
