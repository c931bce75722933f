"""From a finished upper directory to a layer of the store, and from a remembered result back to it."""

import os
from collections.abc import Callable, Sequence

from builder.cache import Result
from store.digest import OCI_LAYER, Descriptor, Digest, chain_id
from store.faults import Attempt
from store.images import Layer
from store.layout import Store

Chain = Sequence[Layer]
Write = Callable[[memoryview], object]


def top(chain: Chain) -> str:
    """The chain id of a stack; empty for the empty one."""
    return str(chain[-1].chain_id) if chain else ""


def layer_of(result: Result, chain: Chain) -> Layer:
    """The layer of a result that has one, on top of `chain`."""
    diff_id = Digest.parse(result.diff_id)
    descriptor = Descriptor(result.media_type, Digest.parse(result.digest), result.size)
    return Layer(descriptor, diff_id, chain_id(chain[-1].chain_id if chain else None, diff_id))


def result_of(layer: Layer) -> Result:
    """What the cache remembers of a layer."""
    return Result(str(layer.descriptor.digest), layer.descriptor.size, str(layer.diff_id), layer.descriptor.media_type)


def keep(store: Store, upper: str, chain: Chain, write: Callable[[int, Write], object]) -> Result:
    """Make a layer on top of `chain`, and keep the directory `upper` as its tree.

    `write` is given a descriptor of `upper` and where the layer's tar goes; after it the two are the same. On return the layer
    survives a crash.
    """
    from builder.behind import Behind

    descriptor = os.open(upper, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with store.blobs.draft() as draft:
            with Behind(draft.write) as behind:
                write(descriptor, behind.write)
            blob = draft.commit(OCI_LAYER)
    finally:
        os.close(descriptor)
    result = Result(str(blob.digest), blob.size, str(blob.digest), OCI_LAYER)
    store.snapshots.adopt(str(layer_of(result, chain).chain_id), upper)
    return result


def keep_upper(store: Store, upper: str, chain: Chain, epoch: int) -> Result:
    """Make a layer of what a command changed in `upper`; files newer than `epoch` are set to it. No changes make no layer."""
    from store.pack import pack_changeset
    from store.private import is_whole, reduce

    gone: list[bytes] = []
    if is_whole(upper):
        view = store.snapshots.view(chain)
        try:
            with Attempt("compare what the command left"):
                gone = reduce(upper, view)
        finally:
            os.close(view)
    with os.scandir(upper) as entries:
        if next(entries, None) is None and not gone:
            return Result()
    return keep(store, upper, chain, lambda descriptor, write: pack_changeset(descriptor, write, epoch=epoch, gone=gone))
