"""Deleting images, and whatever nothing uses any more, beside commands that go on.

What may go is decided with the gate shut, from leases, containers and index.json read anew (store/leases.py); it is moved away
then, by one rename each, and deleted once the gate is open again. The name of an image goes first and for good: being killed
after that leaves blobs that the next `gc` finds. `keep` gives the digests that a build cache wants to keep, `used` what
containers stand on; both are asked with the gate shut.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from errno import EDQUOT, EIO, ENOENT, ENOSPC

from store.digest import Descriptor, Digest
from store.errors import StoreError
from store.faults import Attempt
from store.grave import Grave, space
from store.layout import Store
from store.marks import Image, InUse, Keep, Marks, Needed, Used, keep_nothing
from store.record import Record
from store.references import Named
from store.sources import tidy

PATIENCE = 2.0  # seconds to wait until the gate can be shut: whoever holds it has a container to write down, no more
MOST_USERS = 5  # of an image, that are named
BATCH = 200  # things to move away while the gate is shut, some milliseconds

NOTHING_USED = InUse()


def nothing_used() -> InUse:
    """The `used` of a store without containers."""
    return NOTHING_USED


class Gone(Record):
    """Something that went: `kind` is blob, tar, tree or prepared, `size` its bytes (of a tree those on the disk)."""

    kind: str
    digest: Digest
    size: int


class Deleted(Record):
    """What went: names, images, and what they were made of. `deferred`: some of it stays for now, since a running command uses
    it or is just being started."""

    names: tuple[str, ...] = ()
    images: tuple[Digest, ...] = ()
    gone: tuple[Gone, ...] = ()
    deferred: bool = False

    @property
    def freed(self) -> int:
        """The bytes of all that went."""
        return sum(gone.size for gone in self.gone)


class _Thing(Record):
    """Something that could go: where it lies, and its size where that is known without a walk."""

    kind: str
    digest: Digest
    path: str
    size: int | None


def delete_image(
    store: Store, text: str, *, force: bool = False, keep: Keep = keep_nothing, used: Used = nothing_used
) -> Deleted:
    """Delete the image that `text` means, as docker does: by one of several names, only that name goes; by its last name or by
    its id, the image with all that nothing else needs.

    ReferenceMissing when there is no such image; StoreError when a container was made of it, or when an id has several names.
    With `force` all names go; what a container was made of stays as an image without one.
    """
    done = _delete_image(store, text, force, keep, used)
    _keep_reserve(store)
    return done


def _delete_image(store: Store, text: str, force: bool, keep: Keep, used: Used) -> Deleted:
    marks = Marks(store)
    with Grave(store.drafts) as grave, store.exclusive(patience=PATIENCE) as alone:
        needed = Needed.now(store, keep, used)
        target = store.references.resolve(text, only=True)
        digest = target.descriptor.digest
        names = [entry.name for entry in needed.entries if entry.descriptor.digest == digest and entry.name is not None]
        if target.name is not None and len(names) > 1:
            store.references.delete(target.name)
            return Deleted((target.name,))
        if target.name is None and len(names) > 1 and not force:
            raise StoreError(f"image {text!r} has several names: {', '.join(names)}", hint="delete one of them, or use --force")
        mine = _image_or_nothing(marks, target.descriptor)
        runs = mine.runs_in(needed.used)
        if runs and not (force and names):
            users = needed.used.users(mine)
            shown = ", ".join(users[:MOST_USERS]) + (f" and {len(users) - MOST_USERS} more" if len(users) > MOST_USERS else "")
            raise StoreError(
                f"image {text!r} is used by {shown or 'a container or a mount'}",
                hint="`box rm` removes a container, `box umount` a mount (--force drops the image's name alone)",
            )
        if runs or not alone:
            for name in names:
                store.references.delete(name)
            return Deleted(tuple(names), deferred=not runs)
        others = marks.of_all(entry.descriptor for entry in needed.entries if entry.descriptor.digest != digest)
        _forget(store, [digest], needed.entries)
        kept = others | needed.used.trees | needed.cached
        gone = _bury(grave, _parts_of(store, mine), kept | needed.leased)
        return Deleted(tuple(names), (digest,), tuple(gone), deferred=bool((mine.parts - kept) & needed.leased))


def forget_images(store: Store, *, unused: bool = False, used: Used = nothing_used) -> Deleted:
    """Drop the images without a name, with `unused` all of which no container was made; not those that a running command uses.

    Their blobs wait for `gc`.
    """
    marks = Marks(store)
    with store.exclusive(patience=PATIENCE) as alone:
        if not alone:
            return Deleted(deferred=True)
        needed = Needed.now(store, keep_nothing, used)
        dropped = [entry for entry in needed.entries if _may_go(marks, entry, unused, needed)]
        digests = tuple(dict.fromkeys(entry.descriptor.digest for entry in dropped))
        if digests:
            _forget(store, digests, needed.entries)
        return Deleted(tuple(entry.name for entry in dropped if entry.name is not None), digests)


def gc(store: Store, *, keep: Keep = keep_nothing, used: Used = nothing_used, dry_run: bool = False) -> Deleted:
    """Delete every blob, tar, tree and prepared file that no image, container, lease or cache needs, and what killed commands
    left. With `dry_run`, say what would go.

    Safe beside any other command, and killed at any instruction. StoreError when an image is damaged so that nobody knows what it
    needs; nothing is deleted then.
    """
    marks = Marks(store)
    with store.shared():
        needed = Needed.now(store, keep, used)
        kept = needed.digests(marks, [entry.descriptor for entry in needed.entries])
        with Attempt("list what is in the store"):
            candidates = [thing for thing in everything(store) if thing.digest not in kept]
    if dry_run:
        return Deleted(gone=tuple(Gone(thing.kind, thing.digest, _size(thing)) for thing in candidates))
    store.drafts.sweep()
    gone: list[Gone] = []
    for start in range(0, len(candidates), BATCH):
        with Grave(store.drafts) as grave:
            with store.exclusive(patience=PATIENCE) as alone:
                if not alone:
                    return Deleted(gone=tuple(gone), deferred=True)
                needed = Needed.now(store, keep, used)
                kept = needed.digests(marks, [entry.descriptor for entry in needed.entries])
                moved = _move(grave, candidates[start : start + BATCH], kept)
            gone += [Gone(thing.kind, thing.digest, space(now) if thing.size is None else thing.size) for thing, now in moved]
    tidy(store)
    _keep_reserve(store)
    return Deleted(gone=tuple(gone))


def everything(store: Store) -> Iterator[_Thing]:
    """All in the store that has a digest, prepared files before trees and trees before the tars they are made of."""
    for digest in store.prepared():
        yield _Thing("prepared", digest, f"{store.root}/prepared/{digest.hex}", None)
    for chain in store.snapshot_chains():
        for path in filter(os.path.lexists, store.snapshot_places(chain)):
            yield _Thing("tree", chain, path, None)
    for kind, blobs in (("blob", store.blobs), ("tar", store.tars)):
        for digest, size in blobs.all():
            yield _Thing(kind, digest, blobs.path(digest), size)


def _forget(store: Store, digests: Sequence[Digest], entries: Iterable[Named]) -> None:
    """Drop these images from index.json by the names they had in `entries`, on a full disk by what is in reserve for that."""
    names = {entry.name for entry in entries if entry.name is not None}
    try:
        store.references.forget(digests, names=names)
    except StoreError as err:
        full = isinstance(err.__cause__, OSError) and err.__cause__.errno in (ENOSPC, EDQUOT)
        if not full or not store.spend_reserve():
            raise
        store.references.forget(digests, names=names)


def _keep_reserve(store: Store) -> None:
    try:
        store.keep_reserve()
    except StoreError:
        return  # still full


def _parts_of(store: Store, image: Image) -> Iterator[_Thing]:
    """All that there is, or may be, of an image; in the same order."""
    digests = sorted(map(Digest, image.parts))
    for digest in digests:
        yield _Thing("prepared", digest, f"{store.root}/prepared/{digest.hex}", 0)
    for digest in digests:
        for path in store.snapshot_places(digest):
            yield _Thing("tree", digest, path, 0)
    for kind, blobs in (("blob", store.blobs), ("tar", store.tars)):
        for digest in digests:
            size = blobs.size(digest)
            if size is not None:
                yield _Thing(kind, digest, blobs.path(digest), size)


def _move(grave: Grave, things: Iterable[_Thing], kept: set[str]) -> list[tuple[_Thing, str]]:
    """Move away what is not kept; what it was, and where it is now."""
    moved = []
    for thing in things:
        if thing.digest not in kept:
            now = grave.take(thing.path)
            if now is not None:
                moved.append((thing, now))
    return moved


def _bury(grave: Grave, things: Iterable[_Thing], kept: set[str]) -> list[Gone]:
    return [Gone(thing.kind, thing.digest, thing.size or 0) for thing, _ in _move(grave, things, kept)]


def _size(thing: _Thing) -> int:
    return space(thing.path) if thing.size is None else thing.size


def _may_go(marks: Marks, entry: Named, unused: bool, needed: Needed) -> bool:
    if entry.name is not None and not unused:
        return False
    if entry.descriptor.digest in needed.leased:
        return False
    try:
        return not marks.of(entry.descriptor).runs_in(needed.used)
    except StoreError as err:
        if _passing(err):
            raise
        return True  # damaged: no container can be made of it


def _image_or_nothing(marks: Marks, given: Descriptor) -> Image:
    """What the image is made of; only its manifest, when it is damaged: the rest is then found by `gc`."""
    try:
        return marks.of(given)
    except StoreError as err:
        if _passing(err):
            raise
        return Image(frozenset({str(given.digest)}), "", "")


def _passing(err: StoreError) -> bool:
    """Whether it says something of the machine, not of the store."""
    return isinstance(err.__cause__, OSError) and err.__cause__.errno not in (ENOENT, EIO)
