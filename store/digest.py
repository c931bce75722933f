"""Digests, and descriptors that say what a blob is: the two words in which everything else in the store speaks.

OCI image-spec, descriptor.md and config.md (DiffID, ChainID). Only sha256 is known.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from typing import Self

from store.errors import StoreError
from store.record import Record

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
OCI_LAYER_GZIP = OCI_LAYER + "+gzip"
OCI_LAYER_ZSTD = OCI_LAYER + "+zstd"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"
DOCKER_LAYER_GZIP = DOCKER_LAYER + ".gzip"
DOCKER_LAYER_ZSTD = DOCKER_LAYER + ".zstd"

INDEXES = frozenset({OCI_INDEX, DOCKER_LIST})
MANIFESTS = frozenset({OCI_MANIFEST, DOCKER_MANIFEST})
CONFIGS = frozenset({OCI_CONFIG, DOCKER_CONFIG})
PLAIN_LAYERS = frozenset({OCI_LAYER, DOCKER_LAYER})
COMPRESSED_LAYERS = frozenset({OCI_LAYER_GZIP, OCI_LAYER_ZSTD, DOCKER_LAYER_GZIP, DOCKER_LAYER_ZSTD})

_PREFIX = "sha256:"


class Digest(str):
    """`sha256:` and 64 lower-case hexadecimal digits. Nothing else can be made into one: its `hex` is safe as a file name."""

    __slots__ = ()

    def __new__(cls, text: str) -> Self:
        if len(text) != 71 or not text.startswith(_PREFIX) or text[7:].strip("0123456789abcdef"):
            shown = text if len(text) <= 80 else text[:77] + "..."
            raise StoreError(f"not a sha256 digest: {shown!r}")
        return super().__new__(cls, text)

    @classmethod
    def parse(cls, text: str) -> Self:
        """The digest that `text` spells, or StoreError."""
        return cls(text)

    @classmethod
    def of(cls, data: bytes | bytearray | memoryview) -> Self:
        """The digest of these bytes."""
        return cls(_PREFIX + hashlib.sha256(data).hexdigest())

    @property
    def hex(self) -> str:
        """The 64 digits alone."""
        return self[7:]


def digest_of_name(name: str) -> Digest | None:
    """The digest whose `hex` is this file name; None for a file that somebody else put there."""
    return Digest(_PREFIX + name) if len(name) == 64 and not name.strip("0123456789abcdef") else None


def digests_in(directory: str) -> list[Digest]:
    """Those that name something in the directory; none where there is no such directory, as in the store of an older box."""
    try:
        names = os.listdir(directory)
    except FileNotFoundError:
        return []
    return [digest for name in names if (digest := digest_of_name(name)) is not None]


def chain_id(parent: str | None, diff_id: str) -> Digest:
    """The name of the stack that `diff_id` on top of the stack `parent` makes (image-spec config.md, "Layer ChainID")."""
    if parent is None:
        return Digest(diff_id)
    return Digest.of(f"{parent} {diff_id}".encode())


_NONE: Mapping[str, str] = {}


class Platform(Record):
    """Where an image can run: Go's names of an operating system and an architecture."""

    os: str
    architecture: str
    variant: str = ""


class Descriptor(Record):
    """What a blob is, which bytes it has and how many of them."""

    media_type: str
    digest: Digest
    size: int
    annotations: Mapping[str, str] = _NONE
    platform: Platform | None = None

    def to_json(self) -> dict[str, object]:
        """The descriptor as image-spec writes it."""
        value: dict[str, object] = {"mediaType": self.media_type, "digest": str(self.digest), "size": self.size}
        if self.annotations:
            value["annotations"] = dict(self.annotations)
        if self.platform is not None:
            platform = {"architecture": self.platform.architecture, "os": self.platform.os}
            if self.platform.variant:
                platform["variant"] = self.platform.variant
            value["platform"] = platform
        return value
