"""Stores with one safeguard taken out: `mutate(NAME)`, for the rest of the process or while the context lasts.

Each has a test that must notice it.
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from store import blobs, drafts, grave, layout, leases, locks, marks, references, snapshot_erofs, snapshot_overlay
from store.digest import Digest
from store.images import Layer
from tests.crash import actions

Patch = Callable[[object, str, object], None]


def _only(kind: Callable[[int], bool]) -> Callable[[int], None]:
    fsync = os.fsync

    def sync(descriptor: int) -> None:
        if kind(os.fstat(descriptor).st_mode):
            fsync(descriptor)

    return sync


def _sync_and_try_again() -> Callable[[int], None]:
    fsync = os.fsync

    def sync(descriptor: int) -> None:
        try:
            fsync(descriptor)
        except OSError:
            fsync(descriptor)

    return sync


def _write_in_place(self: drafts.Drafts, path: str, data: bytes, *, durable: bool) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.write(descriptor, data)
    os.fsync(descriptor)
    os.close(descriptor)


def _slowly() -> Callable[..., None]:
    replace = drafts.Drafts.replace

    def replace_slowly(self: drafts.Drafts, path: str, data: bytes, *, durable: bool) -> None:
        time.sleep(0.02)
        replace(self, path, data, durable=durable)

    return replace_slowly


def _write_under_its_name(self: blobs.BlobDraft, data: bytes) -> None:
    self._hasher.update(data)
    self.size += len(data)
    self.publish(blobs.Descriptor("", self.digest(), self.size))
    drafts.write_all(self.fileno(), data)


def _commit_what_lies_there(self: blobs.BlobDraft, media_type: str, expected: object = None) -> blobs.Descriptor:
    return self.seal(media_type)


@contextmanager
def _never_shut(self: layout.Store, *, patience: float) -> Iterator[bool]:
    yield True


def _without_passing(self: leases.Lease, *digests: str) -> None:
    assert self._draft is not None
    drafts.write_all(self._draft.descriptor, ("\n" + "\n".join(digests) + "\n").encode())


def _references_first(cls: type[marks.Needed], store: layout.Store, keep: marks.Keep, used: marks.Used) -> marks.Needed:
    entries = store.references.all()
    in_use = used()
    os.stat(store.root)  # so that something can happen in between
    return cls(leases.leased(store.drafts.path, but=store.lease), in_use, set(keep()), entries)


def _delete_in_place(self: grave.Grave, path: str) -> str | None:
    if not os.path.lexists(path):
        return None
    if os.path.isdir(path):
        grave.delete_tree(f"{path}/tree")
    grave.delete_tree(path)
    return ""


def _attempt_whatever(path: str, *, patience: float = 0.0) -> locks.Lock:
    lock = locks.Lock.__new__(locks.Lock)
    lock.descriptor = os.open(path, os.O_RDONLY)
    return lock


def _believe_everything(self: snapshot_overlay.OverlayDriver, chain_id: str) -> bool:
    return os.path.lexists(self._tree(chain_id))


def _publish_first(self: snapshot_overlay.OverlayDriver, layer: object, lowers: object) -> None:
    place = os.path.dirname(self._tree(layer.chain_id))  # type: ignore[attr-defined]
    os.makedirs(f"{place}/tree")
    self._complete(place)
    tree = os.open(f"{place}/tree", os.O_RDONLY)
    for name, data in ((b"file", b"old"), (b"other", b"the same")):
        os.makedirs(f"{place}/tree/d", exist_ok=True)
        with open(os.fsencode(f"{place}/tree/d/") + name, "wb") as file:
            file.write(data)
    os.close(tree)


def _write_index_in_place(self: snapshot_erofs.ErofsDriver, layer: Layer, layers: int, data: bytes, aside: object = None) -> None:
    home = f"{self._directory}/{layer.chain_id.hex}"
    os.makedirs(home, exist_ok=True)
    self.drafts.replace(f"{home}/{layers}.checked", f"{self._boot}\n".encode(), durable=False)
    descriptor = os.open(f"{home}/{layers}.erofs", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    for half in (data[:-100], data[-100:]):
        os.write(descriptor, half)
    os.close(descriptor)


def _copy_into_place(self: blobs.Blobs, path: str, digest: Digest) -> None:
    self.use(digest)
    with open(path, "rb") as file:
        data = file.read()
    descriptor = os.open(self.path(digest), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    for half in (data[:600], data[600:]):
        os.write(descriptor, half)
    os.fsync(descriptor)
    os.close(descriptor)
    os.unlink(path)


def _patches(mutant: str, patch: Patch) -> None:
    if mutant == "only-directories-are-synced":
        patch(os, "fsync", _only(stat.S_ISDIR))
    elif mutant == "only-files-are-synced":
        patch(os, "fsync", _only(stat.S_ISREG))
    elif mutant == "a-failed-sync-is-tried-again":
        patch(os, "fsync", _sync_and_try_again())
    elif mutant == "the-index-is-written-in-place":
        patch(drafts.Drafts, "replace", _write_in_place)
    elif mutant == "blobs-are-written-under-their-names":
        patch(blobs.BlobDraft, "write", _write_under_its_name)
        patch(blobs.BlobDraft, "commit", _commit_what_lies_there)
    elif mutant in ("slow", "slow-and-without-locks"):
        patch(drafts.Drafts, "replace", _slowly())
        if mutant != "slow":
            patch(locks.fcntl, "flock", lambda descriptor, operation: None)
    elif mutant == "the-gate-is-never-shut":
        patch(layout.Store, "exclusive", _never_shut)
    elif mutant == "the-gate-is-not-passed":
        patch(leases.Lease, "add", _without_passing)
    elif mutant == "leases-are-not-read":
        patch(marks, "leased", lambda drafts, *, but="": set())
    elif mutant == "references-are-read-before-leases":
        patch(layout.Store, "exclusive", _never_shut)
        patch(marks.Needed, "now", classmethod(_references_first))
    elif mutant == "nothing-is-named":
        patch(leases.Lease, "add", lambda self, *digests: None)
    elif mutant == "leases-are-not-locked":
        patch(drafts, "fcntl", types.SimpleNamespace(flock=lambda descriptor, operation: None, LOCK_EX=2))
    elif mutant == "the-index-is-not-locked":
        patch(drafts.Drafts, "replace", _slowly())
        patch(references, "Lock", lambda path: contextlib.nullcontext())
    elif mutant == "drafts-are-swept-locked-or-not":
        patch(locks.Lock, "attempt", staticmethod(_attempt_whatever))
    elif mutant == "trees-are-deleted-where-they-lie":
        patch(grave.Grave, "take", _delete_in_place)
    elif mutant == "trees-are-published-before-they-are-whole":
        patch(snapshot_overlay.OverlayDriver, "_make", _publish_first)
    elif mutant == "indexes-are-written-where-they-lie":
        patch(snapshot_erofs.ErofsDriver, "publish", _write_index_in_place)
    elif mutant == "tars-are-copied-into-their-places":
        patch(blobs.Blobs, "take", _copy_into_place)
    elif mutant == "a-run-keeps-no-guard":
        from boxcli.verbs import run

        patch(run, "_keep_images", lambda root: -1)
    elif mutant == "blobs-go-before-their-names":
        patch(actions, "delete_image", _blobs_first)
    else:
        raise SystemExit(f"no mutant {mutant}")


def _blobs_first(store: layout.Store, text: str, **_: object) -> None:
    image = store.images.load(store.references.get(text))
    for layer in image.layers:
        os.unlink(store.blobs.path(layer.descriptor.digest))
    store.references.forget([image.descriptor.digest])


def mutate(mutant: str) -> None:
    """Take the safeguard out for good."""
    _patches(mutant, setattr)


@contextmanager
def mutated(mutant: str) -> Iterator[None]:
    """Take the safeguard out in this block; an empty name takes out none."""
    undone: list[tuple[object, str, object]] = []

    def patch(owner: object, name: str, value: object) -> None:
        undone.append((owner, name, vars(owner)[name]))
        setattr(owner, name, value)

    if mutant:
        _patches(mutant, patch)
    try:
        yield
    finally:
        for owner, name, value in reversed(undone):
            setattr(owner, name, value)
