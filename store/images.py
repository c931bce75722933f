"""Images: a manifest, its config and its layers, checked as one before anything believes them.

OCI image-spec: manifest.md, config.md, image-index.md; docker's schema 2 names the same things differently and is read as well.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from store.blobs import Blobs
from store.digest import (
    COMPRESSED_LAYERS,
    CONFIGS,
    INDEXES,
    MANIFESTS,
    OCI_CONFIG,
    OCI_MANIFEST,
    PLAIN_LAYERS,
    Descriptor,
    Digest,
    Platform,
    chain_id,
)
from store.documents import canonical, descriptor, list_at, object_at, parse_object, text_at, texts_at
from store.errors import BlobCorrupt, BlobMissing, NotAnImage, StoreError
from store.record import Record

LAYER_LIMIT = 500
_ARCHITECTURES = {
    "x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "armv6l": "arm", "i686": "386", "i386": "386", "riscv64": "riscv64",
    "ppc64le": "ppc64le", "s390x": "s390x", "loongarch64": "loong64",
}  # fmt: skip


def host_architecture() -> str:
    """This machine's architecture as images name it."""
    machine = os.uname().machine
    return _ARCHITECTURES.get(machine, machine)


class Layer(Record):
    """One layer of a stack: its blob, the digest of its uncompressed tar, and the name of the stack up to it."""

    descriptor: Descriptor
    diff_id: Digest
    chain_id: Digest

    @property
    def compressed(self) -> bool:
        """Whether the blob is not the tar itself."""
        return self.descriptor.digest != self.diff_id


def stack(layers: Sequence[tuple[Descriptor, Digest]]) -> tuple[Layer, ...]:
    """Layers from their blobs and diff_ids, the lowest first."""
    made: list[Layer] = []
    for blob, diff_id in layers:
        made.append(Layer(blob, diff_id, chain_id(made[-1].chain_id if made else None, diff_id)))
    return tuple(made)


class Image(Record):
    """An image: `descriptor` is its manifest's, `layers` the lowest first. Manifest and config fit together."""

    descriptor: Descriptor
    manifest: Mapping[str, object]
    config: Mapping[str, object]
    config_descriptor: Descriptor
    layers: tuple[Layer, ...]

    @property
    def id(self) -> Digest:
        """The config's digest: what docker and podman call the image's id."""
        return self.config_descriptor.digest

    @property
    def size(self) -> int:
        """Bytes of all its blobs."""
        return self.descriptor.size + self.config_descriptor.size + sum(layer.descriptor.size for layer in self.layers)


def parse_manifest(data: bytes, given: Descriptor) -> tuple[dict[str, object], Descriptor, list[Descriptor]]:
    """The manifest, its config and its layers; StoreError when it could be taken for something else, or asks too much."""
    what = f"manifest {given.digest}"
    manifest = parse_object(data, what)
    if manifest.get("schemaVersion") != 2:
        raise StoreError(f"{what} has schema version {manifest.get('schemaVersion')!r}; only 2 is read")
    media_type = text_at(manifest, "mediaType", what, given.media_type)
    if media_type == given.media_type and media_type not in MANIFESTS:
        raise NotAnImage(f"{what} is no container image, but {media_type!r}")
    if media_type != given.media_type:
        raise StoreError(f"{what} calls itself {media_type!r} where {given.media_type!r} was announced")
    if "manifests" in manifest or "fsLayers" in manifest:
        raise StoreError(f"{what} could be read as something else too: it has layers of two kinds")
    config = descriptor(object_at(manifest, "config", what), what)
    if config.media_type not in CONFIGS:
        raise NotAnImage(f"{what} is no container image: its config is {config.media_type!r}")
    layers = [descriptor(item, what) for item in list_at(manifest, "layers", what)]
    if len(layers) > LAYER_LIMIT:
        raise StoreError(f"{what} has {len(layers)} layers; the limit is {LAYER_LIMIT}")
    for layer in layers:
        if layer.media_type not in PLAIN_LAYERS and layer.media_type not in COMPRESSED_LAYERS:
            raise StoreError(f"{what} has a layer of a kind that is not known: {layer.media_type!r}")
    return manifest, config, layers


def parse_config(data: bytes, what: str) -> tuple[dict[str, object], list[Digest]]:
    """The image config in `data` and its diff_ids."""
    config = parse_object(data, what)
    return config, _diff_ids(config, what)


