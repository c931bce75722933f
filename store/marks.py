"""What is needed: the digests that images, containers, leases and the build cache name.

One set holds the digests of blobs, of tars (diff_id) and of stacks (chain_id): the same digits are the same bytes, or the stack
that is only them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from store.digest import INDEXES, Descriptor, Digest
from store.documents import descriptor, list_at, object_at, parse_object
from store.errors import NotAnImage, StoreError
from store.layout import Store
from store.leases import leased
from store.record import Record
from store.references import Named


class InUse(Record):
    """What containers, the ended ones too, and mounts stand on: the manifests of their images (the ids of those that an older box
    made), the topmost stacks of those that have neither, and the stacks of all their trees."""

    images: frozenset[str] = frozenset()
    stacks: frozenset[str] = frozenset()
    trees: frozenset[str] = frozenset()
    whose: tuple[tuple[str, str], ...] = ()  # such a manifest, id or stack, and who stands on it

    def users(self, image: Image) -> list[str]:
        """Who stands on the image, as a user can name it."""
        return sorted({name for what, name in self.whose if what in image.parts or what == image.stack})


Used = Callable[[], InUse]
Keep = Callable[[], Iterable[str]]


def keep_nothing() -> Iterable[str]:
    """The `keep` of a store without a build cache."""
    return ()


class Image(Record):
    """What an image needs (`parts`), its id, and the name of its whole stack (empty for no layers). What is no container image
    has parts only."""

    parts: frozenset[str]
    id: str
    stack: str

    def runs_in(self, used: InUse) -> bool:
        """Whether a container was made of it."""
        return not self.parts.isdisjoint(used.images) or self.stack in used.stacks


class Marks:
    """The parts of images. What a digest stands for never changes, so each image is read once."""

    __slots__ = ("_images", "_store")

    def __init__(self, store: Store) -> None:
        self._store = store
        self._images: dict[Digest, Image] = {}

    def of(self, given: Descriptor) -> Image:
        """The parts of an image. StoreError when it is damaged."""
        known = self._images.get(given.digest)
        if known is None:
            known = self._images[given.digest] = self._read(given)
        return known

    def of_all(self, images: Iterable[Descriptor]) -> set[str]:
        """The parts of all these. StoreError when one is damaged: its layers are not known, so none may be deleted."""
        parts: set[str] = set()
        for given in images:
            try:
                parts |= self.of(given).parts
            except StoreError as err:
                raise StoreError(
                    f"nothing was deleted, since image {given.digest.hex[:12]} is damaged: {err.message}",
                    hint=f"try box fsck --repair, or delete that one first: box rmi {given.digest.hex[:12]}",
                ) from err
        return parts

    def _read(self, given: Descriptor) -> Image:
        parts = {str(given.digest)}
        if given.media_type in INDEXES:  # another tool's; box itself keeps one platform's manifest
            what = f"index {given.digest}"
            for item in list_at(parse_object(self._store.blobs.read(given), what), "manifests", what):
                child = descriptor(item, what)
                if self._store.blobs.has(child.digest):
                    parts |= self._manifest(child)
        else:
            parts |= self._manifest(given)
        try:
            image = self._store.images.load(given)
        except NotAnImage:
            return Image(frozenset(parts), "", "")
        parts.add(str(image.id))
        for layer in image.layers:
            parts |= {str(layer.descriptor.digest), str(layer.diff_id), str(layer.chain_id)}
        return Image(frozenset(parts), str(image.id), str(image.layers[-1].chain_id) if image.layers else "")

    def _manifest(self, given: Descriptor) -> set[str]:
        """All that a manifest of any kind names (an attestation is no image)."""
        what = f"manifest {given.digest}"
        manifest = parse_object(self._store.blobs.read(given), what)
        items = [item for kind in ("layers", "blobs", "manifests") for item in list_at(manifest, kind, what)]
        items += [object_at(manifest, "config", what)] if "config" in manifest else []
        return {str(given.digest), *(str(descriptor(item, what).digest) for item in items)}


class Needed(Record):
    """What must stay, as it was while the gate was shut or held."""

    leased: set[str]
    used: InUse
    cached: set[str]
    entries: list[Named]

    @classmethod
    def now(cls, store: Store, keep: Keep, used: Used) -> Needed:
        """Read in the order in which things are handed over (store/leases.py). The caller holds the gate."""
        named = leased(store.drafts.path, but=store.lease)
        in_use = used()
        return cls(named, in_use, set(keep()), store.references.all())

    def digests(self, marks: Marks, images: Iterable[Descriptor]) -> set[str]:
        """All of it, of the images only what `images` need."""
        return self.leased | self.used.trees | self.cached | marks.of_all(images)
