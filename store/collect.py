"""Deleting images, and whatever nothing uses any more.

A blob may go when no image in index.json reaches it and nobody is making something of it: deletion holds the store's exclusive
lock, everyone who makes blobs holds the shared one. The name goes first and for good; being killed after that leaves blobs that
the next `prune` finds. `keep` and `used` are asked once the lock is held, and say which digests to spare: layers of a build
cache, and chain ids that containers stand on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from store.digest import INDEXES, Descriptor, Digest
from store.documents import descriptor, list_at, object_at, parse_object
from store.errors import StoreError
from store.faults import Attempt
from store.layout import Store
from store.record import Record
from store.references import Named

PATIENCE = 2.0  # seconds to wait for a `box run` that is just starting; a build is not waited for

Keep = Callable[[], Iterable[str]]


def keep_nothing() -> Iterable[str]:
    """The `keep` of a store without containers and cache."""
    return ()


class Deleted(Record):
    """What went: names, images, bytes of blobs. `deferred`: a build was using the store, so the blobs wait for a prune."""

    names: tuple[str, ...] = ()
    images: tuple[Digest, ...] = ()
    freed: int = 0
    deferred: bool = False


class _Reach:
    """What a set of images is made of."""

    __slots__ = ("blobs", "chains", "diffs")

    def __init__(self, blobs: set[str], diffs: set[str], chains: set[str]) -> None:
        self.blobs = blobs
        self.diffs = diffs
        self.chains = chains

    @classmethod
    def of(cls, store: Store, images: Iterable[Descriptor]) -> _Reach:
        reach = cls(set(), set(), set())
        for given in images:
            reach.add(store, given)
        return reach

    def add(self, store: Store, given: Descriptor) -> None:
        self.blobs.add(given.digest)
        if given.media_type in INDEXES:  # another tool's; box itself keeps one platform's manifest
            what = f"index {given.digest}"
            for item in list_at(parse_object(store.blobs.read(given), what), "manifests", what):
                child = descriptor(item, what)
                if store.blobs.has(child.digest):
                    self._add_manifest(store, child)
        image = store.images.load(given)
        self.blobs.add(image.config_descriptor.digest)
        for layer in image.layers:
            self.blobs.add(layer.descriptor.digest)
            self.diffs.add(layer.diff_id)
            self.chains.add(layer.chain_id)

    def _add_manifest(self, store: Store, given: Descriptor) -> None:
        """All that a manifest of any kind names (an attestation is no image)."""
        what = f"manifest {given.digest}"
        manifest = parse_object(store.blobs.read(given), what)
        self.blobs.add(given.digest)
        for item in (object_at(manifest, "config", what), *list_at(manifest, "layers", what)):
            self.blobs.add(descriptor(item, what).digest)


def delete_image(
    store: Store, text: str, *, force: bool = False, keep: Keep = keep_nothing, used: Keep = keep_nothing
) -> Deleted:
    """Delete the image that `text` means, as docker does: by one of several names, only that name goes; by its last name or by
    its id, the image with all that no other image shares.

    `used` gives the chain ids that containers stand on. ReferenceMissing when there is no such image; StoreError when a container
    needs it, or when an id has several names. With `force` all names go; what a container needs stays as an image without one.
    """
    with store.exclusive(patience=PATIENCE) as alone:
        entries = store.references.all()
        target = store.references.resolve(text)
        digest = target.descriptor.digest
        names = [entry.name for entry in entries if entry.descriptor.digest == digest and entry.name is not None]
        if target.name is not None and len(names) > 1:
            store.references.delete(target.name)
            return Deleted((target.name,))
        if target.name is None and len(names) > 1 and not force:
            raise StoreError(f"image {text!r} has several names: {', '.join(names)}", hint="delete one of them, or use --force")
        others = [entry.descriptor for entry in entries if entry.descriptor.digest != digest]
        standing = set(used())
        needed = _needed(store, target, others, standing)
        if needed and not (force and names):
            raise StoreError(
                f"image {text!r} is used by a container",
                hint="`box ps -a` shows which; remove it first (--force drops the name)",
            )
        if needed or not alone:
            for name in names:
                store.references.delete(name)
            return Deleted(tuple(names), deferred=not needed)
        kept = _reach_of_others(store, others)
        mine = _reach_or_nothing(store, target.descriptor)
        store.references.forget([digest])
        spared = {*keep(), *standing}
        freed = _delete(store, mine, kept, spared, [digest])
        return Deleted(tuple(names), (digest,), freed)


def prune(store: Store, *, unused: bool = False, keep: Keep = keep_nothing, used: Keep = keep_nothing) -> Deleted:
    """Delete images without a name (with `unused`, all that no container uses), and all blobs, tars and trees out of reach.

    Waits for nobody: `deferred` when a build is running.
    """
    with store.exclusive(patience=PATIENCE) as alone:
        if not alone:
            return Deleted(deferred=True)
        entries = store.references.all()
        standing = set(used())
        names: list[str] = []
        digests: list[Digest] = []
        images: list[Descriptor] = []
        for entry in entries:
            if _may_go(store, entry, unused, standing):
                digests.append(entry.descriptor.digest)
                names += [entry.name] if entry.name is not None else []
            else:
                images.append(entry.descriptor)
        kept = _reach_of_others(store, images)
        if digests:
            store.references.forget(digests)
        spared = {*keep(), *standing}
        with Attempt("list what is in the store"):
            blobs = {str(digest) for digest, _ in store.blobs.all()}
            tars = {str(digest) for digest, _ in store.tars.all()}
            everything = _Reach(blobs, tars, set(store.snapshots.all()))
            prepared = store.prepared()
        known = {given.digest for given in images}
        freed = _delete(store, everything, kept, spared, [manifest for manifest in prepared if manifest not in known])
        return Deleted(tuple(names), tuple(dict.fromkeys(digests)), freed)


def _may_go(store: Store, entry: Named, unused: bool, standing: set[str]) -> bool:
    if entry.name is not None and not unused:
        return False
    try:
        return not standing.intersection(_Reach.of(store, [entry.descriptor]).chains)
    except StoreError:
        return True  # damaged: no container can be made of it


def _needed(store: Store, target: Named, others: list[Descriptor], standing: set[str]) -> bool:
    """Whether a container stands on a tree that only this image keeps."""
    chains = _reach_or_nothing(store, target.descriptor).chains & standing
    return bool(chains) and not chains <= _reach_of_others(store, others).chains


def _reach_or_nothing(store: Store, given: Descriptor) -> _Reach:
    """What the image is made of; only its manifest, when it is damaged: the rest is then found by a prune."""
    try:
        return _Reach.of(store, [given])
    except StoreError:
        return _Reach({given.digest}, set(), set())


def _reach_of_others(store: Store, others: Iterable[Descriptor]) -> _Reach:
    reach = _Reach(set(), set(), set())
    for given in others:
        try:
            reach.add(store, given)
        except StoreError as err:
            # Its layers are not known, so none may be deleted.
            raise StoreError(
                f"nothing was deleted, since image {given.digest.hex[:12]} is damaged: {err.message}",
                hint=f"delete that one first: box rmi {given.digest.hex[:12]}",
            ) from err
    return reach


def _delete(store: Store, candidates: _Reach, kept: _Reach, spared: set[str], images: Iterable[Digest]) -> int:
    """Delete the candidates that are not kept; prepared files before trees, trees before the tars they are made of."""
    freed = 0
    with Attempt("delete what no image uses"):
        for digest in images:
            store.forget_prepared(digest)
        for chain in candidates.chains - kept.chains - spared:
            store.snapshots.delete(chain)
        for blob in candidates.blobs - kept.blobs - spared:
            freed += store.blobs.delete(Digest(blob))
        for diff_id in candidates.diffs - kept.diffs - spared:
            freed += store.tars.delete(Digest(diff_id))
    return freed
