"""Whether the tree of a layer is what its tar makes: compared with one that is made anew."""

from __future__ import annotations

import os
from collections.abc import Iterator

from store.attributes import OPAQUE
from store.compare import ADDED, DELETED, Change, Seen, compare
from store.tar_read import shown

_WORDS = {ADDED: "is not from the layer", DELETED: "is missing"}


def difference(made: int, kept: int) -> str | None:
    """The first difference of the tree open as `kept` from the one open as `made`, None when they are the same: names, types,
    modes, owners, sizes, contents, links, devices, extended attributes, what hides the layers below, and times but those of
    directories, of which a layer may say nothing."""
    changes = [change for change in compare(made, kept, times=_count) if not _may_differ(change)]
    if changes:
        return _said(min(changes, key=lambda change: change.path), len(changes))
    opaque = set(_opaque(made)) ^ set(_opaque(kept))
    if opaque:
        return f"{shown(min(opaque)) or chr(47)} hides what lies below it, or should"
    return None


def _may_differ(change: Change) -> bool:
    if change.what == ("time",):
        return not change.path
    # Of a whiteout it says nothing who made it.
    return change.what == ("owner",) and change.old is not None and _is_whiteout(change.old)


def _count(old: Seen, new: Seen) -> bool:
    return old.kind != "directory" and not _is_whiteout(old)


def _is_whiteout(seen: Seen) -> bool:
    return seen.kind == "character device" and seen.device == (0, 0)


def _said(change: Change, number: int) -> str:
    what = _WORDS.get(change.kind) or f"has another {', '.join(change.what)} than in the layer"
    others = f", and {number - 1} more" if number > 1 else ""
    return f"/{shown(change.path)} {what}{others}"


def _opaque(top: int) -> Iterator[bytes]:
    """The directories that hide what lies below them in other layers."""
    for directory, _, _, descriptor in os.fwalk(".", dir_fd=top):
        try:
            if os.getxattr(f"/proc/self/fd/{descriptor}", OPAQUE) == b"y":
                yield os.fsencode(directory)[1:]
        except OSError:
            continue
