"""Bytes by digest. A blob that can be seen is whole: written without a name, hashed meanwhile, synced, and only then linked."""

import hashlib
import os
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Protocol, Self

from store.digest import Descriptor, Digest, digest_of_name
from store.documents import DOCUMENT_LIMIT
from store.drafts import Drafts, sync_directory, write_all
from store.errors import BlobCorrupt, BlobMissing, StoreError
from store.faults import Attempt
from store.syscalls import libc

CHUNK = 1 << 20
_WRITEBACK = 8 << 20
_SYNC_FILE_RANGE_WRITE = 2
_LOST = "load or build the image again"


class Readable(Protocol):
    """A stream of bytes: fills the buffer, only at the end less than all of it, and says how far; 0 when nothing is left."""

    def readinto(self, buffer: memoryview, /) -> int: ...


class BlobDraft:
    """A blob being written; `size` and what is hashed follow the writes. Closed without a commit, it leaves nothing."""

    __slots__ = ("_blobs", "_file", "_hasher", "_started", "size")

    def __init__(self, blobs: "Blobs") -> None:
        self._blobs = blobs
        self._file = blobs.drafts.file(mode=0o444)
        self._hasher = hashlib.sha256()
        self._started = 0
        self.size = 0

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append `data` (its length counted in bytes). Large writes give up the interpreter's lock."""
        with Attempt("write a blob"):
            write_all(self._file.descriptor, data)
        self._hasher.update(data)
        self.size += len(data)
        if self.size - self._started >= _WRITEBACK:
            self._start_writeback()

    def _start_writeback(self) -> None:
        # The disk works while the rest arrives, so that the fsync at the end finds little to do. Without WAIT flags the call
        # reports no error of the write-back, and takes none away from the fsync.
        with Attempt("write a blob"):
            libc(
                "sync_file_range", self._file.descriptor, self._started, self.size - self._started, _SYNC_FILE_RANGE_WRITE
            )  # fmt: skip
        self._started = self.size

    def digest(self) -> Digest:
        """The digest of what was written so far."""
        return Digest("sha256:" + self._hasher.hexdigest())

    def fileno(self) -> int:
        """The descriptor, for reading back with pread what was written."""
        return self._file.descriptor

    def commit(self, media_type: str, expected: Digest | None = None) -> Descriptor:
        """Publish the blob and describe it. On return it survives a crash.

        BlobCorrupt when the bytes are not those `expected`. When fsync fails, once is enough: the bytes are dropped, since a
        second fsync would say that all is well (the kernel marks pages clean that it failed to write).
        """
        descriptor = self.seal(media_type, expected)
        self.publish(descriptor)
        self._blobs.sync()
        return descriptor

    def seal(self, media_type: str, expected: Digest | None = None) -> Descriptor:
        """The first half of `commit`: the bytes survive a crash, but the blob cannot be seen yet."""
        digest = self.digest()
        if expected is not None and expected != digest:
            raise BlobCorrupt(expected, digest, where="as it arrived")
        with Attempt(f"sync blob {digest}"):
            os.fsync(self._file.descriptor)
        return Descriptor(media_type, digest, self.size)

    def publish(self, descriptor: Descriptor) -> None:
        """The second half of `commit`: the sealed blob can be seen. It survives a crash after the next `Blobs.sync`."""
        self._blobs.use(descriptor.digest)
        with Attempt(f"publish blob {descriptor.digest}"):
            # A blob of this name may lie there, damaged since: these bytes were hashed a moment ago, so they are what stays.
            self._file.publish(self._blobs.path(descriptor.digest))

    def set_aside(self, path: str) -> None:
        """Give the sealed blob a name in a draft's directory, for `Blobs.take`; its descriptor can be closed meanwhile."""
        with Attempt("set a blob aside"):
            self._file.publish(path)

    def close(self) -> None:
        """Drop what was not committed."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


class BlobReader:
    """A blob's bytes in order. Reading the end without BlobCorrupt means that all of them were right."""

    __slots__ = ("_digest", "_file", "_hasher", "_left", "size")

    def __init__(self, path: str, digest: Digest, size: int | None) -> None:
        self._digest = digest
        try:
            self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError as err:
            raise BlobMissing(digest, hint=_LOST) from err
        actual = os.fstat(self._file).st_size
        if size is not None and actual != size:
            os.close(self._file)
            raise BlobCorrupt(digest, f"{actual} bytes long instead of {size}", where=path, hint=_LOST)
        self.size = actual
        self._left = actual
        self._hasher = hashlib.sha256()

    def fileno(self) -> int:
        """The descriptor of the blob's file."""
        return self._file

    def read(self, size: int = -1, /) -> bytes:
        """At most `size` bytes, all that are left when it is negative; none at the end, which has been verified then."""
        wanted = self._left if size < 0 else min(size, self._left)
        pieces = []
        while wanted:
            with Attempt(f"read blob {self._digest}"):
                piece = os.read(self._file, wanted)
            if not piece:
                break
            pieces.append(piece)
            wanted -= len(piece)
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        self._account(data, ended=bool(wanted))
        return data

    def readinto(self, buffer: memoryview, /) -> int:
        """Fill `buffer` as far as there are bytes, and say how far; 0 at the end, which has been verified then."""
        view = buffer[: self._left]
        filled = 0
        while filled < len(view):
            with Attempt(f"read blob {self._digest}"):
                count = os.readv(self._file, [view[filled:]])
            if not count:
                break
            filled += count
        self._account(view[:filled], ended=filled < len(view))
        return filled

    def _account(self, data: bytes | memoryview, *, ended: bool) -> None:
        self._hasher.update(data)
        self._left -= len(data)
        if self._left and not ended:
            return
        # All was read, or the file ended before its size: either way the digest tells.
        actual = "sha256:" + self._hasher.hexdigest()
        if actual != self._digest:
            raise BlobCorrupt(self._digest, actual, hint=_LOST)

    def close(self) -> None:
        """Close the file; what was not read was not verified."""
        file, self._file = self._file, -1
        if file >= 0:
            os.close(file)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


