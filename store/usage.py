"""How much space what takes, what of it is shared, and what `gc` would give back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from store.collect import Gone, everything, gc, nothing_used
from store.digest import Descriptor, Digest
from store.errors import StoreError
from store.grave import space
from store.layout import Store
from store.marks import Image, Keep, Marks, Used, keep_nothing
from store.record import Record


class ImageUsage(Record):
    """An image on the disk: `size` bytes of blobs and tars, of which `shared` belong to other images too. `used`: a container
    was made of it. `damaged` says what is wrong with it, and nothing else is known then."""

    names: tuple[str, ...]
    descriptor: Descriptor
    id: str = ""
    size: int = 0
    shared: int = 0
    used: bool = False
    damaged: str = ""

    @property
    def unique(self) -> int:
        """The bytes that go when only this image goes."""
        return self.size - self.shared


class Usage(Record):
    """A store on the disk, in bytes. Every blob and tar counts once.

    `images` all that images need, `shared` that of it which several need, `active` that which images with containers need.
    `cached` what only the build cache keeps, in `cached_layers` layers. `trees` what was made of layers to mount them, and how
    many there are of which kind. `unused`: what `gc` would delete.
    """

    each: tuple[ImageUsage, ...]
    images: int
    shared: int
    active: int
    cached: int
    cached_layers: int
    trees: int
    trees_number: int
    unused: tuple[Gone, ...]

    @property
    def freeable(self) -> int:
        """The bytes that `gc` would give back."""
        return sum(gone.size for gone in self.unused)


NOTHING = Usage((), 0, 0, 0, 0, 0, 0, 0, ())  # what is in no store


def usage(store: Store, *, keep: Keep = keep_nothing, used: Used = nothing_used) -> Usage:
    """Measure the store. What comes and goes meanwhile may be counted or not."""
    marks = Marks(store)
    with store.shared():
        in_use = used()
        named: dict[Digest, list[str]] = {}
        images: dict[Digest, Descriptor] = {}
        for entry in store.references.all():
            images[entry.descriptor.digest] = entry.descriptor
            named.setdefault(entry.descriptor.digest, []).extend([entry.name] if entry.name is not None else [])
        parts: dict[Digest, Image] = {}
        damaged: dict[Digest, str] = {}
        for digest, given in images.items():
            try:
                parts[digest] = marks.of(given)
            except StoreError as err:
                damaged[digest] = err.message
        cached = set(keep())
    sizes: Counter[str] = Counter()
    trees: list[int] = []
    for thing in everything(store):
        if thing.kind in ("blob", "tar"):
            sizes[thing.digest] += thing.size or 0
        elif thing.kind == "tree":
            trees.append(space(thing.path))
    needed = Counter(part for image in parts.values() for part in image.parts)
    active = {part for image in parts.values() if image.runs_in(in_use) for part in image.parts}
    only_cached = [digest for digest in cached if digest not in needed and digest in sizes]
    each = [
        ImageUsage(
            tuple(named[digest]),
            given,
            parts[digest].id,
            _total(sizes, parts[digest].parts),
            _total(sizes, (part for part in parts[digest].parts if needed[part] > 1)),
            parts[digest].runs_in(in_use),
        )
        if digest in parts
        else ImageUsage(tuple(named[digest]), given, damaged=damaged[digest])
        for digest, given in images.items()
        if digest in damaged or parts[digest].id  # the rest are no images
    ]
    return Usage(
        each=tuple(each),
        images=_total(sizes, needed),
        shared=_total(sizes, (part for part, number in needed.items() if number > 1)),
        active=_total(sizes, active),
        cached=_total(sizes, only_cached),
        cached_layers=len(only_cached),
        trees=sum(trees),
        trees_number=len(trees),
        unused=() if damaged else gc(store, keep=keep, used=used, dry_run=True).gone,
    )


def on_disk(store: Store, given: Descriptor) -> int:
    """The bytes of an image's blobs and tars, as `usage` counts them; what it shares with others too. StoreError when it is
    damaged."""
    return sum((store.blobs.size(part) or 0) + (store.tars.size(part) or 0) for part in map(Digest, Marks(store).of(given).parts))


def _total(sizes: Counter[str], digests: Iterable[str]) -> int:
    return sum(sizes[digest] for digest in digests)
