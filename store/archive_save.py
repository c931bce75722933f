"""Saving images as one tar that everyone reads: an OCI image layout, and beside it the manifest.json of `docker save`.

Read by box, docker load, podman load, and skopeo as oci-archive: and as docker-archive:. The same images and names give the same
bytes, whenever and wherever they are saved: nothing in it tells of the saving.
"""

import os
from collections.abc import Iterable, Mapping
from typing import Protocol

from store.archive_load import CONTAINERD_NAME
from store.digest import OCI_INDEX, Descriptor, Digest
from store.documents import canonical
from store.errors import StoreError
from store.images import Image
from store.layout import OCI_LAYOUT, Store
from store.references import REF_NAME, Named
from store.tar_read import DIRECTORY, FILE, Entry
from store.tar_write import TarWriter


class Writable(Protocol):
    """Where an archive goes: takes all it is given."""

    def write(self, data: memoryview, /) -> object: ...


def save(store: Store, texts: Iterable[str], target: Writable) -> list[Named]:
    """Write the images that `texts` name (see `References.resolve`) to `target`, and say which they were.

    An image named by an id goes without a name. Layers go as they lie in the store, each byte verified on its way: on
    BlobCorrupt or any other error, what was written must be thrown away.
    """
    with store.leased():
        found = [store.use_image(text) for text in texts]
        named = sorted({(entry.name or "", entry.descriptor.digest): entry for entry, _ in found}.values(), key=_order)
        images = {entry.descriptor.digest: image for entry, image in found}
        archive = _Archive(target)
        archive.document("oci-layout", OCI_LAYOUT)
        archive.document("index.json", _index(named, images))
        archive.document("manifest.json", _docker_manifest(named, images))
        archive.directory("blobs")
        archive.directory("blobs/sha256")
        blobs = {blob.digest: blob for image in images.values() for blob in _blobs(image)}
        for _, blob in sorted(blobs.items()):
            archive.blob(store, blob)
        archive.end()
    return named


def _order(entry: Named) -> tuple[str, str]:
    return (entry.name or "", entry.descriptor.digest)


def _blobs(image: Image) -> list[Descriptor]:
    return [image.descriptor, image.config_descriptor, *(layer.descriptor for layer in image.layers)]


def _index(named: Iterable[Named], images: Mapping[Digest, Image]) -> bytes:
    manifests = []
    for name, given in named:
        item = images[given.digest].descriptor.to_json()
        if name is not None:
            item["annotations"] = {REF_NAME: name, CONTAINERD_NAME: _qualified(name)}
        manifests.append(item)
    return canonical({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests})


def _docker_manifest(named: Iterable[Named], images: Mapping[Digest, Image]) -> bytes:
    names: dict[Digest, list[str]] = {}
    for name, given in named:
        names.setdefault(given.digest, []).extend([name] if name is not None else [])
    items = []
    for digest, tags in names.items():
        image = images[digest]
        items.append(
            {
                "Config": f"blobs/sha256/{image.id.hex}",
                "RepoTags": tags or None,
                "Layers": [f"blobs/sha256/{layer.descriptor.digest.hex}" for layer in image.layers],
            }
        )
    return canonical(items)


def _qualified(name: str) -> str:
    """The name as containerd has it, with the registry that docker takes for granted."""
    domain, slash, _ = name.partition("/")
    if slash and ("." in domain or ":" in domain or domain == "localhost"):
        return name
    return f"docker.io/{name}" if slash else f"docker.io/library/{name}"


class _Archive:
    """A tar being written: root's, of 1970, readable by all."""

    def __init__(self, target: Writable) -> None:
        self._target = target
        self._tar = TarWriter(self._write)

    def document(self, name: str, data: bytes) -> None:
        self._tar.add(_entry(name, FILE, 0o644, len(data)), data)

    def directory(self, name: str) -> None:
        self._tar.add(_entry(name, DIRECTORY, 0o755, 0))

    def blob(self, store: Store, blob: Descriptor) -> None:
        with store.blobs.open(blob) as reader:
            self._tar.add_stream(_entry(f"blobs/sha256/{blob.digest.hex}", FILE, 0o644, blob.size), reader.readinto)

    def end(self) -> None:
        self._tar.finish()

    def _write(self, data: memoryview) -> None:
        try:
            self._target.write(data)
        except BrokenPipeError:
            raise  # nobody reads it any more
        except OSError as err:
            raise StoreError(f"cannot write the archive: {os.strerror(err.errno or 0).lower()}") from err


def _entry(name: str, kind: bytes, mode: int, size: int) -> Entry:
    entry = Entry(kind, name.encode(), mode, 0, 0, 0)
    entry.size = size
    return entry
