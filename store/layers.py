"""Taking in layers: one pass over a tar, plain or compressed, gives a durable blob and a snapshot that can be used."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from store.decompress import DEFAULT_BOUNDS, Bounds, Source, open_stream
from store.digest import OCI_LAYER, Descriptor, Digest, chain_id
from store.errors import BlobCorrupt
from store.faults import Attempt
from store.flow import Flow
from store.images import Layer
from store.tar_read import DEFAULT_LIMITS, Limits, TarReader

if TYPE_CHECKING:
    from store.layout import Store
    from store.snapshots import Making


def import_layer(
    store: Store,
    source: Source,
    *,
    parents: Sequence[Layer] = (),
    expected: Digest | None = None,
    limits: Limits = DEFAULT_LIMITS,
    bounds: Bounds = DEFAULT_BOUNDS,
) -> Layer:
    """Take in the layer that `source` holds, on top of `parents` (the lowest first).

    On return its uncompressed tar is a blob that survives a crash, and its snapshot is there. On error the store is as it was.
    Raises ArchiveError for what the archive does wrong, BlobCorrupt when its diff_id is not the one `expected`.
    """
    with store.snapshots.begin(parents) as making, store.blobs.draft() as draft:
        diff_id, size = _pass(source, making, limits, bounds, keep=draft.fileno())
        if expected is not None and diff_id != expected:
            raise BlobCorrupt(expected, diff_id, where="the uncompressed layer")
        descriptor = Descriptor(OCI_LAYER, diff_id, size)
        layer = Layer(descriptor, diff_id, chain_id(parents[-1].chain_id if parents else None, diff_id))
        draft.publish(descriptor)
        store.blobs.sync()
        making.publish(layer, size)
    return layer


def read_layer(source: Source, making: Making, layer: Layer, *, keep: int | None = None) -> int:
    """Give the tar of `layer`, which `source` holds, to `making`; its size. It is kept as `import_layer` does where `keep` is the
    descriptor of an empty file. BlobCorrupt when its diff_id is wrong."""
    diff_id, size = _pass(source, making, DEFAULT_LIMITS, DEFAULT_BOUNDS, keep=keep)
    if diff_id != layer.diff_id:
        raise BlobCorrupt(layer.diff_id, diff_id, where="the uncompressed layer")
    return size


def _pass(source: Source, making: Making, limits: Limits, bounds: Bounds, *, keep: int | None) -> tuple[Digest, int]:
    stream = open_stream(source, bounds)
    with Attempt("read the layer"), Flow(stream.readinto, keep=keep) as flow:
        making.take(TarReader(flow.feed, limits))
        return Digest("sha256:" + flow.finish()), flow.size
