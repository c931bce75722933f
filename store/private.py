"""Where overlayfs cannot be mounted: a copy of an image's tree in place of an overlay's upper directory.

Such an upper is whole: it has all files, and a mark that says so. It is what a container or a build step writes to, and is
deleted with it.
"""

import os

from store.attributes import OVERLAY
from store.clones import clone_tree
from store.copies import copy_tree
from store.syscalls import RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS, openat2
from store.trees import delete_tree

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

# Of overlayfs' own, so that no layer, no copy and no comparison takes it for an image's.
_WHOLE = os.fsdecode(OVERLAY) + "whole"
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW


def is_whole(upper: str) -> bool:
    """Whether the directory `upper` has all files, not only what was changed."""
    try:
        return os.getxattr(upper, _WHOLE) == b"y"
    except OSError:
        return False


def suits(upper: "str | None") -> bool:
    """Whether the directory is whole or can become so: what has an overlay's changes in it must not be mixed with a copy."""
    return upper is None or is_whole(upper) or not os.listdir(upper)


def private_tree(lowers: "Sequence[str]", upper: "str | None", attributes: int, mapping: int = -1) -> int:
    """What mount_overlay gives, of directories of which the first has all files of an image: a detached clone of it; or with
    `upper` of that, made a whole copy where it is none yet. The other lowers add names that are missing in the copy.

    The copy's root has the mode and the owner of `upper`; but with a `mapping` its files belong to whom they do in the image.
    """
    if upper is None:
        return clone_tree(lowers[0], attributes, mapping=mapping)
    if not is_whole(upper):
        target = os.open(upper, _DIRECTORY)
        try:
            status = os.fstat(target)
            for number, lower in enumerate(lowers):
                source = os.open(lower, _DIRECTORY)
                try:
                    copy_tree(source, target, missing=number > 0)
                finally:
                    os.close(source)
            if mapping < 0:
                os.chown(target, status.st_uid, status.st_gid)
            os.chmod(target, status.st_mode & 0o7777)
        finally:
            os.close(target)
        os.setxattr(upper, _WHOLE, b"y")
    return clone_tree(upper, attributes, mapping=mapping)


def reduce(upper: str, below: int) -> "list[bytes]":
    """Leave of the whole `upper` what an overlay's upper directory would have on top of the tree open as `below`: what differs,
    and the directories that lead there. Returns the paths of what is gone, and would have a whiteout."""
    from store.compare import DELETED, always, compare

    tree = os.open(upper, _DIRECTORY)
    try:
        kept = {b""}
        gone: list[bytes] = []
        for change in compare(below, tree, times=always):
            if change.kind == DELETED:
                gone.append(change.path)
                _add(change.path.rpartition(b"/")[0], kept)
            else:
                _add(change.path, kept)
        for names in _linked(tree):
            if not kept.isdisjoint(names):  # a link to a file of the image is one to the changed file
                for name in names:
                    _add(name, kept)
        _keep_only(tree, kept)
    finally:
        os.close(tree)
    os.removexattr(upper, _WHOLE)
    return gone


def _add(path: bytes, kept: "set[bytes]") -> None:
    """Add a path and all above it."""
    while path not in kept:
        kept.add(path)
        path = path.rpartition(b"/")[0]


def _linked(top: int) -> "list[list[bytes]]":
    """The names of each file that has several."""
    from store.walk import walk

    found: dict[tuple[int, int], list[bytes]] = {}
    for node in walk(top):
        if node.status.st_nlink > 1 and node.status.st_mode & 0o170000 != 0o040000:
            found.setdefault((node.status.st_dev, node.status.st_ino), []).append(node.path)
    return list(found.values())


def _keep_only(top: int, kept: "set[bytes]") -> None:
    todo = [b""]
    while todo:
        path = todo.pop()
        directory = _open(top, path)
        try:
            status = os.fstat(directory)
            for name in map(os.fsencode, os.listdir(directory)):
                whole = path + b"/" + name if path else name
                if whole not in kept:
                    delete_tree(name, dir_fd=directory)
                elif _is_directory(directory, name):
                    todo.append(whole)
            os.utime(directory, ns=(status.st_atime_ns, status.st_mtime_ns))
        finally:
            os.close(directory)


def _is_directory(directory: int, name: bytes) -> bool:
    return os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode & 0o170000 == 0o040000


def _open(top: int, path: bytes) -> int:
    return openat2(top, path or b".", _DIRECTORY, resolve=RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS)
