"""From a finished upper directory to a layer of the store, and from a remembered result back to it."""

import os
from collections.abc import Sequence

from builder.cache import Result
from store.digest import OCI_LAYER, Descriptor, Digest, chain_id
from store.errors import BuildError
from store.images import Layer
from store.layout import Store

Chain = Sequence[Layer]


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


def keep(store: Store, upper: str, chain: Chain, epoch: int) -> Result:
    """Pack the changes in the directory `upper` as a layer on top of `chain`, and keep the directory as that layer's tree.

    Files newer than `epoch` are set to it. On return the layer survives a crash. No changes make no layer.
    """
    from store.pack import pack_changeset

    if not any(True for _ in os.scandir(upper)):
        return Result()
    descriptor = os.open(upper, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with store.blobs.draft() as draft:
            pack_changeset(descriptor, draft.write, epoch=epoch)
            blob = draft.commit(OCI_LAYER)
    except OSError as err:
        raise BuildError(f"cannot make a layer of the changes: {os.strerror(err.errno or 0).lower()}") from err
    finally:
        os.close(descriptor)
    result = Result(str(blob.digest), blob.size, str(blob.digest), OCI_LAYER)
    store.snapshots.adopt(str(layer_of(result, chain).chain_id), upper)
    return result
