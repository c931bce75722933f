"""Packing a changeset: from an overlay's upper directory to a layer whose bytes depend on nothing but what is in it.

The order is fixed, times are clamped to an epoch, owners are numbers, and what only this machine's kernel put there stays out.
The directory is brought to what the layer says, so that it can serve as the layer's tree.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Collection

from store.attributes import OPAQUE, OVERLAY, read_xattrs
from store.directories import WHITEOUT
from store.errors import StoreError
from store.faults import Attempt
from store.flow import Behind
from store.lowers import is_whiteout
from store.record import Record
from store.syscalls import RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS, openat2
from store.tar_read import BLOCK_DEVICE, CHARACTER, DEFAULT_LIMITS, DIRECTORY, FIFO, FILE, HARDLINK, SYMLINK, Entry, shown
from store.tar_write import BUFFER, TarWriter, Write
from store.trees import delete_tree
from store.unpack import OPAQUE_MARK

_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_KINDS = {stat.S_IFCHR: CHARACTER, stat.S_IFBLK: BLOCK_DEVICE, stat.S_IFIFO: FIFO}
_OVERLAY = os.fsdecode(OVERLAY)
_PLACE_HINT = "this is a mistake in box: an upper directory was mounted with the wrong options"


class Packed(Record):
    """What was packed: the number of entries and the size of the tar."""

    entries: int
    size: int


def pack_changeset(upper: int, write: Write, *, epoch: int, skip: Collection[bytes] = (), gone: Collection[bytes] = ()) -> Packed:
    """Write what the directory open as `upper` changes, as a layer, through `write`.

    Each directory comes before what is in it, its other entries sorted by bytes before its directories. Times after `epoch`
    (seconds) become `epoch`. Whiteouts become `.wh.NAME`, opaque directories get `.wh..wh..opq`. Sockets, and the paths in
    `skip` (relative, without a slash in front), do not belong to the layer. What is at the paths `gone` below is deleted, too.

    On return `upper` is what unpacking the layer would make: times are clamped, what does not belong is deleted. Nobody else may
    write there meanwhile. StoreError when the directory holds what no layer can.
    """
    with Attempt("pack the changes"), Behind(write, BUFFER) as behind:
        packer = _Packer(upper, TarWriter(behind), epoch, skip, gone)
        packer.pack()
    return Packed(packer.tar.entries, packer.tar.size)


class _Packer:
    __slots__ = ("_epoch", "_gone", "_links", "_skip", "_upper", "tar")

    def __init__(self, upper: int, tar: TarWriter, epoch: int, skip: Collection[bytes], gone: Collection[bytes]) -> None:
        self._upper = upper
        self._epoch = epoch * 1_000_000_000
        self._skip = frozenset(skip)
        self._gone: dict[bytes, list[bytes]] = {}
        for path in gone:
            above, _, name = path.rpartition(b"/")
            self._gone.setdefault(above, []).append(name)
        self._links: dict[tuple[int, int], bytes] = {}
        self.tar = tar

    def pack(self) -> None:
        todo = [b""]
        while todo:
            path = todo.pop()
            # One descriptor at a time, however deep the tree is.
            descriptor = openat2(self._upper, path or b".", _OPEN | os.O_DIRECTORY, resolve=RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS)
            try:
                below = self._directory(descriptor, path)
            finally:
                os.close(descriptor)
            todo.extend(reversed(below))
        self.tar.finish()

    def _directory(self, descriptor: int, path: bytes) -> list[bytes]:
        """Pack a directory and what is in it, but for its directories: their paths in order."""
        own = os.fstat(descriptor)
        entry = self._entry(DIRECTORY, path, own)
        opaque = _overlay_marks(descriptor, path)
        entry.xattrs = read_xattrs(descriptor)
        self.tar.add(entry)
        prefix = path + b"/" if path else b""
        if opaque:
            self.tar.add(self._mark(prefix + OPAQUE_MARK))
        found: list[tuple[bytes, bytes, os.stat_result | None]] = []
        directories = []
        unwanted = []
        with os.scandir(descriptor) as listing:
            for item in listing:
                name = os.fsencode(item.name)
                whole = prefix + name
                if name.startswith(WHITEOUT):
                    raise StoreError(
                        f"/{shown(whole)} cannot be kept in a layer: a name that begins with .wh. means a deleted file there",
                        hint="give it another name",
                    )
                if whole in self._skip:
                    unwanted.append(name)
                elif item.is_dir(follow_symlinks=False):
                    directories.append(whole)
                elif item.is_file(follow_symlinks=False):
                    found.append((name, name, None))
                else:
                    status = item.stat(follow_symlinks=False)
                    if stat.S_ISSOCK(status.st_mode):
                        unwanted.append(name)
                    else:
                        found.append((WHITEOUT + name if is_whiteout(status) else name, name, status))
        found += [(WHITEOUT + name, name, own) for name in self._gone.get(path, ())]
        found.sort(key=lambda each: each[0])
        for shape, name, seen in found:
            if len(prefix) + len(shape) > DEFAULT_LIMITS.path:
                raise StoreError(f"a path of more than {DEFAULT_LIMITS.path} bytes: /{shown(prefix + name)}")
            if seen is None:
                self._file(descriptor, name, prefix + name)
            elif shape is not name:
                self.tar.add(self._mark(prefix + shape))
            else:
                self._other(descriptor, name, prefix + name, seen)
        for name in unwanted:
            delete_tree(name, dir_fd=descriptor)
        if unwanted or entry.mtime != own.st_mtime_ns:
            os.utime(descriptor, ns=(entry.mtime, entry.mtime))
        directories.sort()
        return directories

    def _file(self, parent: int, name: bytes, path: bytes) -> None:
        descriptor = os.open(name, _OPEN, dir_fd=parent)
        try:
            status = os.fstat(descriptor)
            if status.st_nlink > 1 and self._is_link(path, status):
                return
            _overlay_marks(descriptor, path)
            entry = self._entry(FILE, path, status)
            entry.size = status.st_size
            entry.xattrs = read_xattrs(descriptor)
            self.tar.add_file(entry, descriptor)
            if entry.mtime != status.st_mtime_ns:
                os.utime(descriptor, ns=(entry.mtime, entry.mtime))
        finally:
            os.close(descriptor)

    def _other(self, parent: int, name: bytes, path: bytes, status: os.stat_result) -> None:
        if status.st_nlink > 1 and self._is_link(path, status):
            return
        if stat.S_ISLNK(status.st_mode):
            entry = self._entry(SYMLINK, path, status)
            entry.mode = 0o777
            entry.link = os.readlink(name, dir_fd=parent)
        else:
            entry = self._entry(_KINDS[stat.S_IFMT(status.st_mode)], path, status)
            if entry.kind != FIFO:
                entry.device = (os.major(status.st_rdev), os.minor(status.st_rdev))
        entry.xattrs = read_xattrs(b"/proc/self/fd/%d/%s" % (parent, name))
        self.tar.add(entry)
        if entry.mtime != status.st_mtime_ns:
            os.utime(name, ns=(entry.mtime, entry.mtime), dir_fd=parent, follow_symlinks=False)

    def _is_link(self, path: bytes, status: os.stat_result) -> bool:
        """Whether `path` was packed under another name; then it is packed as a link to that."""
        first = self._links.setdefault((status.st_dev, status.st_ino), path)
        if first == path:
            return False
        entry = self._entry(HARDLINK, path, status)
        entry.link = first
        self.tar.add(entry)
        return True

    def _entry(self, kind: bytes, path: bytes, status: os.stat_result) -> Entry:
        mtime = min(status.st_mtime_ns, self._epoch)
        return Entry(kind, path, stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid, mtime)

    def _mark(self, path: bytes) -> Entry:
        return Entry(FILE, path, 0, 0, 0, self._epoch)


def _overlay_marks(descriptor: int, path: bytes) -> bool:
    """Whether the directory is opaque; raises for marks that say that the content is elsewhere."""
    opaque = False
    for name in os.listxattr(descriptor):
        if not name.startswith(_OVERLAY):
            continue
        if name.removeprefix(_OVERLAY) in ("redirect", "metacopy", "whiteout"):
            raise StoreError(f"/{shown(path)} is not all there: it has {name}", hint=_PLACE_HINT)
        if name == OPAQUE:
            value = os.getxattr(descriptor, name)
            if value == b"x":
                raise StoreError(f"/{shown(path)} is not all there: it has {name}", hint=_PLACE_HINT)
            opaque = value == b"y"
    return opaque
