"""Unpacking a layer into a tree that overlayfs can use, from an archive that nobody vouches for.

Nothing outside the tree is read or written, whatever the entries are called, wherever their links lead and whoever changes the
tree meanwhile: every step goes from the descriptor of a directory to one name in it, which is not followed. A symbolic link
in the middle of a name leads where the container would see it lead, inside the root. Nothing that exists is opened for writing.

Whiteouts (OCI image-spec, layer.md) become overlayfs' own: a character device 0:0, and trusted.overlay.opaque on a directory.
They hide what the layers below have, in whatever order they come, never what this layer has.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence

from store.acl import settled_xattrs
from store.attributes import set_xattrs
from store.decompress import DEFAULT_BOUNDS, Bounds, Source, open_stream
from store.digest import Digest
from store.directories import WHITEOUT, Directories, Directory, entry_of
from store.errors import ArchiveError, BlobCorrupt
from store.faults import Attempt
from store.flow import Flow
from store.lowers import Lowers, is_mark
from store.prepared import in_user_namespace
from store.record import Record
from store.tar_read import (
    BLOCK_DEVICE,
    CHARACTER,
    DEFAULT_LIMITS,
    DIRECTORY,
    FIFO,
    FILE,
    HARDLINK,
    SYMLINK,
    Entry,
    Limits,
    TarReader,
    shown,
)

OPAQUE_MARK = b".wh..wh..opq"
AUFS = b".wh..wh."  # aufs' bookkeeping means nothing to anyone else

_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_TYPES = {CHARACTER: stat.S_IFCHR, BLOCK_DEVICE: stat.S_IFBLK, FIFO: stat.S_IFIFO}


class Unpacked(Record):
    """What was unpacked: the uncompressed tar's digest and size, the number of entries; how it was compressed, to what size."""

    diff_id: Digest
    size: int
    entries: int
    compression: str
    compressed_size: int


def unpack(
    source: Source,
    tree: int,
    *,
    lowers: Sequence[str] = (),
    keep: int | None = None,
    expected: str | None = None,
    limits: Limits = DEFAULT_LIMITS,
    bounds: Bounds = DEFAULT_BOUNDS,
) -> Unpacked:
    """Unpack the layer that `source` holds, plain or compressed, into the empty directory open as `tree`.

    `lowers` are the trees of the layers below, the topmost first. `keep`, where given, is an empty file open for writing that
    gets the uncompressed tar and is synced. `expected` is the diff_id it must have. On error the tree is half made, to be thrown
    away.

    Raises ArchiveError for what the archive does wrong, BlobCorrupt for a wrong diff_id, StoreError where the disk gives up.
    """
    stream = open_stream(source, bounds)
    with Attempt("unpack the layer"), Flow(stream.readinto, keep=keep) as flow:
        reader = TarReader(flow.feed, limits)
        entries = unpack_entries(reader, tree, Lowers(lowers))
        diff_id = Digest("sha256:" + flow.finish())
    if expected is not None and diff_id != expected:
        raise BlobCorrupt(expected, diff_id, where="the uncompressed layer")
    return Unpacked(diff_id, flow.size, entries, stream.compression, stream.consumed)


def unpack_entries(reader: TarReader, tree: int, lowers: Lowers, *, opaque: set[bytes] | None = None) -> int:
    """Unpack every entry of `reader` as `unpack` does; returns how many there were.

    The paths of opaque directories are added to `opaque` where it is given, and nothing marks them then.
    """
    directories = Directories(tree, lowers, opaque)
    unpacker = _Unpacker(directories)
    count = 0
    try:
        while (entry := reader.next()) is not None:
            count += 1
            try:
                unpacker.place(entry, reader)
            except OSError:
                with Attempt(f"unpack {shown(entry.name)}"):
                    raise
        directories.finish()
    finally:
        directories.close()
    return count


