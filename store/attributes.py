"""Which extended attributes belong to a layer, and setting and reading them.

A layer may carry user.*, trusted.*, file capabilities and POSIX ACLs. It may not speak for overlayfs (trusted.overlay.*,
user.overlay.*: redirects and opaque marks are the store's to set), nor for a security module of this machine (security.selinux,
security.ima, ...); those are left out in both directions.
"""

import errno
import os

from store.errors import ArchiveError, StoreError
from store.prepared import in_user_namespace
from store.tar_read import DIRECTORY, FILE, Entry, shown

# In a user namespace overlayfs keeps its marks where it may: Documentation/filesystems/overlayfs.rst, "userxattr".
OVERLAY = b"user.overlay." if in_user_namespace() else b"trusted.overlay."
OPAQUE = os.fsdecode(OVERLAY) + "opaque"
_FORGED = (b"trusted.overlay.", b"user.overlay.")
_CAPABILITY = b"security.capability"
_CAPABILITY_FORMS = ((20, b"\2"), (24, b"\3"))  # size and version, of struct vfs_cap_data and vfs_ns_cap_data
NAME_LIMIT, VALUE_LIMIT = 255, 65536
_ACLS = (b"system.posix_acl_access", b"system.posix_acl_default")
_IMPOSSIBLE = frozenset({errno.EPERM, errno.EINVAL, errno.ERANGE, errno.E2BIG, errno.ENOSPC, errno.ENODATA})


def belongs(name: bytes) -> bool:
    """Whether a layer may carry the extended attribute `name`."""
    if name.startswith((b"user.", b"trusted.")):
        return not name.startswith(_FORGED)
    return name == _CAPABILITY or name in _ACLS


def read_xattrs(path: int | bytes) -> dict[bytes, bytes] | None:
    """What `path` (not followed) or the open file has and a layer may carry; None for nothing at all, the usual case."""
    follow = isinstance(path, int)
    try:
        names = os.listxattr(path, follow_symlinks=follow)
    except OSError as err:
        if err.errno == errno.ENOTSUP:
            return None
        raise
    found = {}
    for text in names:
        name = os.fsencode(text)
        if belongs(name):
            found[name] = os.getxattr(path, text, follow_symlinks=follow)
    return found or None


def check_xattrs(xattrs: dict[bytes, bytes], entry: Entry) -> None:
    """ArchiveError where the kernel would refuse to set these on what `entry` says: xattr(7), capabilities(7), acl(5)."""
    for name, value in xattrs.items():
        reason = 0
        if name.startswith(b"user.") and entry.kind not in (FILE, DIRECTORY):
            reason = errno.EPERM
        elif name == _CAPABILITY and (len(value), value[3:4]) not in _CAPABILITY_FORMS:
            reason = errno.EINVAL
        elif len(name) > NAME_LIMIT or not name.partition(b".")[2]:
            reason = errno.ERANGE if len(name) > NAME_LIMIT else errno.EINVAL
        elif len(value) > VALUE_LIMIT:
            reason = errno.E2BIG
        if reason:
            raise refused(name, reason, shown(entry.name))


def refused(name: bytes, reason: int, what: str) -> ArchiveError:
    """The error that says why the kernel does not take an extended attribute; `reason` is an errno."""
    label = name.decode("utf-8", "backslashreplace")
    return ArchiveError(f"the kernel refuses the extended attribute {label} of {what}: {os.strerror(reason).lower()}")


def set_xattrs(path: int | bytes, xattrs: dict[bytes, bytes], what: str) -> None:
    """Set on `path` (not followed) or the open file those that may be; to be done after chown, which takes capabilities away."""
    follow = isinstance(path, int)
    for name, value in xattrs.items():
        if not belongs(name):
            continue
        try:
            os.setxattr(path, name, value, follow_symlinks=follow)
        except OSError as err:
            label = name.decode("utf-8", "backslashreplace")
            if err.errno == errno.ENOTSUP:
                raise StoreError(
                    f"the file system of the store cannot keep {label} of {what}", hint="choose another place with --root"
                ) from err
            if err.errno in _IMPOSSIBLE:
                raise refused(name, err.errno, what) from err
            raise
