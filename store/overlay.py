"""Mounting a stack of trees as one: overlayfs, as a detached mount that is nowhere to be seen and goes when its descriptor is
closed.

Source: Documentation/filesystems/overlayfs.rst. Hot: imports only `os` and the leaf.
"""

import posix as os

from store.erofs_mount import mount_index
from store.errors import StoreError
from store.syscalls import new_filesystem

_OPTION_LIMIT = 255  # fsconfig(2) takes no longer string
_EINVAL = 22
# Distributions differ in these defaults, and each would put marks into an upper that no layer can carry.
_FIXED: tuple[tuple[str, str | None], ...] = (("redirect_dir", "nofollow"), ("metacopy", "off"), ("index", "off"))

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


def mount_overlay(
    lowers: "Sequence[str]", upper: str | None = None, work: str | None = None, *, volatile: bool = False, attributes: int = 0
) -> int:
    """The descriptor of a detached overlay mount of `lowers`, the topmost first; with `upper` and `work` it can be written.
    Each lower is a directory, or an EROFS index, which is mounted for this.

    `volatile` leaves out every sync, also the one at its end (which would wait for all dirty data of the file system): for an
    upper that is thrown away, or synced by other means. `attributes` are MOUNT_ATTR_*. Raises OSError, or StoreError where
    this kernel cannot stack so many.

    Trees are named through /proc/self/fd: short whatever the store's path is, and without the characters that mean something to
    overlayfs.
    """
    descriptors: list[int] = []
    try:
        for path in lowers:  # one by one, so that those before a failure are closed
            if path.endswith(".erofs"):
                descriptor = mount_index(path)
            else:
                descriptor = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            descriptors.append(descriptor)
        names = [f"/proc/self/fd/{descriptor}" for descriptor in descriptors]
        options: list[tuple[str, str | None]] = list(_FIXED)
        if os.geteuid() != 0:
            options.append(("userxattr", None))
        for key, directory in (("upperdir", upper), ("workdir", work)):
            if directory is not None:
                descriptors.append(os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
                options.append((key, f"/proc/self/fd/{descriptors[-1]}"))
        if volatile:
            options.append(("volatile", None))
        try:
            return new_filesystem("overlay", [("lowerdir+", name) for name in names] + options, attributes)
        except OSError as err:
            if err.errno != _EINVAL:
                raise
        joined = ":".join(names)  # Linux before 6.5 has no lowerdir+
        if len(joined) > _OPTION_LIMIT:
            raise StoreError(
                f"this kernel cannot stack {len(lowers)} layers by descriptor",
                hint="Linux 6.5 and later can; or build from fewer steps",
            )
        return new_filesystem("overlay", [("lowerdir", joined), *options], attributes)
    finally:
        for descriptor in descriptors:
            os.close(descriptor)
