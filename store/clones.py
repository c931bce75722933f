"""A tree of files seen through a mount of its own: detached, and gone when its descriptor is closed."""

import posix as os

from store.erofs_mount import mount_index
from store.syscalls import AT_FDCWD, MOUNT_ATTR_IDMAP, OPEN_TREE_CLONE, mount_setattr, open_tree


def clone_tree(path: str, attributes: int = 0, *, mapping: int = -1) -> int:
    """The descriptor of a detached clone of what is mounted at the directory `path`, from there down, with MOUNT_ATTR_*
    `attributes` on it; mounts below are not in it. OSError when the kernel refuses.

    `mapping` is a descriptor of a user namespace: files belong to whom its user 0, 1, ... are (MOUNT_ATTR_IDMAP).
    """
    clone = open_tree(AT_FDCWD, path, OPEN_TREE_CLONE)
    try:
        _dress(clone, attributes, mapping)
    except BaseException:
        os.close(clone)
        raise
    return clone


def mapped_lower(path: str, mapping: int) -> int:
    """A tree, or the index of one, in a mount of its own with this `mapping`."""
    if not path.endswith(".erofs"):
        return clone_tree(path, mapping=mapping)
    mount = mount_index(path)
    try:
        _dress(mount, 0, mapping)
    except BaseException:
        os.close(mount)
        raise
    return mount


def _dress(mount: int, attributes: int, mapping: int) -> None:
    if mapping >= 0:
        mount_setattr(mount, attributes | MOUNT_ATTR_IDMAP, mapping=mapping)
    elif attributes:
        mount_setattr(mount, attributes)
