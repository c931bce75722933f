"""What differs between images and containers: which two trees to compare, and which part of them has to be looked at."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager

from runtime.roots import LOOKED_AT, Subject, lowers_of, maps_of, merged, open_merged, upper_of
from runtime.state import Container
from store.compare import Change, Hidden, always, compare, never
from store.errors import RunError
from store.faults import Attempt
from store.images import Layer
from store.layout import Store
from store.overlay import mount_overlay
from store.private import is_whole
from store.record import Record
from store.touched import Guide, of_layers, of_upper
from store.walk import Owners, open_below, walk

_NOTHING: Hidden = ((), ())


class Pair(Record):
    """Two trees, `old` and `new` (descriptors), and where they can differ (`guide`, see store.touched)."""

    old: int
    new: int
    guide: Guide | None
    hidden: Hidden = _NOTHING
    owners: tuple[Owners | None, Owners | None] = (None, None)

    def changes(self, *, times: bool) -> list[Change]:
        """What differs, in the order of the paths' bytes; `times`: also what differs in nothing but its time."""
        found = compare(
            self.old, self.new, guide=self.guide, times=always if times else never, hidden=self.hidden, owners=self.owners
        )
        return sorted(found, key=lambda change: change.path)


@contextmanager
def own(container: Container) -> Iterator[Pair]:
    """A container's image, and the container: only what its upper directory has is looked at. RunError where it has none."""
    if container.record.get("rootfs"):
        raise RunError(
            f"container {container.name} is of no image: it writes into {container.record['rootfs']} itself",
            hint="name two images or containers to compare",
        )
    whole = is_whole(upper_of(container))
    guide = None if whole else of_upper(upper_of(container))
    with ExitStack() as stack:
        with Attempt("mount the container's image"):
            lowers = [*lowers_of(container), container.root + "/skeleton"]
            old = _closing(stack, mount_overlay(lowers, attributes=LOOKED_AT))
        hidden = ((), _added_by_box(Subject(container.name, container=container))) if whole else ((), ())
        owners = (None, _owners(container))
        yield Pair(old, _closing(stack, open_merged(container)), guide, hidden, owners)


@contextmanager
def of_stacks(store: Store, old: Sequence[Layer], new: Sequence[Layer]) -> Iterator[Pair]:
    """Two stacks of layers. What they share from below is the same; of the rest the layers' own tars say what they touch."""
    shared = 0
    for one, other in zip(old, new, strict=False):
        if one.chain_id != other.chain_id:
            break
        shared += 1
    with ExitStack() as stack:
        views = [_closing(stack, store.snapshots.view(old)), _closing(stack, store.snapshots.view(new))]
        guide: Guide | None = None
        if shared:
            base = _closing(stack, store.snapshots.view(old[:shared]))
            guide = of_layers(store, [*old[shared:], *new[shared:]], [base, *views])
        yield Pair(views[0], views[1], guide)


@contextmanager
def between(store: Store, old: Subject, new: Subject) -> Iterator[Pair]:
    """Any two images or containers."""
    if old.image is not None and new.image is not None:
        with of_stacks(store, old.image.layers, new.image.layers) as pair:
            yield pair
        return
    owners = (_owners(old.container), _owners(new.container))
    with merged(store, old) as before, merged(store, new) as after:
        yield Pair(before, after, None, (_added_by_box(old), _added_by_box(new)), owners)


def _owners(container: Container | None) -> Owners | None:
    maps = maps_of(container) if container is not None else None
    return maps.inside if maps is not None else None


def _added_by_box(subject: Subject) -> Collection[bytes]:
    """The mount points that a container's root has from neither its image nor itself (see runtime.rootfs.make_skeleton)."""
    if subject.container is None:
        return ()
    container = subject.container
    skeleton = container.root + "/skeleton"
    uppers = [] if is_whole(upper_of(container)) else [upper_of(container)]  # a whole one has the skeleton's names, too
    with ExitStack() as stack:
        empty = f"{container.root}/snapshots/empty"
        tree = _closing(stack, mount_overlay([*uppers, *lowers_of(container), empty], attributes=LOOKED_AT))
        top = _closing(stack, os.open(skeleton, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        return frozenset(node.path for node in walk(top) if not _has(tree, node.path))


def _has(tree: int, path: bytes) -> bool:
    try:
        os.close(open_below(tree, path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC))
    except OSError:
        return False
    return True


def _closing(stack: ExitStack, descriptor: int) -> int:
    stack.callback(os.close, descriptor)
    return descriptor
