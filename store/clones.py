"""A tree of files seen through a mount of its own: detached, and gone when its descriptor is closed."""

import os

from store.syscalls import AT_FDCWD, OPEN_TREE_CLONE, mount_setattr, open_tree


def clone_tree(path: str, attributes: int = 0) -> int:
    """The descriptor of a detached clone of what is mounted at the directory `path`, from there down, with MOUNT_ATTR_*
    `attributes` on it; mounts below are not in it. OSError when the kernel refuses."""
    clone = open_tree(AT_FDCWD, path, OPEN_TREE_CLONE)
    try:
        if attributes:
            mount_setattr(clone, attributes)
    except BaseException:
        os.close(clone)
        raise
    return clone
