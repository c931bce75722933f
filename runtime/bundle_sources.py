"""What a bundle's mounts show that the parent can make ready: trees of the machine, and file systems in memory that begin with
what they cover. Each is a detached mount, which goes when its descriptor is closed."""

import posix as os

from runtime.bundle_mounts import BundleMount
from store.errors import RunError
from store.syscalls import (
    AT_FDCWD,
    AT_RECURSIVE,
    MOUNT_ATTR_IDMAP,
    MOUNT_ATTR_RDONLY,
    MS_PRIVATE,
    MS_REC,
    OPEN_TREE_CLONE,
    mount_setattr,
    new_filesystem,
    open_tree,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from runtime.bundle_users import Users

_EINVAL = 22
_SUPERBLOCK_FLAGS = {16: "sync", 64: "mand", 128: "dirsync", 1 << 25: "lazytime"}


def clone(wanted: BundleMount, users: "Users | None") -> int:
    """The tree of the machine that is to be bound, with its attributes. `users` is the container's user namespace. Raises OSError
    or RunError."""
    try:
        source = open_tree(AT_FDCWD, wanted.source, OPEN_TREE_CLONE | (AT_RECURSIVE if wanted.recursive else 0))
    except FileNotFoundError as err:
        raise RunError(f"cannot bind {wanted.source}: no such file or directory") from err
    try:
        propagation = wanted.propagation or MS_PRIVATE | MS_REC
        mount_setattr(source, 0, propagation=propagation & ~MS_REC, recursive=bool(propagation & MS_REC))
        if wanted.mapped:
            _map(source, wanted, users)
        if wanted.attributes or wanted.cleared:
            mount_setattr(source, wanted.attributes, clear=wanted.cleared)
        if wanted.deep_attributes or wanted.deep_cleared:
            mount_setattr(source, wanted.deep_attributes, clear=wanted.deep_cleared, recursive=True)
    except BaseException:
        os.close(source)
        raise
    return source


def _map(source: int, wanted: BundleMount, users: "Users | None") -> None:
    """Show the owners of `source` as the mount's maps say, or without maps as the container's user namespace has them."""
    from runtime.bundle_users import id_maps
    from runtime.id_maps import make_namespace

    maps = id_maps(wanted.place.get("uidMappings"), wanted.place.get("gidMappings"))
    if maps is None and users is None:
        raise RunError(
            f"config.json: {wanted.place.path} is {wanted.mapped}, and neither it nor the container has maps of ids",
            hint="give it uidMappings and gidMappings, or the container a user namespace",
        )
    namespace = make_namespace(maps) if maps else users.namespace() if users else -1
    try:
        mount_setattr(source, MOUNT_ATTR_IDMAP, mapping=namespace, recursive=wanted.mapped == "ridmap")
    except OSError as err:
        if err.errno != _EINVAL:
            raise
        raise RunError(
            f"cannot show {wanted.source} with other owners: its file system has no id-mapped mounts, or it is mapped already",
            hint="leave out idmap and the maps of the mount, or keep it on ext4, xfs, btrfs or tmpfs",
        ) from err
    finally:
        os.close(namespace)


def copy_up(wanted: BundleMount, covered: int) -> int:
    """A tmpfs that begins with what lies in the directory `covered`, which it is to cover. Raises OSError or StoreError."""
    from store.copies import copy_tree

    options = wanted.own_options()
    given = {name for name, _ in options}
    above = [
        ("source", wanted.source or "tmpfs"),
        *[(name, None) for bit, name in _SUPERBLOCK_FLAGS.items() if wanted.flags & bit],
    ]
    opened = [new_filesystem("tmpfs", [*above, *options], wanted.attributes & ~MOUNT_ATTR_RDONLY)]
    try:
        opened.append(os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=covered))
        opened.append(os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=opened[0]))
        source, theirs, ours = opened
        before = os.fstat(ours)
        copy_tree(theirs, ours)
        os.fchown(ours, before.st_uid if "uid" in given else -1, before.st_gid if "gid" in given else -1)
        os.fchmod(ours, before.st_mode & 0o7777)  # as the options say
        if wanted.attributes & MOUNT_ATTR_RDONLY:
            mount_setattr(source, MOUNT_ATTR_RDONLY)
        if wanted.propagation:
            mount_setattr(source, 0, propagation=wanted.propagation & ~MS_REC)
    except BaseException:
        os.close(opened[0])
        raise
    finally:
        for descriptor in opened[1:]:
            os.close(descriptor)
    return source