def _write_pieces(fd: int, entry: Entry, pieces: Sequence[tuple[int, int]], reader: TarReader) -> None:
    """Write the file of which only `pieces` come; holes stay holes."""
    for offset, length in pieces:
        end = offset + length
        while offset < end:
            piece = reader.content(end - offset)
            while piece:
                written = os.pwrite(fd, piece, offset)
                offset += written
                piece = piece[written:]
    os.ftruncate(fd, entry.size)


def hidden_by(whiteout: bytes) -> bytes:
    """The name that a whiteout, as an archive has it, hides: b"." for all of its directory, nothing for what means nothing."""
    if whiteout == OPAQUE_MARK:
        return b"."
    if whiteout.startswith(AUFS):
        return b""
    name = whiteout[len(WHITEOUT) :]
    if name in (b"", b".", b".."):
        raise ArchiveError("a whiteout that names nothing, or a directory's own or parent's name")
    return name


def refuse_whiteout_device(entry: Entry) -> None:
    """ArchiveError when a device would be taken for overlayfs' mark of a deleted name."""
    if entry.kind == CHARACTER and entry.device == (0, 0):
        raise ArchiveError(
            f"a character device 0:0 would delete what the layers below have: {shown(entry.name)}",
            hint="a layer says that with a file named .wh.NAME",
        )


