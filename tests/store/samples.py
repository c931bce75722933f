"""Images to test with, and the question whether a store is whole."""

import gzip
import hashlib
import io
import os
import tarfile
from collections.abc import Mapping, Sequence

from store.digest import OCI_LAYER, Descriptor, Digest
from store.images import Layer, stack
from store.layout import Store

CONFIG: dict[str, object] = {"architecture": "amd64", "os": "linux", "created": "1980-01-01T00:00:00Z"}


def layer_tar(files: Mapping[str, bytes]) -> bytes:
    """A layer of these files, as another program would write it."""
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return target.getvalue()


def compressed(data: bytes) -> bytes:
    return gzip.compress(data, 1, mtime=0)


def put_layers(store: Store, *contents: Mapping[str, bytes]) -> tuple[Layer, ...]:
    blobs = [store.blobs.put_bytes(layer_tar(files), OCI_LAYER) for files in contents]
    return stack([(blob, blob.digest) for blob in blobs])


def put_image(
    store: Store, name: str | None, *contents: Mapping[str, bytes], config: Mapping[str, object] | None = None
) -> Descriptor:
    """An image with one layer for each of `contents`, known by `name`."""
    made = store.images.create({**CONFIG, "config": dict(config or {})}, put_layers(store, *contents))
    store.references.add([(name, made)])
    return made


def digest_of_file(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def names(store: Store) -> dict[str, Digest]:
    return {entry.name: entry.descriptor.digest for entry in store.references.all() if entry.name is not None}


def damage(root: str) -> list[str]:
    """Everything about the store at `root` that breaks a promise; what bytes are worth is asked of hashlib, not of the store."""
    found = [
        f"{folder}/{name} does not match its name"
        for folder in ("blobs/sha256", "layers")
        for name in os.listdir(f"{root}/{folder}")
        if digest_of_file(f"{root}/{folder}/{name}") != name
    ]
    store = Store(root)
    try:
        entries = store.references.all()
    except Exception as err:
        return [*found, f"index.json: {err}"]
    for name, descriptor in entries:
        try:
            image = store.images.load(descriptor)
            for layer in image.layers:
                with store.blobs.open(layer.descriptor) as reader:
                    reader.read()
        except Exception as err:
            found.append(f"image {name}: {err}")
    return found


def reachable(store: Store, descriptors: Sequence[Descriptor]) -> set[str]:
    blobs: set[str] = set()
    for descriptor in descriptors:
        image = store.images.load(descriptor)
        blobs |= {str(descriptor.digest), str(image.id)} | {str(layer.descriptor.digest) for layer in image.layers}
    return blobs
