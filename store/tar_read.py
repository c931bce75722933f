"""A streaming tar reader for archives nobody vouches for: ustar, GNU and PAX, every number and name checked before it is used.

It stores nothing and touches no file system; what a name may do is `store.unpack`'s business. Where two readers in the field
could understand one header differently, it is refused instead of guessed at (a size on a directory, two names for an entry).

Sources: POSIX.1-2017 pax(1); GNU tar's tar.h; libarchive's tar(5); the xattr records of star and libarchive.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from struct import Struct
from zlib import adler32

from store.errors import ArchiveError
from store.record import Record
from store.tar_fields import (
    ADLER,
    CHECKSUM_BLANKS,
    EARLIEST,
    LATEST,
    NO_TAR,
    check_slowly,
    checksum_of,
    ids_of,
    nearest_time,
    number,
    owner_of,
)  # fmt: skip
from store.tar_pax import decimal, parse_time, read_records, read_xattrs

BLOCK = 512
FILE, HARDLINK, SYMLINK, CHARACTER, BLOCK_DEVICE, DIRECTORY, FIFO = b"0", b"1", b"2", b"3", b"4", b"5", b"6"

TIME_LIMIT = 1 << 43  # seconds either side of 1970: more than any file system holds, less than what overflows a timespec

Feed = Callable[[], memoryview | None]
"""The archive's next bytes, None at its end; all but the last a multiple of 512 long, each valid until the next call."""

_HEADER = Struct("100s24s12s12s8x1x100s8s64x8s8s155s12x")
_NANO = 1_000_000_000
_EXTENSIONS = frozenset(b"xgLK"[at : at + 1] for at in range(4))
_PLAIN_KINDS = frozenset({FILE, DIRECTORY, SYMLINK})
_ODD_STARTS = frozenset({b"", b".", b"/"})


class Limits(Record):
    """What an archive may ask for at most: entries; bytes in a path or link target; bytes in one extended header."""

    entries: int = 2_000_000
    path: int = 4095
    extension: int = 1 << 20


DEFAULT_LIMITS = Limits()


class Entry:
    """One member: a path below the root without `.` or `..` (the root is b""), and what lies there.

    `kind` is FILE ... FIFO; `link` the target of a SYMLINK (as written) or HARDLINK (a path like `name`); `mtime` nanoseconds;
    `size` the bytes of content that follow, 0 for all but files; `device` major and minor; `xattrs` None where there are none.
    Of a sparse file `pieces` says which offsets and lengths follow, one after another; the rest of its `size` is holes.
    `address` is the place of the content, in bytes from the archive's beginning. `links` is for who counts an entry's names.
    """

    __slots__ = ("address", "device", "gid", "kind", "link", "links", "mode", "mtime", "name", "pieces", "size", "uid", "xattrs")

    def __init__(
        self,
        kind: bytes,
        name: bytes,
        mode: int,
        uid: int,
        gid: int,
        mtime: int,
        size: int = 0,
        link: bytes = b"",
        address: int = 0,
    ) -> None:
        self.kind = kind
        self.name = name
        self.mode = mode
        self.uid = uid
        self.gid = gid
        self.mtime = mtime
        self.size = size
        self.link = link
        self.address = address
        self.links = 1
        self.pieces: list[tuple[int, int]] | None = None
        self.device = (0, 0)
        self.xattrs: dict[bytes, bytes] | None = None


def shown(name: bytes) -> str:
    """A name as an error message may print it: no control characters, not endless."""
    text = name.decode("utf-8", "backslashreplace")
    text = "".join(letter if letter.isprintable() else f"\\x{ord(letter):02x}" for letter in text)
    return text if len(text) <= 200 else text[:200] + "..."


def clean_path(name: bytes, what: str = "name") -> bytes:
    """The path below the root that `name` means: `/`, `./` and `//` taken away. ArchiveError when it has `..` or NUL."""
    parts = [part for part in name.split(b"/") if part not in (b"", b".")]
    if b".." in parts:
        raise ArchiveError(f"an entry's {what} leads upwards: {shown(name)}")
    if b"\0" in name:
        raise ArchiveError(f"an entry's {what} has a NUL byte: {shown(name)}")
    return b"/".join(parts)