class _Unpacker:
    """Makes what the entries of one archive say."""

    __slots__ = ("_directories", "_gid", "_uid", "_umasked")

    def __init__(self, directories: Directories) -> None:
        self._directories = directories
        self._uid, self._gid, self._umasked = directories.uid, directories.gid, directories.umasked

    def place(self, entry: Entry, reader: TarReader) -> None:
        """Make what `entry` says."""
        parent_name, _, name = entry.name.rpartition(b"/")
        parent = self._directories.parent(parent_name)
        kind = entry.kind
        if not name and kind != DIRECTORY:
            raise ArchiveError("the root of the archive is not a directory")
        if name.startswith(WHITEOUT):
            self._whiteout(parent, name)
            return
        if entry.xattrs and kind != HARDLINK:
            settled_xattrs(entry)  # so that what is refused is so at once, and whatever the store's file system would keep
        if kind == FILE:
            self._file(parent, name, entry, reader)
        elif kind == DIRECTORY:
            self._directories.make(parent, name, entry)
        elif kind == SYMLINK:
            self._symlink(parent, name, entry)
        elif kind == HARDLINK:
            self._hardlink(parent, name, entry)
        else:
            self._node(parent, name, entry)

    def _file(self, parent: Directory, name: bytes, entry: Entry, reader: TarReader) -> None:
        fd = self._create(parent, name, entry.mode)
        try:
            if entry.pieces is not None:
                _write_pieces(fd, entry, entry.pieces, reader)
            while piece := reader.content():
                written = os.write(fd, piece)
                while written < len(piece):
                    written += os.write(fd, piece[written:])
            self._dress(fd, entry)
        finally:
            os.close(fd)

    def _create(self, parent: Directory, name: bytes, mode: int) -> int:
        try:
            return os.open(name, _NEW_FILE, mode & 0o777, dir_fd=parent.fd)
        except FileExistsError:
            self._directories.clear(parent, name)
            return os.open(name, _NEW_FILE, mode & 0o777, dir_fd=parent.fd)

    def _dress(self, fd: int, entry: Entry) -> None:
        """Give a file just made by `_create` the rest of its metadata."""
        if entry.uid != self._uid or entry.gid != self._gid:
            os.fchown(fd, entry.uid, entry.gid)
        if entry.mode & self._umasked:
            os.fchmod(fd, entry.mode)
        if entry.xattrs:
            set_xattrs(fd, entry.xattrs, shown(entry.name))
        os.utime(fd, ns=(entry.mtime, entry.mtime))

    def _symlink(self, parent: Directory, name: bytes, entry: Entry) -> None:
        try:
            os.symlink(entry.link, name, dir_fd=parent.fd)
        except FileExistsError:
            self._directories.clear(parent, name)
            os.symlink(entry.link, name, dir_fd=parent.fd)
        self._dress_unopened(parent, name, entry)

    def _node(self, parent: Directory, name: bytes, entry: Entry) -> None:
        refuse_whiteout_device(entry)
        mode = _TYPES[entry.kind] | entry.mode & 0o777
        device = os.makedev(*entry.device)
        try:
            os.mknod(name, mode, device, dir_fd=parent.fd)
        except FileExistsError:
            self._directories.clear(parent, name)
            os.mknod(name, mode, device, dir_fd=parent.fd)
        except PermissionError:
            if entry.kind == FIFO or not in_user_namespace():
                raise
            return  # nobody could open it there; the layer's tar still has it
        self._dress_unopened(parent, name, entry)

    def _dress_unopened(self, parent: Directory, name: bytes, entry: Entry) -> None:
        """The same as `_dress` for what is not to be opened: opening a device acts on it, a FIFO waits."""
        if entry.uid != self._uid or entry.gid != self._gid:
            os.chown(name, entry.uid, entry.gid, dir_fd=parent.fd, follow_symlinks=False)
        if entry.kind != SYMLINK and entry.mode & self._umasked:
            # No chmod in Python's reach leaves a link alone; a descriptor that cannot read or write has no link to follow.
            fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent.fd)
            try:
                if not stat.S_ISLNK(os.fstat(fd).st_mode):
                    os.chmod(f"/proc/self/fd/{fd}", entry.mode)
            finally:
                os.close(fd)
        if entry.xattrs:
            set_xattrs(parent.named(name), entry.xattrs, shown(entry.name))
        os.utime(name, ns=(entry.mtime, entry.mtime), dir_fd=parent.fd, follow_symlinks=False)

    def _hardlink(self, parent: Directory, name: bytes, entry: Entry) -> None:
        above, _, target = entry.link.rpartition(b"/")
        origin = self._directories.parent(above)
        try:
            status = os.stat(target, dir_fd=origin.fd, follow_symlinks=False)
        except FileNotFoundError:
            self._copy_up(parent, name, origin.below(target), entry)
            return
        if stat.S_ISDIR(status.st_mode) or is_mark(status):
            raise ArchiveError(f"a hard link to what is not a file: {shown(entry.name)} -> {shown(entry.link)}")
        try:
            os.link(target, name, src_dir_fd=origin.fd, dst_dir_fd=parent.fd, follow_symlinks=False)
        except FileExistsError:
            there = os.stat(name, dir_fd=parent.fd, follow_symlinks=False)
            if (there.st_dev, there.st_ino) == (status.st_dev, status.st_ino):
                return  # GNU tar writes a file that it meets twice as a link to itself
            self._directories.clear(parent, name)
            os.link(target, name, src_dir_fd=origin.fd, dst_dir_fd=parent.fd, follow_symlinks=False)

    def _copy_up(self, parent: Directory, name: bytes, path: bytes, entry: Entry) -> None:
        """A hard link to what only a layer below has: that layer stays as it is, so the link becomes a copy."""
        found = self._directories.lower(path)
        if found is None or stat.S_ISDIR(found.status.st_mode):
            raise ArchiveError(f"a hard link to what is not there: {shown(entry.name)} -> {shown(entry.link)}")
        copy = entry_of(found, entry.name)
        if copy.kind == SYMLINK:
            self._symlink(parent, name, copy)
        elif copy.kind != FILE:
            self._node(parent, name, copy)
        else:
            source = found.open(os.O_RDONLY)
            try:
                fd = self._create(parent, name, copy.mode)
                try:
                    while os.sendfile(fd, source, None, 1 << 30):
                        pass
                    self._dress(fd, copy)
                finally:
                    os.close(fd)
            finally:
                os.close(source)

    def _whiteout(self, parent: Directory, name: bytes) -> None:
        name = hidden_by(name)
        if name == b".":
            self._directories.hide(parent.path)
            return
        if not name:
            return
        try:
            status = os.stat(name, dir_fd=parent.fd, follow_symlinks=False)
        except FileNotFoundError:
            self._directories.whiteout(parent, name)
            return
        if stat.S_ISDIR(status.st_mode):
            self._directories.hide(parent.below(name))