def _diff_ids(config: Mapping[str, object], what: str) -> list[Digest]:
    text_at(config, "architecture", what)
    text_at(config, "os", what)
    object_at(config, "config", what)
    rootfs = object_at(config, "rootfs", what)
    if text_at(rootfs, "type", what) != "layers":
        raise StoreError(f"{what}: 'rootfs' is not of type 'layers'")
    return [Digest.parse(text) for text in texts_at(rootfs, "diff_ids", what)]


def choose(manifests: Sequence[Descriptor], what: str) -> Descriptor:
    """Of an index's manifests, the one for this machine; the only one, where there is only one."""
    images = [item for item in manifests if item.media_type in MANIFESTS and not _is_attestation(item)]
    here = [item for item in images if item.platform in (Platform("linux", host_architecture()), None)]
    fitting = here or [
        item
        for item in images
        if item.platform and (item.platform.os, item.platform.architecture) == ("linux", host_architecture())
    ]
    if fitting:
        return fitting[0]
    if len(images) == 1:
        return images[0]
    raise NotAnImage(f"{what} has no image for linux/{host_architecture()}")


def _is_attestation(item: Descriptor) -> bool:
    return "vnd.docker.reference.type" in item.annotations


class Images:
    """The images whose manifests are in the store."""

    __slots__ = ("_blobs",)

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs

    def load(self, given: Descriptor) -> Image:
        """The image of this manifest (or of this machine's manifest in an index). Layers' bytes are not read.

        BlobMissing, BlobCorrupt, or StoreError when its parts do not fit together.
        """
        if given.media_type in INDEXES:
            given = self._choose(given)
        manifest, config_descriptor, blobs = parse_manifest(self._blobs.read(given), given)
        what = f"config {config_descriptor.digest}"
        config, diff_ids = parse_config(self._blobs.read(config_descriptor), what)
        return Image(given, manifest, config, config_descriptor, fit(blobs, diff_ids, what))

    def _choose(self, given: Descriptor) -> Descriptor:
        what = f"index {given.digest}"
        index = parse_object(self._blobs.read(given), what)
        return choose([descriptor(item, what) for item in list_at(index, "manifests", what)], what)

    def config_digest(self, given: Descriptor) -> Digest:
        """The id of the image of this manifest."""
        if given.media_type in INDEXES:
            given = self._choose(given)
        return parse_manifest(self._blobs.read(given), given)[1].digest

    def create(
        self, config: Mapping[str, object], layers: Sequence[Layer], *, annotations: Mapping[str, str] | None = None
    ) -> Descriptor:
        """Make an image of `config` (image-spec config.md, without `rootfs`) and `layers`, the lowest first.

        Returns its manifest's descriptor: the same arguments give the same digest, everywhere. On return it survives a crash; it
        has no name yet.
        """
        whole = {**config, "rootfs": {"type": "layers", "diff_ids": [str(layer.diff_id) for layer in layers]}}
        _diff_ids(whole, "the new image's config")
        for layer in layers:
            self._blobs.use(layer.descriptor.digest)
            if not self._blobs.has(layer.descriptor.digest):
                raise BlobMissing(layer.descriptor.digest)
        config_descriptor = self._blobs.put_bytes(canonical(whole), OCI_CONFIG)
        manifest: dict[str, object] = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": config_descriptor.to_json(),
            "layers": [
                Descriptor(item.descriptor.media_type, item.descriptor.digest, item.descriptor.size).to_json() for item in layers
            ],
        }
        if annotations:
            manifest["annotations"] = dict(annotations)
        data = canonical(manifest)
        made = Descriptor(OCI_MANIFEST, Digest.of(data), len(data))
        parse_manifest(data, made)
        return self._blobs.put_bytes(data, OCI_MANIFEST)


def fit(blobs: Sequence[Descriptor], diff_ids: Sequence[Digest], what: str) -> tuple[Layer, ...]:
    """Layers of a manifest's blobs and a config's diff_ids, or StoreError when the one cannot be the other's."""
    if len(blobs) != len(diff_ids):
        raise StoreError(f"{what} names {len(diff_ids)} layers where the manifest has {len(blobs)}")
    for blob, diff_id in zip(blobs, diff_ids, strict=True):
        if blob.media_type in PLAIN_LAYERS and blob.digest != diff_id:
            raise BlobCorrupt(diff_id, blob.digest, where=f"an uncompressed layer of {what}")
    return stack(list(zip(blobs, diff_ids, strict=True)))
