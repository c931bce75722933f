"""Which part of a tree can differ, known without looking at the tree: from layers' tars, or from an upper directory.

A `Guide` maps names to guides for what is below them; None is "all of it". A name that a guide does not have is the same on
both sides.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Union

from store.attributes import OPAQUE
from store.directories import WHITEOUT
from store.images import Layer
from store.lowers import is_whiteout
from store.members import members
from store.tar_read import DIRECTORY
from store.unpack import AUFS, OPAQUE_MARK
from store.walk import open_below, walk

if TYPE_CHECKING:
    from store.layout import Store

Guide = dict[bytes, Union["Guide", None]]


def mark(guide: Guide, path: bytes, *, whole: bool) -> None:
    """Add `path` to the guide, and with `whole` all below it. b"" with `whole` cannot be said by a guide."""
    here = guide
    *parents, name = path.split(b"/")
    for part in parents:
        below = here.setdefault(part, {})
        if below is None:
            return
        here = below
    if whole:
        here[name] = None
    else:
        here.setdefault(name, {})


def of_layers(store: Store, layers: Iterable[Layer], views: Sequence[int]) -> Guide | None:
    """What `layers` touch, or None where their tars alone cannot say: a name of theirs leads through a symlink.

    `views` are the merged trees below the first of them and above the last, of each stack that they belong to. A symlink on the
    way to a name is then in one of these, or a layer's own.
    """
    guide: Guide = {}
    parents: set[bytes] = set()
    others: set[bytes] = set()  # what a layer had that is no directory
    for layer in layers:
        for entry, _ in members(store, layer):
            above, _, name = entry.name.rpartition(b"/")
            parents.add(above)
            if name == OPAQUE_MARK:
                if not above:
                    return None
                mark(guide, above, whole=True)
            elif name.startswith(AUFS):
                continue
            elif name.startswith(WHITEOUT):
                others.add(_join(above, name[len(WHITEOUT) :]))
                mark(guide, _join(above, name[len(WHITEOUT) :]), whole=True)
            elif entry.kind != DIRECTORY:
                others.add(entry.name)
                mark(guide, entry.name, whole=True)
            elif entry.name:
                mark(guide, entry.name, whole=False)
    return None if any(_is_indirect(parent, others, views) for parent in parents) else guide


def _is_indirect(parent: bytes, others: set[bytes], views: Sequence[int]) -> bool:
    path = parent
    while path:
        if path in others:
            return True
        path = path.rpartition(b"/")[0]
    return any(_leads_through_a_link(view, parent) for view in views)


def _leads_through_a_link(view: int, path: bytes) -> bool:
    try:
        os.close(open_below(view, path, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC))
    except OSError as err:
        if err.errno in (errno.ENOENT, errno.ENOTDIR):
            # O_DIRECTORY with O_NOFOLLOW says ENOTDIR of a symlink, too; that something is missing may hide a link before it.
            return any(_is_link(view, above) for above in _prefixes(path))
        if err.errno != errno.ELOOP:
            raise
        return True
    return False


def _is_link(view: int, path: bytes) -> bool:
    try:
        descriptor = open_below(view, path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as err:
        if err.errno in (errno.ENOENT, errno.ENOTDIR):
            return False
        if err.errno == errno.ELOOP:
            return True
        raise
    try:
        return stat.S_ISLNK(os.fstat(descriptor).st_mode)
    finally:
        os.close(descriptor)


def _prefixes(path: bytes) -> Iterable[bytes]:
    parts = path.split(b"/")
    return (b"/".join(parts[: count + 1]) for count in range(len(parts)))


def of_upper(upper: str) -> Guide:
    """What the overlay upper directory `upper` changes of what lies below it."""
    guide: Guide = {}
    top = os.open(upper, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for node in walk(top):
            if not node.path:
                continue
            whole = not stat.S_ISDIR(node.status.st_mode) or is_whiteout(node.status) or _is_opaque(node.directory)
            mark(guide, node.path, whole=whole)
    finally:
        os.close(top)
    return guide


def _is_opaque(directory: int) -> bool:
    try:
        return os.getxattr(directory, OPAQUE) == b"y"
    except OSError:
        return False


def _join(above: bytes, name: bytes) -> bytes:
    return above + b"/" + name if above else name
