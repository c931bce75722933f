"""Loading images from an archive that nobody vouches for: box's own, an OCI layout, or what `docker save` writes.

Everything is kept aside and checked before the first of it is published: digests, sizes, manifests, and of each compressed layer
that it unpacks to the diff_id its config names. An OCI image keeps its manifest, so its digest; docker's older form has none, and
gets one that depends on nothing but its content.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from functools import cached_property
from hashlib import sha256

from store.archive_members import Members, feed
from store.blobs import Readable
from store.decompress import open_stream
from store.digest import (
    INDEXES,
    MANIFESTS,
    OCI_CONFIG,
    OCI_LAYER,
    OCI_LAYER_GZIP,
    OCI_LAYER_ZSTD,
    OCI_MANIFEST,
    Descriptor,
    Digest,
)
from store.documents import canonical, descriptor, list_at, parse, parse_object, text_at, texts_at
from store.errors import ArchiveError, BlobCorrupt, StoreError
from store.images import Layer, choose, fit, parse_config, parse_manifest
from store.layout import Store
from store.record import Record
from store.references import REF_NAME, Named, Reference
from store.sources import ARCHIVE, remember

CONTAINERD_NAME = "io.containerd.image.name"
_FAMILIAR = ("docker.io/library/", "docker.io/")
_MAGIC = ((b"\x1f\x8b", OCI_LAYER_GZIP), (b"\x28\xb5\x2f\xfd", OCI_LAYER_ZSTD))
_HINT = "box loads what `box save`, `docker save`, `podman save` and `skopeo copy` write"


def load(store: Store, source: Readable, *, path: str = "") -> list[Named]:
    """Load every image of the archive that `source` gives (a tar; gzip, zstd, xz and bzip2 are seen through), and say which.

    On return they survive a crash. On error (ArchiveError, BlobCorrupt, StoreError) the store is as it was. An image without a
    usable name is known by its digest. Of an image for several platforms, this machine's is taken. `path` is where the archive
    lies, if it does: `fsck` looks there for what is damaged one day.
    """
    with store.leased(), store.drafts.directory("load") as draft, closing(Members(store, draft)) as members:
        members.read_tar(open_stream(source))
        return _Loading(store, members, draft.path).run(path)


def load_directory(store: Store, path: str) -> list[Named]:
    """The same, from an OCI layout that is a directory."""
    with store.leased(), store.drafts.directory("load") as draft, closing(Members(store, draft)) as members:
        members.read_directory(path)
        return _Loading(store, members, draft.path).run(path)


class _Found(Record):
    """An image of the archive, checked: `manifest` is its bytes where the archive has no such blob."""

    names: tuple[str | None, ...]
    descriptor: Descriptor
    config: Descriptor
    layers: tuple[Layer, ...]
    manifest: bytes | None = None


class _Loading:
    def __init__(self, store: Store, members: Members, path: str) -> None:
        self._store = store
        self._members = members
        self._path = path
        self._tars: dict[Digest, str] = {}
        self._checked: set[tuple[Digest, Digest]] = set()

    def run(self, origin: str) -> list[Named]:
        images = list(self._images())
        if not images:
            raise ArchiveError("the archive has no image in it", hint=_HINT)
        for image in images:
            for layer in image.layers:
                self._check_layer(layer)
        for image in images:
            self._publish(image)
        for diff_id, path in self._tars.items():
            self._store.use(diff_id)
            if not self._store.has_tar(diff_id):
                self._store.tars.take(path, diff_id)
        self._store.blobs.sync()
        self._store.tars.sync()
        for image in images:
            self._settle(image)
        named = [Named(name, image.descriptor) for image in images for name in image.names]
        parts = {
            part.digest
            for image in images
            for part in (image.descriptor, image.config, *(each.descriptor for each in image.layers))
        }
        remember(self._store, ARCHIVE, origin, sorted(parts))
        self._store.references.add(named)
        return named

    def _images(self) -> Iterator[_Found]:
        index = self._members.document("index.json")
        if index is not None:
            parsed = parse_object(index, "index.json of the archive")
            for item in list_at(parsed, "manifests", "index.json of the archive"):
                given = descriptor(item, "index.json of the archive")
                yield self._oci_image(given)
            return
        manifests = self._members.document("manifest.json")
        if manifests is None:
            raise ArchiveError("this is no image archive: it has neither index.json nor manifest.json", hint=_HINT)
        items = parse(manifests, "manifest.json of the archive")
        for item in items if isinstance(items, list) else [items]:
            if not isinstance(item, dict):
                raise ArchiveError("manifest.json of the archive is not a list of objects")
            yield self._docker_image(item)

    def _oci_image(self, given: Descriptor) -> _Found:
        name = _name(given.annotations)
        data = self._members.read(given.digest, given.size)
        if given.media_type in INDEXES:
            what = f"index {given.digest}"
            inner = [descriptor(item, what) for item in list_at(parse_object(data, what), "manifests", what)]
            given = choose(inner, what)
            data = self._members.read(given.digest, given.size)
        if given.media_type not in MANIFESTS:
            raise ArchiveError(f"index.json of the archive names something of a kind that is not known: {given.media_type!r}")
        _, config, blobs = parse_manifest(data, given)
        what = f"config {config.digest}"
        _, diff_ids = parse_config(self._members.read(config.digest, config.size), what)
        plain = Descriptor(given.media_type, given.digest, given.size)
        return _Found((name,), plain, config, fit(blobs, diff_ids, what))

    def _docker_image(self, item: Mapping[str, object]) -> _Found:
        what = "manifest.json of the archive"
        config = self._members.find(text_at(item, "Config", what))
        _, diff_ids = parse_config(self._members.read(config.digest, config.size), f"config {config.digest}")
        blobs = []
        for name in texts_at(item, "Layers", what):
            file = self._members.find(name)
            kind = next((kind for magic, kind in _MAGIC if file.magic.startswith(magic)), OCI_LAYER)
            blobs.append(Descriptor(kind, file.digest, file.size))
        layers = fit(blobs, diff_ids, f"config {config.digest}")
        config_descriptor = Descriptor(OCI_CONFIG, config.digest, config.size)
        manifest = canonical(
            {
                "schemaVersion": 2,
                "mediaType": OCI_MANIFEST,
                "config": config_descriptor.to_json(),
                "layers": [layer.descriptor.to_json() for layer in layers],
            }
        )
        made = Descriptor(OCI_MANIFEST, Digest.of(manifest), len(manifest))
        parse_manifest(manifest, made)
        names = tuple(Reference.parse(name).full_name for name in texts_at(item, "RepoTags", what))
        return _Found(names or (None,), made, config_descriptor, layers, manifest)

    def _settle(self, image: _Found) -> None:
        """Make snapshots of the layers that came in this archive: each once, in the order of the first image that has it."""
        self._store.use_layers(image.layers)
        for position, layer in enumerate(image.layers):
            arrival = self._members.arrivals.pop(layer.descriptor.digest, None)
            if arrival is not None:
                with closing(arrival):
                    arrival.settle(image.layers[:position], layer)

    def _check_layer(self, layer: Layer) -> None:
        """BlobCorrupt unless the blob is what the image says; its tar is among those that are kept aside, or in the store."""
        blob = layer.descriptor
        self._members.check(blob)
        if not layer.compressed or (blob.digest, layer.diff_id) in self._checked:
            return
        arrival = self._members.arrivals.get(blob.digest)
        if arrival is not None:
            if arrival.diff_id != layer.diff_id:
                raise BlobCorrupt(layer.diff_id, arrival.diff_id, where="the uncompressed layer")
            self._tars.setdefault(layer.diff_id, arrival.path)
        else:
            self._unpack(layer)
        self._checked.add((blob.digest, layer.diff_id))

    def _unpack(self, layer: Layer) -> None:
        """Decompress a layer that came as nobody could know it for one, or that only the store has."""
        self._store.use(layer.diff_id)
        there = layer.diff_id in self._tars or self._store.has_tar(layer.diff_id)
        if there and (layer.descriptor.digest, layer.diff_id) in self._trusted:
            return
        with self._members.stream(layer.descriptor.digest, layer.descriptor.size) as source:
            next_piece = feed(open_stream(source))
            if there:
                hasher = sha256()
                while piece := next_piece():
                    hasher.update(piece)
                if hasher.hexdigest() != layer.diff_id.hex:
                    raise BlobCorrupt(layer.diff_id, f"sha256:{hasher.hexdigest()}", where="the uncompressed layer")
                return
            with self._store.tars.draft() as draft:
                while piece := next_piece():
                    draft.write(piece)
                draft.seal("", layer.diff_id)
                path = f"{self._path}/tar-{layer.diff_id.hex}"
                draft.set_aside(path)
        self._tars[layer.diff_id] = path

    @cached_property
    def _trusted(self) -> frozenset[tuple[Digest, Digest]]:
        """The compressed layers that the store's images have, each with its diff_id: what was loaded was checked."""
        found: set[tuple[Digest, Digest]] = set()
        for named in self._store.references.all():
            with suppress(StoreError):
                found.update(
                    (layer.descriptor.digest, layer.diff_id) for layer in self._store.images.load(named.descriptor).layers
                )
        return frozenset(found)

    def _publish(self, image: _Found) -> None:
        for layer in image.layers:
            self._members.publish(layer.descriptor)
        self._members.publish(image.config)
        if image.manifest is None:
            self._members.publish(image.descriptor)
        else:
            self._store.blobs.put_bytes(image.manifest, OCI_MANIFEST)


def _name(annotations: Mapping[str, str]) -> str | None:
    """The name an index.json gives an image: a whole one (`app:1.2`) in ref.name; else containerd's, in docker's familiar form,
    beside which docker writes only the tag to ref.name; else ref.name as a name without a tag."""
    spelt = annotations.get(REF_NAME, "")
    full = annotations.get(CONTAINERD_NAME, "")
    if full and ":" not in spelt and "/" not in spelt:
        spelt = next((full.removeprefix(prefix) for prefix in _FAMILIAR if full.startswith(prefix)), full)
    try:
        return Reference.parse(spelt).full_name
    except StoreError:
        return None  # a name that no command line could say: the image is known by its digest
