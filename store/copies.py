"""Copying a tree of files, and laying a layer's tree over one: what the `copy` driver does instead of mounting.

A copy shares its blocks with the original where the file system can do that, and its inodes never: whoever writes to the one
leaves the other as it is. Holes stay holes, and files that have several names keep them.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Collection

from store.attributes import OVERLAY, read_xattrs, set_xattrs
from store.lowers import is_mark
from store.reflink import clones
from store.syscalls import RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS, openat2
from store.tar_read import BLOCK_DEVICE, CHARACTER, DIRECTORY, FIFO, FILE, SYMLINK, Entry, shown
from store.trees import delete_tree
from store.walk import Node, walk

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_TYPES = {CHARACTER: stat.S_IFCHR, BLOCK_DEVICE: stat.S_IFBLK, FIFO: stat.S_IFIFO}
_MARKS = tuple(os.fsdecode(OVERLAY) + name for name in ("opaque", "redirect", "metacopy", "whole"))
_NO_RANGE = frozenset({errno.EXDEV, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL})


def copy_tree(source: int, target: int, *, missing: bool = False) -> None:
    """Copy all that lies in the directory open as `source` into the one open as `target`, and what `source` itself is.

    `target` is empty; or, with `missing`, has names of its own, which stay as they are, and takes only the others. Sockets are
    left out. Neither may change meanwhile.
    """
    _Copier(source, target, missing).copy()


def copy_upper(source: str, target: str) -> None:
    """`copy_tree` of an overlay's upper directory, with what overlayfs has marked in it, into the empty directory `target`."""
    old = os.open(source, _DIRECTORY)
    try:
        new = os.open(target, _DIRECTORY)
        try:
            copy_tree(old, new)
            for node in walk(old):
                if node.kind == DIRECTORY:
                    _copy_marks(old, new, node.path)
        finally:
            os.close(new)
    finally:
        os.close(old)


def _copy_marks(source: int, target: int, path: bytes) -> None:
    descriptor = _open(source, path)
    try:
        marks = {name: os.getxattr(descriptor, name) for name in os.listxattr(descriptor) if name in _MARKS}
    finally:
        os.close(descriptor)
    if not marks:
        return
    descriptor = _open(target, path)
    try:
        for name, value in marks.items():
            os.setxattr(descriptor, name, value)
    finally:
        os.close(descriptor)


class _Copier:
    __slots__ = ("_dressed", "_here", "_links", "_missing", "_reflinks", "_source", "_target")

    def __init__(self, source: int, target: int, missing: bool) -> None:
        self._source = source
        self._target = target
        self._missing = missing
        self._here = -1  # the directory that is being filled, -1 for one that is left as it is
        self._links: dict[tuple[int, int], bytes] = {}
        self._dressed: list[Entry] = []  # directories: their times are right only when all is in them
        self._reflinks = True

    def copy(self) -> None:
        try:
            for node in walk(self._source):
                if node.kind == DIRECTORY:
                    self._directory(node)
                elif node.kind and self._here >= 0:
                    self._leaf(node)
        finally:
            self._leave()
        for entry in reversed(self._dressed):
            descriptor = _open(self._target, entry.name)
            try:
                dress(descriptor, entry)
            finally:
                os.close(descriptor)

    def _leave(self) -> None:
        descriptor, self._here = self._here, -1
        if descriptor >= 0:
            os.close(descriptor)

    def _directory(self, node: Node) -> None:
        self._leave()
        above, _, name = node.path.rpartition(b"/")
        made = not self._missing
        if name:
            try:
                parent = _open(self._target, above)
            except OSError as err:
                if self._missing and err.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                    return
                raise
            try:
                os.mkdir(name, 0o700, dir_fd=parent)
                made = True
            except FileExistsError:
                if not self._missing:
                    raise
                if not stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
                    return
            finally:
                os.close(parent)
        self._here = _open(self._target, node.path)
        if made:
            self._dressed.append(node.entry(node.path))

    def _leaf(self, node: Node) -> None:
        several = node.status.st_nlink > 1
        identity = (node.status.st_dev, node.status.st_ino)
        first = self._links.get(identity) if several else None
        try:
            if first is not None:
                above, _, name = first.rpartition(b"/")
                origin = _open(self._target, above)
                try:
                    os.link(name, node.name, src_dir_fd=origin, dst_dir_fd=self._here, follow_symlinks=False)
                finally:
                    os.close(origin)
                return
            self._make(node)
        except FileExistsError:
            if not self._missing:
                raise
            return
        if several:
            self._links[identity] = node.path

    def _make(self, node: Node) -> None:
        entry = node.entry(node.name)
        if entry.kind == FILE:
            descriptor = os.open(node.name, _NEW, 0o600, dir_fd=self._here)
            try:
                if entry.size:
                    source = node.open()
                    try:
                        self._content(source, descriptor, entry.size)
                    finally:
                        os.close(source)
                dress(descriptor, entry)
            finally:
                os.close(descriptor)
        elif entry.kind == SYMLINK:
            os.symlink(entry.link, node.name, dir_fd=self._here)
            self._dress_unopened(entry)
        else:
            os.mknod(node.name, 0o600 | _TYPES[entry.kind], os.makedev(*entry.device), dir_fd=self._here)
            self._dress_unopened(entry)

    def _content(self, source: int, target: int, size: int) -> None:
        if self._reflinks:
            self._reflinks = clones(source, target)
            if self._reflinks:
                return
        at = 0
        while at < size:
            try:
                at = os.lseek(source, at, os.SEEK_DATA)
            except OSError as err:
                if err.errno != errno.ENXIO:
                    raise
                break  # a hole to the end
            end = os.lseek(source, at, os.SEEK_HOLE)
            while at < end:
                copied = _copy_range(source, target, at, end - at)
                if not copied:
                    break
                at += copied
        os.ftruncate(target, size)

    def _dress_unopened(self, entry: Entry) -> None:
        """What is no file is not to be opened: opening a device acts on it, a FIFO waits."""
        name, here = entry.name, self._here
        os.chown(name, entry.uid, entry.gid, dir_fd=here, follow_symlinks=False)
        path = b"/proc/self/fd/%d/%s" % (here, name)
        if entry.kind != SYMLINK:
            os.chmod(path, entry.mode)  # just made here, where nobody else is: no link
        if entry.xattrs:
            set_xattrs(path, entry.xattrs, shown(name))
        os.utime(name, ns=(entry.mtime, entry.mtime), dir_fd=here, follow_symlinks=False)


