"""POSIX ACLs as layers carry them, brought to what the kernel makes of one that is set: acl(5), linux/posix_acl_xattr.h.

An access ACL and a mode are two views of one thing: setting the ACL sets the mode, and one that says no more than a mode is not
kept beside it.
"""

from __future__ import annotations

import errno
from struct import Struct

from store.attributes import belongs, check_xattrs, refused
from store.tar_read import DIRECTORY, SYMLINK, Entry, shown

ACCESS, DEFAULT = b"system.posix_acl_access", b"system.posix_acl_default"
_VERSION = (2).to_bytes(4, "little")
_ENTRY = Struct("<HHI")  # tag, permissions, id
_USER_OBJ, _USER, _GROUP_OBJ, _GROUP, _MASK, _OTHER = 1, 2, 4, 8, 16, 32
_ORDER = (_USER_OBJ, _USER, _GROUP_OBJ, _GROUP, _MASK, _OTHER)
_NOBODY = 0xFFFFFFFF


def settled_xattrs(entry: Entry) -> tuple[int, dict[bytes, bytes]]:
    """The mode and the extended attributes of what `entry` makes: of those it has, the ones that a layer may carry, as the
    kernel gives them back. ArchiveError for what the kernel would refuse."""
    xattrs = {name: value for name, value in (entry.xattrs or {}).items() if belongs(name)}
    check_xattrs(xattrs, entry)
    return settle_acls(xattrs, entry), xattrs


def settle_acls(xattrs: dict[bytes, bytes], entry: Entry) -> int:
    """Put the ACLs among `xattrs` in the form in which the kernel would give them back; take away those it would not keep.

    Returns the mode that `entry` then has. ArchiveError when the kernel would refuse one.
    """
    mode = entry.mode
    for name in (ACCESS, DEFAULT):
        if name not in xattrs:
            continue
        what = shown(entry.name)
        if entry.kind == SYMLINK:
            raise refused(name, errno.EOPNOTSUPP, what)
        entries = _parse(xattrs[name])
        if entries is None:
            raise refused(name, errno.EINVAL, what)
        if entries and name == DEFAULT and entry.kind != DIRECTORY:
            raise refused(name, errno.EACCES, what)
        if not entries:
            del xattrs[name]
            continue
        xattrs[name] = _VERSION + b"".join(_ENTRY.pack(*each) for each in entries)
        if name == ACCESS:
            granted = {tag: permissions for tag, permissions, _ in entries}
            group = granted.get(_MASK, granted[_GROUP_OBJ])
            mode = mode & ~0o777 | granted[_USER_OBJ] << 6 | group << 3 | granted[_OTHER]
            if len(entries) == 3:
                del xattrs[name]
    return mode


def _parse(data: bytes) -> list[tuple[int, int, int]] | None:
    """The entries of an ACL; None for one that cannot be."""
    if data[:4] != _VERSION or (len(data) - 4) % _ENTRY.size:
        return None
    entries = []
    for tag, permissions, owner in _ENTRY.iter_unpack(data[4:]):
        named = tag in (_USER, _GROUP)
        if tag not in _ORDER or permissions > 7 or (named and owner == _NOBODY):
            return None
        entries.append((tag, permissions, owner if named else _NOBODY))
    tags = [tag for tag, _, _ in entries]
    if not tags:
        return []
    once = [tag for tag in tags if tag not in (_USER, _GROUP)]
    if tags != sorted(tags) or len(once) != len(set(once)) or not {_USER_OBJ, _GROUP_OBJ, _OTHER} <= set(tags):
        return None
    if (_USER in tags or _GROUP in tags) and _MASK not in tags:
        return None
    return entries
