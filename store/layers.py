"""Importing a layer: from a tar, plain or compressed, to a durable blob and a usable tree in one pass over it."""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from store.decompress import DEFAULT_BOUNDS, Bounds, Source
from store.digest import OCI_LAYER, Descriptor, Digest, chain_id
from store.faults import Attempt
from store.images import Layer
from store.tar_read import DEFAULT_LIMITS, Limits
from store.unpack import unpack

if TYPE_CHECKING:
    from store.layout import Store


def import_layer(
    store: "Store",
    source: Source,
    *,
    parents: Sequence[Layer] = (),
    expected: Digest | None = None,
    limits: Limits = DEFAULT_LIMITS,
    bounds: Bounds = DEFAULT_BOUNDS,
) -> Layer:
    """Take in the layer that `source` holds, on top of `parents` (the lowest first).

    On return its uncompressed tar is a blob that survives a crash, and its tree is there. On error the store is as it was.
    Raises ArchiveError for what the archive does wrong, BlobCorrupt when its diff_id is not the one `expected`.
    """
    trees = store.snapshots.trees(parents) if parents else ()
    with store.drafts.directory("import") as directory, store.blobs.draft() as draft:
        path = f"{directory.path}/tree"
        with Attempt("create a tree"):
            os.mkdir(path, 0o700)
            tree = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            unpacked = unpack(source, tree, lowers=trees, keep=draft.fileno(), expected=expected, limits=limits, bounds=bounds)
        finally:
            os.close(tree)
        descriptor = Descriptor(OCI_LAYER, unpacked.diff_id, unpacked.size)
        draft.publish(descriptor)
        store.blobs.sync()
        layer = Layer(descriptor, unpacked.diff_id, chain_id(parents[-1].chain_id if parents else None, unpacked.diff_id))
        store.snapshots.adopt(layer.chain_id, path)
    return layer
