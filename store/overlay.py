"""Mounting a stack of trees as one: overlayfs, as a detached mount that is nowhere to be seen and goes when its descriptor is
closed.

Source: Documentation/filesystems/overlayfs.rst. Hot: imports only `os` and the leaf.
"""

import posix as os

from store.erofs_mount import mount_index
from store.errors import StoreError
from store.prepared import in_user_namespace
from store.syscalls import new_filesystem

_OPTION_LIMIT = 255  # fsconfig(2) takes no longer string
_EINVAL = 22
# EPERM EACCES ENODEV EINVAL ENOSYS EOPNOTSUPP: no overlayfs, none on this file system, or not in this way.
_REFUSED = (1, 13, 19, _EINVAL, 38, 95)
# Distributions differ in these defaults, and each would put marks into an upper that no layer can carry.
_FIXED: tuple[tuple[str, str | None], ...] = (("redirect_dir", "nofollow"), ("metacopy", "off"), ("index", "off"))

attached = False  # whether indexes are to be mounted as kernels before 6.15 want it: for tests

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


def mount_overlay(
    lowers: "Sequence[str]",
    upper: str | None = None,
    work: str | None = None,
    *,
    volatile: bool = False,
    attributes: int = 0,
    mapping: int = -1,
) -> int:
    """The descriptor of a detached overlay mount of `lowers`, the topmost first; with `upper` and `work` it can be written.
    Each lower is a directory, or an EROFS index, which is mounted for this.

    `volatile` leaves out every sync, also the one at its end (which would wait for all dirty data of the file system): for an
    upper that is thrown away, or synced by other means. `attributes` are MOUNT_ATTR_*. Raises OSError, or StoreError where
    this kernel cannot stack so many.

    `mapping` is a descriptor of a user namespace: what belongs to user 0 in the lowers and in `upper` is seen as its user 0's,
    though they stay as they are. It must have a place for this process' own user too, as which overlayfs makes whiteouts.
    `upper` and `work` are then in one directory.

    Where overlayfs cannot be mounted and the first of the lowers is a tree of the `copy` driver, it is a private copy of that
    (store/private.py).

    Trees are named through /proc/self/fd: short whatever the store's path is, and without the characters that mean something to
    overlayfs.
    """
    paths: dict[int, str | None] = {}  # of the descriptors; a detached mount has an empty one, what is in one has none
    try:
        for path in lowers:  # one by one, so that those before a failure are closed
            if mapping >= 0:
                from store.clones import mapped_lower

                paths[mapped_lower(path, mapping)] = ""
            elif path.endswith(".erofs"):
                paths[mount_index(path)] = ""
            else:
                paths[os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)] = path
        options: list[tuple[str, str | None]] = [("lowerdir+", f"/proc/self/fd/{descriptor}") for descriptor in paths]
        options += _FIXED
        if in_user_namespace():
            options.append(("userxattr", None))
        if upper is not None and work is not None:
            mapped = -1
            if mapping >= 0:
                from store.clones import clone_tree

                mapped = clone_tree(upper.rpartition("/")[0], mapping=mapping)
                paths[mapped] = ""
            for key, path in (("upperdir", upper), ("workdir", work)):
                name, directory = (path.rpartition("/")[2], mapped) if mapped >= 0 else (path, None)
                descriptor = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=directory)
                paths[descriptor] = path if mapped < 0 else None
                options.append((key, f"/proc/self/fd/{descriptor}"))
        if volatile:
            options.append(("volatile", None))
        try:
            if attached:
                raise OSError(_EINVAL, "as an older kernel")
            return new_filesystem("overlay", options, attributes)
        except OSError as err:
            if err.errno not in _REFUSED:
                raise
            return _mount_otherwise(lowers, upper, paths, options, attributes, mapping, err)
    finally:
        for descriptor in paths:
            os.close(descriptor)


def _mount_otherwise(
    lowers: "Sequence[str]",
    upper: str | None,
    paths: "dict[int, str | None]",
    options: "list[tuple[str, str | None]]",
    attributes: int,
    mapping: int,
    error: OSError,
) -> int:
    """The ways that other kernels and places want; the `error` where there is none."""
    if error.errno == _EINVAL and "" in paths.values():
        from store.attached import mount_attached

        return mount_attached(paths, options, attributes)
    if error.errno == _EINVAL:  # Linux before 6.5 has no lowerdir+
        joined = ":".join([value for key, value in options if key == "lowerdir+" and value is not None])
        if len(joined) <= _OPTION_LIMIT:
            others = [option for option in options if option[0] != "lowerdir+"]
            try:
                return new_filesystem("overlay", [("lowerdir", joined), *others], attributes)
            except OSError as err:
                error = err
        elif not _copied(lowers):
            raise StoreError(
                f"this kernel cannot stack {len(lowers)} layers by descriptor",
                hint="Linux 6.5 and later can; or build from fewer steps",
            )
    if _copied(lowers):
        from store.private import private_tree, suits

        if not suits(upper):
            raise error
        return private_tree(lowers, upper, attributes, mapping)
    raise error


def _copied(lowers: "Sequence[str]") -> bool:
    return any("/copies/" in path for path in lowers[:2])  # an ended container's upper may be above it