class Blobs:
    """A directory of files named by the sha256 of their bytes.

    `use` is told of each blob before it is published, or looked at by someone who will refer to it (store/leases.py).
    """

    __slots__ = ("directory", "drafts", "use")

    def __init__(self, directory: str, drafts: Drafts, use: Callable[[str], None]) -> None:
        self.directory = directory
        self.drafts = drafts
        self.use = use

    def path(self, digest: Digest) -> str:
        """Where the blob lies, or would lie."""
        return f"{self.directory}/{digest.hex}"

    def has(self, digest: Digest) -> bool:
        """Whether there is such a blob; nothing is said about its bytes."""
        return os.path.lexists(self.path(digest))

    def draft(self) -> BlobDraft:
        """A new blob to be written: `with blobs.draft() as draft: draft.write(...); draft.commit(...)`."""
        return BlobDraft(self)

    def take(self, path: str, digest: Digest) -> None:
        """Publish a blob that was sealed and set aside at `path`. It survives a crash after the next `sync`."""
        self.use(digest)
        with Attempt(f"publish blob {digest}"):
            os.rename(path, self.path(digest))

    def put_bytes(self, data: bytes, media_type: str) -> Descriptor:
        """Keep `data`. On return it survives a crash; on error the store is as it was."""
        descriptor = Descriptor(media_type, Digest.of(data), len(data))
        self.use(descriptor.digest)
        try:
            present = self.read(descriptor, limit=len(data)) == data
        except StoreError:
            present = False  # missing or damaged: written anew
        if present:
            self.sync()  # its maker may not have come to it
            return descriptor
        with self.draft() as draft:
            draft.write(data)
            return draft.commit(media_type, descriptor.digest)

    def read(self, descriptor: Descriptor, *, limit: int = DOCUMENT_LIMIT) -> bytes:
        """All bytes of a small blob, verified. StoreError when it is larger than `limit`."""
        if descriptor.size > limit:
            raise StoreError(f"blob {descriptor.digest} is too large: {descriptor.size} bytes, the limit is {limit}")
        with self.open(descriptor) as reader:
            return reader.read()

    def open(self, descriptor: Descriptor) -> BlobReader:
        """Read a blob of any size; see BlobReader."""
        return self.open_digest(descriptor.digest, descriptor.size)

    def open_digest(self, digest: Digest, size: int | None = None) -> BlobReader:
        """Read the blob of this digest, where its size is not known beforehand."""
        with Attempt(f"open blob {digest}"):
            return BlobReader(self.path(digest), digest, size)

    def all(self) -> Iterator[tuple[Digest, int]]:
        """Every blob there is, with its size on disk."""
        with os.scandir(self.directory) as entries:
            for entry in entries:
                if (digest := digest_of_name(entry.name)) is not None:
                    try:
                        size = entry.stat(follow_symlinks=False).st_size
                    except FileNotFoundError:
                        continue  # deleted while the list was read
                    yield digest, size

    def size(self, digest: Digest) -> int | None:
        """Its size on disk; None when there is no such blob."""
        try:
            return os.lstat(self.path(digest)).st_size
        except FileNotFoundError:
            return None

    def sync(self) -> None:
        """On return every blob that could be seen before survives a crash."""
        with Attempt("sync the blobs"):
            sync_directory(self.directory)
