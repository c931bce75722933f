"""The members of a layer's tar, in order, verified: what blame and diff read in place of a tree."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from store.decompress import open_stream
from store.digest import Digest
from store.errors import BlobCorrupt
from store.faults import Attempt
from store.flow import Flow
from store.images import Layer
from store.tar_read import Entry, TarReader

if TYPE_CHECKING:
    from store.layout import Store


def members(store: Store, layer: Layer) -> Iterator[tuple[Entry, TarReader]]:
    """Each member of `layer`, and the reader that has its content until the next one is asked for.

    ArchiveError for a tar that cannot be believed; BlobCorrupt, after the last member, for bytes that are not the layer's.
    """
    with Attempt(f"read layer {layer.diff_id}"), store.open_layer(layer) as source:
        stream = open_stream(source)
        with Flow(stream.readinto) as flow:
            reader = TarReader(flow.feed)
            while (entry := reader.next()) is not None:
                yield entry, reader
            actual = Digest("sha256:" + flow.finish())
    if actual != layer.diff_id:
        raise BlobCorrupt(layer.diff_id, actual, where="the uncompressed layer")
