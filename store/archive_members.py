"""The members of an image archive, kept aside until all of it was understood: digested on the way, never under their own names.

Memory stays bounded however large the archive is: small members are kept in it, up to a total; the others go to files of a draft.
A name in the archive is a key of a dictionary and nothing more; a symbolic link leads from one key to another (old `docker save`
lets equal layers share a file so), and only where that is expected.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from store.archive_known import known
from store.arrivals import HEAD, Arrival, may_be_layer, receive
from store.blobs import CHUNK, BlobReader, Readable
from store.digest import Descriptor, Digest, digest_of_name
from store.documents import DOCUMENT_LIMIT
from store.drafts import DirectoryDraft
from store.errors import ArchiveError, BlobCorrupt, StoreError
from store.faults import Attempt
from store.flow import Spool
from store.layout import Store
from store.tar_read import DIRECTORY, FILE, SYMLINK, Limits, TarReader, shown

ENTRY_LIMIT = 100_000
SMALL = 64 << 10
SMALL_TOTAL = 16 << 20
_LINK_LIMIT = 8
_DOCUMENTS = frozenset({"index.json", "manifest.json", "oci-layout", "repositories"})
_BLOBS = "blobs/sha256/"
_ROOT_FILE_SYSTEM = frozenset({b"bin", b"dev", b"etc", b"lib", b"sbin", b"usr", b"var"})


class Member(NamedTuple):
    """A regular file of the archive; `magic` is its first bytes."""

    digest: Digest
    size: int
    magic: bytes


class Members:
    """What an archive holds, by name and by digest."""

    def __init__(self, store: Store, draft: DirectoryDraft) -> None:
        self._store = store
        self._draft = draft
        self._files: dict[str, Member] = {}
        self._links: dict[str, str] = {}
        self._small: dict[Digest, bytes] = {}
        self._small_total = 0
        self._large: dict[Digest, str] = {}
        self.arrivals: dict[Digest, Arrival] = {}

    def read_tar(self, stream: Readable) -> None:
        """Take in a whole tar, or ArchiveError."""
        reader = TarReader(feed(stream), Limits(entries=ENTRY_LIMIT))
        for entry in reader:
            if entry.name.partition(b"/")[0] in _ROOT_FILE_SYSTEM:
                raise ArchiveError("this is a root file system, no image", hint="`box import` takes it")
            name = self._claim(entry.name)
            if entry.kind == FILE:
                self._keep(name, entry.size, reader.content)
            elif entry.kind == SYMLINK:
                if name in _DOCUMENTS or name.startswith("blobs/"):
                    raise ArchiveError(f"{shown(entry.name)} of the archive is a symbolic link")
                self._links[name] = os.fsdecode(entry.link)
            elif entry.kind != DIRECTORY:
                raise ArchiveError(f"{shown(entry.name)} of the archive is neither a file nor a directory")

    def read_directory(self, path: str) -> None:
        """Take in an OCI layout directory, following no link."""
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        if not os.path.isfile(f"{path}/index.json") or not os.path.isdir(f"{path}/{_BLOBS}"):
            raise ArchiveError(
                f"{path} is no OCI layout: it has not both index.json and {_BLOBS}",
                hint="name a directory that `skopeo copy` or umoci wrote, or the file of `box save`",
            )
        for folder in ("", "blobs/", _BLOBS):
            with Attempt(f"read {path}/{folder}"), os.scandir(f"{path}/{folder}") as entries:
                names = sorted(entry.name for entry in entries if not entry.is_dir(follow_symlinks=False))
                for name in names:
                    if not folder and name not in _DOCUMENTS:
                        continue
                    descriptor = os.open(f"{path}/{folder}{name}", flags)
                    with open(descriptor, "rb", buffering=0) as file:
                        self._keep(f"{folder}{name}", os.fstat(descriptor).st_size, _pieces(file.readinto))

    def _claim(self, raw: bytes) -> str:
        name = os.fsdecode(raw)
        if name in self._files or name in self._links:
            raise ArchiveError(f"the archive has two members {shown(raw)}")
        return name

    def _keep(self, name: str, size: int, content: Callable[[], memoryview]) -> None:
        if name in _DOCUMENTS and size > DOCUMENT_LIMIT:
            raise ArchiveError(f"{name} of the archive is too large: {size} bytes")
        expected = _expected(name)
        if size <= SMALL and self._small_total + size <= SMALL_TOTAL:
            data = b"".join(bytes(piece) for piece in iter(content, b""))
            member = Member(Digest.of(data), len(data), data[:6])
            self._small[member.digest] = data
            self._small_total += len(data)
        else:
            member = self._take(name, size, content, expected)
        if expected is not None and expected != member.digest:
            raise BlobCorrupt(expected, member.digest, where=f"{name} of the archive")
        self._files[name] = member

    def _take(self, name: str, size: int, content: Callable[[], memoryview], expected: Digest | None) -> Member:
        pieces = _Pieces(content)
        announced = expected or _announced(name)
        if announced is None:
            return self._spool(pieces)
        head = pieces.head
        with known(self._store.blobs, announced, size, pieces) as again:
            return Member(announced, size, head[:6]) if again is None else self._spool(_Pieces(again))

    def _spool(self, pieces: "_Pieces") -> Member:
        with self._store.blobs.draft() as draft:
            if may_be_layer(pieces.head):
                digest, size, arrival = receive(self._store, pieces, pieces.head, draft, self._draft)
                if arrival is not None:
                    earlier = self.arrivals.setdefault(digest, arrival)
                    if earlier is not arrival:
                        arrival.close()
            else:
                with Attempt("keep a blob"), Spool(draft.fileno()) as spool:
                    for piece in pieces:
                        spool.write(piece)
                    digest, size = Digest("sha256:" + spool.finish()), spool.size
            path = f"{self._draft.path}/{digest.hex}"
            draft.set_aside(path)
        self._large[digest] = path
        return Member(digest, size, pieces.head[:6])

    def close(self) -> None:
        """Drop what was made of layers that no image has."""
        for arrival in self.arrivals.values():
            arrival.close()

    def document(self, name: str) -> bytes | None:
        """The bytes of the file `name`, None when there is none."""
        member = self._files.get(name)
        return None if member is None else self.read(member.digest, member.size)

    def find(self, name: str) -> Member:
        """The file that `name` leads to, by way of symbolic links inside the archive where it must be."""
        at = name
        for _ in range(_LINK_LIMIT):
            at = _normal(at, name)
            if at in self._files:
                return self._files[at]
            if at not in self._links:
                break
            target = self._links[at]
            if target.startswith("/"):
                break
            at = f"{os.path.dirname(at)}/{target}"
        raise ArchiveError(f"the archive has no file {shown(os.fsencode(name))}")

    def has(self, digest: Digest) -> bool:
        """Whether some file of the archive has this digest."""
        return digest in self._small or digest in self._large

    def read(self, digest: Digest, size: int) -> bytes:
        """A small blob of the archive, or else of the store."""
        data = self._small.get(digest)
        if data is None:
            if size > DOCUMENT_LIMIT:
                raise ArchiveError(f"a document of the archive is too large: {size} bytes")
            with self.open(digest, size) as reader:
                return reader.read()
        if len(data) != size:
            raise ArchiveError(f"blob {digest} of the archive is {len(data)} bytes long, not {size} as was announced")
        return data

    def open(self, digest: Digest, size: int) -> BlobReader:
        """A blob of the archive that is not small, or one that the store has already."""
        path = self._large.get(digest)
        if path is not None:
            return BlobReader(path, digest, size)
        self._store.blobs.use(digest)
        if not self._store.blobs.has(digest):
            raise ArchiveError(f"the archive names blob {digest} and does not have it")
        return self._store.blobs.open_digest(digest, size)

    def check(self, blob: Descriptor) -> None:
        """ArchiveError or BlobCorrupt unless the blob is there, of the size that was announced."""
        if blob.digest in self._small:
            self.read(blob.digest, blob.size)
        else:
            self.open(blob.digest, blob.size).close()

    @contextmanager
    def stream(self, digest: Digest, size: int) -> Iterator[Readable]:
        """A blob of any size, wherever it is."""
        if digest in self._small:
            yield _Bytes(self.read(digest, size))
        else:
            with self.open(digest, size) as reader:
                yield reader

    def publish(self, blob: Descriptor) -> None:
        """Make it a blob of the store. It survives a crash after the next sync of the blobs, or (a small one) at once.

        BlobMissing or BlobCorrupt when the archive does not have it, nor the store, as it was announced.
        """
        path = self._large.pop(blob.digest, None)
        if path is not None:
            self._store.blobs.take(path, blob.digest)
        elif blob.digest in self._small:
            self._store.blobs.put_bytes(self._small[blob.digest], blob.media_type)
        else:
            self._store.blobs.use(blob.digest)  # and only now is what one sees there sure to stay (store/leases.py)
            self._store.blobs.open(blob).close()


class _Pieces:
    """What `content` gives piece by piece, as a source; `head` is its beginning."""

    def __init__(self, content: Callable[[], memoryview]) -> None:
        self._content = content
        self._piece = content()
        self.head = bytes(self._piece[:HEAD])

    def __iter__(self) -> Iterator[memoryview]:
        while self._piece:
            yield self._piece
            self._piece = self._content()

    def readinto(self, buffer: memoryview, /) -> int:
        if not self._piece:
            self._piece = self._content()
        count = min(len(buffer), len(self._piece))
        buffer[:count] = self._piece[:count]
        self._piece = self._piece[count:]
        return count


class _Bytes:
    """A stream of bytes in memory."""

    def __init__(self, data: bytes) -> None:
        self._left = memoryview(data)

    def readinto(self, buffer: memoryview, /) -> int:
        count = min(len(buffer), len(self._left))
        buffer[:count] = self._left[:count]
        self._left = self._left[count:]
        return count


def feed(stream: Readable) -> Callable[[], memoryview | None]:
    """The stream piece by piece, through one buffer that is used again and again; None at its end."""
    buffer = memoryview(bytearray(CHUNK))

    def next_piece() -> memoryview | None:
        count = stream.readinto(buffer)
        return buffer[:count] if count else None

    return next_piece


def _pieces(readinto: Callable[[memoryview], int | None]) -> Callable[[], memoryview]:
    buffer = memoryview(bytearray(CHUNK))
    return lambda: buffer[: readinto(buffer) or 0]


def _expected(name: str) -> Digest | None:
    if not name.startswith(_BLOBS):
        return None
    try:
        return Digest.parse("sha256:" + name.removeprefix(_BLOBS))
    except StoreError as err:
        raise ArchiveError(f"{shown(os.fsencode(name))} of the archive is not named by a digest") from err


def _announced(name: str) -> Digest | None:
    """The digest that the name seems to give, as podman names the layers of a `docker-archive`: a guess."""
    return digest_of_name(os.path.basename(name).removesuffix(".tar"))


def _normal(path: str, name: str) -> str:
    parts: list[str] = []
    for part in path.split("/"):
        if part == "..":
            if not parts:
                raise ArchiveError(f"{shown(os.fsencode(name))} of the archive leads out of it")
            parts.pop()
        elif part not in ("", "."):
            parts.append(part)
    return "/".join(parts)
