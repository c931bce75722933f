"""Where blobs came from, so that a damaged one can be taken from there again.

    ROOT/sources    a line each, in no order: DIGEST, KIND, the file's path as JSON; the last one of a digest counts

KIND is `archive` (an image archive, or a directory with an OCI layout) or `tar` (a root file system, compressed or not). A line
promises nothing: the file may have changed, so whoever reads it verifies the digest.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from typing import TYPE_CHECKING

from store.archive_members import feed
from store.blobs import Readable
from store.decompress import open_stream
from store.digest import Digest
from store.drafts import write_all
from store.errors import BlobMissing, StoreError
from store.faults import Attempt
from store.locks import Lock
from store.tar_read import FILE, TarReader

if TYPE_CHECKING:
    from store.layout import Store

ARCHIVE, TAR = "archive", "tar"


def remember(store: Store, kind: str, path: str, digests: Iterable[Digest]) -> None:
    """Note that these blobs came from the file `path` (empty: from nowhere that lasts). On return that survives a crash."""
    known = _read(store)
    where = (kind, os.path.abspath(path))
    new = [digest for digest in digests if known.get(digest) != where] if path else []
    if not new:
        return
    lines = "".join(f"{digest} {kind} {json.dumps(where[1])}\n" for digest in new)
    with Attempt("note where blobs come from"), Lock(store.root):
        descriptor = os.open(
            f"{store.root}/sources", os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
        )
        try:
            write_all(descriptor, b"\n" + lines.encode())  # the newline ends what a full disk may have cut off
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def tidy(store: Store) -> None:
    """Forget where blobs came from that are no more."""
    with Attempt("note where blobs come from"), Lock(store.root):
        known = _read(store)
        left = {digest: where for digest, where in known.items() if store.blobs.has(digest)}
        if left != known:
            lines = "".join(f"{digest} {kind} {json.dumps(path)}\n" for digest, (kind, path) in sorted(left.items()))
            store.drafts.replace(f"{store.root}/sources", lines.encode(), durable=True)


def place_of(store: Store, digest: Digest) -> str:
    """The file from which the blob came, as long as there is one; else empty."""
    _, path = _read(store).get(digest, ("", ""))
    return path if path and os.path.exists(path) else ""


@contextmanager
def opened(store: Store, digest: Digest) -> Iterator[Readable]:
    """What should be the blob's bytes, from where it came. BlobMissing where it is not known, or not there any more; ArchiveError
    or OSError when the file turns out to be damaged."""
    kind, path = _read(store).get(digest, ("", ""))
    within = f"{path}/blobs/sha256/{digest.hex}"
    if not path:
        raise BlobMissing(digest)
    if os.path.isdir(path):
        with open(within, "rb") as file:
            yield file
    elif kind == TAR:
        with open(path, "rb", buffering=0) as file:
            yield open_stream(file)
    else:
        number = _member(path, digest)
        with open(path, "rb", buffering=0) as file:
            reader = TarReader(feed(open_stream(file)))
            for at, _ in enumerate(reader):
                if at == number:
                    yield reader
                    return
            raise BlobMissing(digest)


def _member(path: str, digest: Digest) -> int:
    """Which member of the archive has the digest, -1 for none; where names are no digests, all are read for that."""
    announced = os.fsencode(f"blobs/sha256/{digest.hex}")
    found = -1
    with open(path, "rb", buffering=0) as file:
        reader = TarReader(feed(open_stream(file)))
        for at, entry in enumerate(reader):
            if entry.kind != FILE:
                continue
            if entry.name == announced:
                return at
            if found < 0 and not entry.name.startswith(b"blobs/"):
                hasher = sha256()
                while piece := reader.content():
                    hasher.update(piece)
                if hasher.hexdigest() == digest.hex:
                    found = at
    return found


def _read(store: Store) -> dict[Digest, tuple[str, str]]:
    known: dict[Digest, tuple[str, str]] = {}
    try:
        with open(f"{store.root}/sources", "rb") as file:
            lines = file.read().split(b"\n")
    except FileNotFoundError:
        return known
    for line in lines:
        try:
            digest, kind, path = line.decode().split(" ", 2)
            where = json.loads(path)
            if kind in (ARCHIVE, TAR) and isinstance(where, str):
                known[Digest.parse(digest)] = (kind, where)
        except (ValueError, StoreError):
            continue  # cut off, or damaged
    return known