def _copy_range(source: int, target: int, at: int, size: int) -> int:
    try:
        return os.copy_file_range(source, target, size, at, at)
    except OSError as err:
        if err.errno not in _NO_RANGE:
            raise
    return os.pwrite(target, os.pread(source, min(size, 1 << 20), at), at)


def dress(descriptor: int, entry: Entry) -> None:
    """Let the open file or directory be what `entry` says, but for its content."""
    os.fchown(descriptor, entry.uid, entry.gid)
    wanted = entry.xattrs or {}
    for name in set(read_xattrs(descriptor) or ()) - set(wanted):
        os.removexattr(descriptor, name)
    os.fchmod(descriptor, entry.mode)
    if wanted:
        set_xattrs(descriptor, wanted, shown(entry.name))
    os.utime(descriptor, ns=(entry.mtime, entry.mtime))


def lay_over(layer: int, tree: int, opaque: Collection[bytes]) -> None:
    """Move what lies in the directory open as `layer`, an unpacked layer, into the one open as `tree`, the layers below it.

    Whiteouts delete, and so do the directories whose paths are `opaque`. Both are on one file system, and nobody else's.
    """
    dressed: list[Entry] = []
    todo = [b""]
    while todo:
        path = todo.pop()
        above = _open(layer, path)
        below = -1
        try:
            below = _open(tree, path)
            dressed.append(Node(above, b".", path, os.fstat(above)).entry(path))
            for name in [os.fsencode(entry) for entry in os.listdir(above)]:
                whole = path + b"/" + name if path else name
                status = os.stat(name, dir_fd=above, follow_symlinks=False)
                if stat.S_ISDIR(status.st_mode) and whole not in opaque and _is_directory(name, below):
                    todo.append(whole)
                    continue
                delete_tree(name, dir_fd=below)
                if not is_mark(status):
                    os.rename(name, name, src_dir_fd=above, dst_dir_fd=below)
        finally:
            os.close(above)
            if below >= 0:
                os.close(below)
    for entry in reversed(dressed):
        descriptor = _open(tree, entry.name)
        try:
            dress(descriptor, entry)
        finally:
            os.close(descriptor)


def _is_directory(name: bytes, directory: int) -> bool:
    try:
        return stat.S_ISDIR(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False


def _open(top: int, path: bytes) -> int:
    return openat2(top, path or b".", _DIRECTORY, resolve=RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS)