class TarReader:
    """The entries of an archive in order. Content is read with `content` or `read`; what is not read is skipped.

    Raises ArchiveError for anything that is damaged, cut short, or not to be believed. After the last entry the rest of the
    archive has been looked at, too: it is all zero.
    """

    __slots__ = (
        "_at", "_chunk", "_entries", "_feed", "_global", "_ids", "_left", "_limits", "_listed", "_padding", "_start", "_times",
        "entry",
    )  # fmt: skip

    def __init__(self, feed: Feed, limits: Limits = DEFAULT_LIMITS) -> None:
        self._feed = feed
        self._limits = limits
        self._chunk = memoryview(b"")
        self._at = 0
        self._left = 0  # of the current entry's content
        self._padding = 0  # behind it
        self._start = 0  # of the chunk, in the archive
        self._entries = 0
        self._ids: dict[bytes, tuple[int, int, int]] = {}
        self._times: dict[bytes, int] = {}
        self._global: dict[bytes, bytes] = {}
        self._listed: list[bytes] = []
        self.entry: Entry | None = None

    def __iter__(self) -> Iterator[Entry]:
        while (entry := self.next()) is not None:
            yield entry

    def next(self) -> Entry | None:
        """The next entry, or None at the end."""
        rest = self._left + self._padding
        if rest:
            if self._at + rest <= len(self._chunk):
                self._at += rest
                self._left = self._padding = 0
            else:
                self._skip()
        extensions: dict[bytes, bytes] | None = None
        while True:
            at = self._at
            if at >= len(self._chunk):
                self._fetch("a header")
                at = 0
            header = bytes(self._chunk[at : at + BLOCK])
            if len(header) < BLOCK:
                if not self._start and not at:
                    raise ArchiveError("this is no tar archive: it is shorter than a header", hint=NO_TAR)
                raise ArchiveError("the archive is cut short in a header")
            self._at = at + BLOCK
            try:
                checksum = header[148:156]
                expected = int(checksum[:6], 8) if checksum[6:] == b"\0 " and checksum[:6].isdigit() else checksum_of(checksum)
            except ValueError:  # an 8 or a 9
                expected = checksum_of(checksum)
            # adler32's low half is 1 + the sum of the bytes modulo 65521, at a seventh of the price of summing in Python.
            if ((adler32(header[156:], adler32(header[:148])) & 0xFFFF) + CHECKSUM_BLANKS - 1 - expected) % ADLER:
                if self._ends(header, at, extensions is not None):
                    self.entry = None
                    return None
                check_slowly(header, expected)
            kind = header[156:157]
            if kind not in _EXTENSIONS:
                break
            if extensions is None:
                extensions = {}
            self._extend(kind, number(header[124:136], "size"), extensions)
        self._entries += 1
        if self._entries > self._limits.entries:
            raise ArchiveError(f"the archive has more than {self._limits.entries} entries")
        entry = self._make_plain(kind, header) if extensions is None and not self._global else None
        if entry is None:
            entry = self._make(kind, header, extensions or {})
        self.entry = entry
        return entry

    def _make_plain(self, kind: bytes, header: bytes) -> Entry | None:
        """The entry of a header as most are, quickly; None for one that needs a closer look, also to say what is wrong."""
        ids = self._ids.get(header[100:124])
        seconds = self._times.get(header[136:148])
        if ids is None or seconds is None or kind not in _PLAIN_KINDS or header[345]:
            return None
        digits = header[124:135]
        if not digits.isdigit() or header[135] not in b"\0 ":
            return None
        try:
            size = int(digits, 8)
        except ValueError:
            return None
        end = header.find(0, 0, 100)
        path = header[2 if header[:2] == b"./" else 0 : end if end >= 0 else 100]
        link = b""
        if kind != FILE:
            if size:
                return None
            if kind == DIRECTORY:
                if path[-1:] == b"/":
                    path = path[:-1]
            else:
                end = header.find(0, 157, 257)
                link = header[157 : end if end >= 0 else 257]
                if not link:
                    return None
        if path[-1:] == b"/" or path[:1] in _ODD_STARTS or b"//" in path or b"/." in path:
            return None
        mode, uid, gid = ids
        if size:
            self._left = size
            self._padding = -size % BLOCK
        return Entry(kind, path, mode, uid, gid, seconds, size, link, self._start + self._at)

    def content(self, most: int = 1 << 62) -> memoryview:
        """The next piece of the entry's content, at most `most` bytes, valid until the next call; empty when all was read."""
        left = self._left
        if not left:
            return _EMPTY
        at = self._at
        if at >= len(self._chunk):
            self._fetch("a file")
            at = 0
        piece = self._chunk[at : at + min(left, most)]
        self._left = left - len(piece)
        self._at = at + len(piece)
        return piece

    def readinto(self, buffer: memoryview) -> int:
        """Fill some of `buffer` with content, and say how much; 0 when all was read."""
        piece = self.content(len(buffer))
        buffer[: len(piece)] = piece
        return len(piece)

    def read(self) -> bytes:
        """All that is left of the entry's content; the caller has looked at `size`."""
        pieces = bytearray()
        while piece := self.content():
            pieces += piece
        return bytes(pieces)

    def _fetch(self, wanted: str) -> None:
        chunk = self._feed()
        if not chunk:
            if not self._start and not self._chunk:
                raise ArchiveError("the archive is empty", hint="make it again, or fetch it again")
            raise ArchiveError(
                f"the archive is cut short: it ends where {wanted} should be", hint="make the archive again, or fetch it again"
            )
        self._start += len(self._chunk)
        self._chunk = chunk
        self._at = 0

    def _skip(self) -> None:
        rest = self._left + self._padding
        self._left = self._padding = 0
        while (here := len(self._chunk) - self._at) < rest:
            rest -= here
            self._fetch("a file")
        self._at += rest

    def _take(self, size: int) -> bytes:
        self._left, self._padding = size, -size % BLOCK
        data = self.read()
        self._skip()
        return data

    def _ends(self, header: bytes, at: int, extended: bool) -> bool:
        """Whether the end marker is here, and nothing behind it."""
        if any(header):
            return False
        if extended:
            raise ArchiveError("the archive ends between an extended header and its entry")
        rest: memoryview | None = self._chunk[at + BLOCK :]
        while rest is not None:
            if rest.nbytes != bytes(rest).count(0):
                raise ArchiveError("there is something behind the end of the archive", hint="is it several archives in one file?")
            rest = self._feed()
        self._chunk = memoryview(b"")
        self._at = 0
        return True

    def _extend(self, kind: bytes, size: int, extensions: dict[bytes, bytes]) -> None:
        """Read an extended header into `extensions` (keys of PAX; the global ones stay for all that follow)."""
        if size > self._limits.extension or size < 0:
            raise ArchiveError(f"an extended header of {size} bytes; the limit is {self._limits.extension}")
        data = self._take(size)
        if kind == b"x":
            if b"" in extensions:
                raise ArchiveError("two extended headers for one entry")
            extensions[b""] = b""
            self._listed.clear()
            read_records(data, extensions, self._listed)
        elif kind == b"g":
            read_records(data, self._global)
            for key in (b"path", b"linkpath", b"size"):
                if key in self._global:
                    raise ArchiveError(f"a global header gives every entry the same {key.decode()}")
        else:
            key = b"path" if kind == b"L" else b"linkpath"
            if key in extensions:
                raise ArchiveError(f"two {key.decode()}s for one entry")
            extensions[key] = data.partition(b"\0")[0]

    def _make(self, kind: bytes, header: bytes, extensions: dict[bytes, bytes]) -> Entry:
        name, numbers, size_field, time_field, link, magic, major, minor, prefix = _HEADER.unpack(header)
        name = name.partition(b"\0")[0]
        if magic[:6] == b"ustar\0" and prefix[0]:
            # star keeps two times and a mark of its own in the last part of the prefix.
            start = prefix[:131] if prefix[131:132] == b"\0" else prefix
            name = start.partition(b"\0")[0] + b"/" + name
        ids = self._ids.get(numbers)
        if ids is None:
            ids = self._ids[numbers] = ids_of(numbers)
            if len(self._ids) > 10_000:
                self._ids.clear()
        mode, uid, gid = ids
        size = number(size_field, "size")
        seconds = number(time_field, "modification time")
        mtime = seconds * _NANO
        if 0 <= seconds < LATEST:
            if len(self._times) > 10_000:
                self._times.clear()
            self._times[time_field] = mtime
        link = link.partition(b"\0")[0] if link[0] else b""
        xattrs = None
        sparse = kind == b"S"
        records: dict[bytes, bytes] = {}
        if extensions or self._global:
            records = {**self._global, **extensions} if self._global else extensions
            name = records.get(b"path", name)
            link = records.get(b"linkpath", link)
            if b"size" in records:
                size = decimal(records[b"size"], "size")
            if b"uid" in records:
                uid = owner_of(decimal(records[b"uid"], "owner"))
            if b"gid" in records:
                gid = owner_of(decimal(records[b"gid"], "group"))
            if b"mtime" in records:
                mtime = parse_time(records[b"mtime"])
            xattrs = read_xattrs(records)
            if any(key.startswith(b"GNU.sparse.") for key in records):
                name = records.get(b"GNU.sparse.name", name)
                sparse = True
        if not -TIME_LIMIT < mtime // _NANO < TIME_LIMIT:
            raise ArchiveError(f"a modification time that cannot be: {shown(name)}")
        if not EARLIEST * _NANO < mtime < LATEST * _NANO:
            mtime = nearest_time(mtime)
        if size < 0:
            raise ArchiveError(f"a negative size: {shown(name)}")
        if not name:
            raise ArchiveError("an entry without a name")
        kind = _kind(kind, name, size)
        # Nearly every name is clean, or is after its `./`; a dot file takes the slow way and comes out the same.
        path = name[2:] if name.startswith(b"./") else name
        if path.endswith(b"/"):
            path = path[:-1]
        if b"//" in path or b"/." in path or b"\0" in path or path[:1] in (b".", b"/", b""):
            path = clean_path(name)
        if len(path) > self._limits.path or len(link) > self._limits.path:
            raise ArchiveError(f"a path of more than {self._limits.path} bytes: {shown(path)}")
        entry = Entry(kind, path, mode, uid, gid, mtime, address=self._start + self._at)
        entry.xattrs = xattrs
        if kind == FILE:
            entry.size = self._left = size
            self._padding = -size % BLOCK
            if sparse:
                self._make_sparse(entry, header, records)
        elif kind == SYMLINK:
            if not link or b"\0" in link:
                raise ArchiveError(f"a symbolic link to nowhere: {shown(name)}")
            entry.link = link
        elif kind == HARDLINK:
            entry.link = clean_path(link, "link target")
            if not entry.link:
                raise ArchiveError(f"a hard link to the root: {shown(name)}")
        elif kind in (CHARACTER, BLOCK_DEVICE):
            entry.device = (number(major, "device number"), number(minor, "device number"))
            if not (0 <= entry.device[0] < 1 << 12 and 0 <= entry.device[1] < 1 << 20):
                raise ArchiveError(f"a device number that cannot be: {shown(name)}")
        return entry

    def _make_sparse(self, entry: Entry, header: bytes, records: dict[bytes, bytes]) -> None:
        from store import tar_sparse

        stored, padding = self._left, self._padding
        self._left = self._padding = 0  # while the map is read, which may stand before the content
        name = shown(entry.name)
        if header[156:157] == b"S":
            size, pieces = tar_sparse.old_gnu(header, self._block, number)
        else:
            given = tar_sparse.from_records(records, self._listed)
            if given is None:
                size = decimal(records.get(b"GNU.sparse.realsize", b""), "size")
                pieces, taken = tar_sparse.before_content(self._block)
                stored -= taken
            else:
                size, pieces = given
        entry.size = size
        entry.pieces = tar_sparse.check(size, pieces, stored, name)
        entry.address = self._start + self._at
        self._left, self._padding = stored, padding

    def _block(self) -> bytes:
        """The archive's next block."""
        if self._at >= len(self._chunk):
            self._fetch("a sparse file's map")
        block = bytes(self._chunk[self._at : self._at + BLOCK])
        if len(block) < BLOCK:
            raise ArchiveError("the archive is cut short in a sparse file's map")
        self._at += BLOCK
        return block


_EMPTY = memoryview(b"")


def _kind(kind: bytes, name: bytes, size: int) -> bytes:
    if kind in (b"\0", b"7", b"0"):
        if name.endswith(b"/"):  # before POSIX, this was how a directory was written; some readers still think so
            if kind != b"\0" or size:
                raise ArchiveError(f"a file whose name ends in a slash: {shown(name)}")
            return DIRECTORY
        return FILE
    if kind == b"S":
        return FILE
    if not b"1" <= kind <= b"6":
        raise ArchiveError(f"an entry of unknown type {kind!r}: {shown(name)}")
    if size:
        raise ArchiveError(f"an entry that has no content says it has {size} bytes: {shown(name)}")
    return kind
