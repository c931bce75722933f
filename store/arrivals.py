"""Layers that arrive before anybody says whose they are, as in an archive whose index comes last: all that can be done with
one is done in the pass in which it is read. It is digested, kept as it came, decompressed, digested again, kept as a tar, and its
index made, on both cores.

What turns out to be no layer, or a damaged one, is still kept as it came: whether that matters is for those who know.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from store.blobs import BlobDraft
from store.decompress import Source, open_stream
from store.digest import Digest
from store.erofs_tree import Undecided
from store.errors import ArchiveError
from store.faults import Attempt
from store.flow import CHUNK, Flow, Spool
from store.images import Layer
from store.tar_read import TarReader

if TYPE_CHECKING:
    from collections.abc import Sequence

    from store.drafts import DirectoryDraft
    from store.layout import Store
    from store.snapshots import Anticipation

_MAGICS = (b"\x1f\x8b", b"\x28\xb5\x2f\xfd")
_USTAR_AT = 257
HEAD = 512


class Arrival:
    """A layer that came whole: its tar's digest and size, and the tar's place in the draft, empty when the blob is the tar."""

    __slots__ = ("anticipation", "diff_id", "path", "size")

    def __init__(self, diff_id: Digest, size: int, path: str, anticipation: Anticipation | None) -> None:
        self.diff_id = diff_id
        self.size = size
        self.path = path
        self.anticipation = anticipation

    def settle(self, parents: Sequence[Layer], layer: Layer) -> None:
        """Make its snapshot, now that its tar is in the store; what was not made here is made when it is first needed."""
        if self.anticipation is not None:
            self.anticipation.settle(parents, layer, self.size)

    def close(self) -> None:
        """Drop what was not settled."""
        if self.anticipation is not None:
            self.anticipation.close()


def may_be_layer(head: bytes) -> bool:
    """Whether what begins with these bytes is worth the attempt."""
    return head.startswith(_MAGICS) or head[_USTAR_AT : _USTAR_AT + 5] == b"ustar"


def receive(
    store: Store, source: Source, head: bytes, draft: BlobDraft, directory: DirectoryDraft
) -> tuple[Digest, int, Arrival | None]:
    """Keep the blob that `source` gives, and which begins with `head`, in `draft`, sealed: its digest and size, and what it is as
    a layer, None when it is none. Raises StoreError for what the disk does."""
    with Attempt("keep a blob"):
        if not head.startswith(_MAGICS):
            diff_id, size, anticipation = _follow(store, source, draft.fileno())
            return diff_id, size, Arrival(diff_id, size, "", anticipation)
        with Spool(draft.fileno()) as spool, store.tars.draft() as tar:
            tee = _Tee(source, spool)
            try:
                diff_id, size, anticipation = _follow(store, tee, tar.fileno())
            except ArchiveError:  # of the compression: bytes like others, until somebody says that they are a layer
                tee.drain()
                return Digest("sha256:" + spool.finish()), spool.size, None
            tee.drain()
            digest = Digest("sha256:" + spool.finish())
            path = f"{directory.path}/tar-{diff_id.hex}"
            tar.set_aside(path)
            return digest, spool.size, Arrival(diff_id, size, path, anticipation)


def _follow(store: Store, source: Source, keep: int) -> tuple[Digest, int, Anticipation | None]:
    """Decompress what `source` gives, if it is compressed, and keep it as a tar: its digest and size, and what was made of it."""
    anticipation = store.snapshots.anticipate()
    try:
        with Flow(open_stream(source).readinto, keep=keep) as flow:
            if anticipation is not None:
                try:
                    anticipation.take(TarReader(flow.feed))
                except (Undecided, ArchiveError):
                    anticipation.close()
                    anticipation = None
            return Digest("sha256:" + flow.finish()), flow.size, anticipation
    except BaseException:
        if anticipation is not None:
            anticipation.close()
        raise


class _Tee:
    """The source, of which everything that is read is kept, too."""

    __slots__ = ("_source", "_spool")

    def __init__(self, source: Source, spool: Spool) -> None:
        self._source = source
        self._spool = spool

    def readinto(self, buffer: memoryview, /) -> int:
        got = self._source.readinto(buffer) or 0
        if got:
            self._spool.write(buffer[:got])
        return got

    def drain(self) -> None:
        """Read what a decoder has left."""
        buffer = memoryview(bytearray(CHUNK))
        while self.readinto(buffer):
            pass
