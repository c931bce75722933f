"""Which line of which Boxfile wrote each line of an image's history, and where its base ends: for `blame` and `diff`.

The image itself cannot say: its digest must not depend on where its Boxfile lies, nor on a comment added to it. So this machine
remembers, by the manifest's digest, in ROOT/cache/origins; it is derived, never synced, and of two builds that come to the same
image the last one counts. An image from elsewhere has none: then its history and its base's digest (the annotation
org.opencontainers.image.base.digest) are all there is.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from builder.derived import write_derived
from store.digest import DOCKER_MANIFEST, OCI_MANIFEST, Descriptor, Digest
from store.documents import mapping_at
from store.errors import StoreError
from store.images import Image
from store.record import Record

if TYPE_CHECKING:
    from collections.abc import Sequence

    from store.layout import Store

BASE_DIGEST = "org.opencontainers.image.base.digest"


class Origin(Record):
    """A place in a Boxfile: `step` is counted from 1, 0 is the base."""

    file: str
    line: int
    step: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


class Origins(Record):
    """Of one image: how many of its layers are its base's, and the origin of each line of its history, None where not known."""

    base_layers: int
    lines: tuple[Origin | None, ...]


def keep(store: Store, manifest: Digest, origins: Origins) -> None:
    """Remember them as those of the image with this manifest."""
    lines = [[line.file, line.line, line.step] if line is not None else None for line in origins.lines]
    data = json.dumps({"base_layers": origins.base_layers, "lines": lines}).encode()
    path = _path(store, manifest)
    if _read(path) != data:
        write_derived(store.drafts, path, data)


def recall(store: Store, manifest: Digest) -> Origins | None:
    """What is remembered of the image with this manifest."""
    try:
        value: Any = json.loads(_read(_path(store, manifest)))
        lines = tuple(Origin(str(line[0]), int(line[1]), int(line[2])) if line else None for line in value["lines"])
        return Origins(int(value["base_layers"]), lines)
    except (ValueError, KeyError, TypeError, IndexError):
        return None


def lines_of(store: Store, manifest: Digest, count: int) -> Sequence[Origin | None]:
    """The origins of the `count` lines of an image's history."""
    known = recall(store, manifest)
    return known.lines if known is not None and len(known.lines) == count else [None] * count


def base_layers(store: Store, image: Image) -> int | None:
    """How many of the image's layers are its base's; None where neither this machine nor the image can say."""
    known = recall(store, image.descriptor.digest)
    if known is not None and known.base_layers <= len(image.layers):
        return known.base_layers
    text = mapping_at(image.manifest, "annotations", "the manifest").get(BASE_DIGEST, "")
    try:
        digest = Digest.parse(text)
        size = store.blobs.size(digest)
        if size is None:
            return None
        base = _image(store, digest, size)
    except StoreError:
        return None
    below = [layer.chain_id for layer in base.layers]
    return len(below) if below == [layer.chain_id for layer in image.layers[: len(below)]] else None


def _image(store: Store, digest: Digest, size: int) -> Image:
    try:
        return store.images.load(Descriptor(OCI_MANIFEST, digest, size))
    except StoreError:
        return store.images.load(Descriptor(DOCKER_MANIFEST, digest, size))


def _path(store: Store, manifest: Digest) -> str:
    return f"{store.root}/cache/origins/{manifest.hex}"


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return b""
