"""Unpacking a layer into a tree that overlayfs can use, from an archive that nobody vouches for.

Nothing outside the tree is read or written, whatever the entries are called, wherever their links lead and whoever changes the
tree meanwhile: every step goes from the descriptor of a directory to one name in it, which is not followed. A symbolic link
in the middle of a name leads where the container would see it lead, inside the root. Nothing that exists is opened for writing.

Whiteouts (OCI image-spec, layer.md) become overlayfs' own: a character device 0:0, and trusted.overlay.opaque on a directory.
They hide what the layers below have, in whatever order they come, never what this layer has.
"""

import errno
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass

from store.attributes import OPAQUE, read_xattrs, set_xattrs
from store.decompress import DEFAULT_BOUNDS, Bounds, Source, open_stream
from store.digest import Digest
from store.errors import ArchiveError, BlobCorrupt
from store.faults import Attempt
from store.flow import Flow
from store.lowers import Found, Lowers, is_whiteout
from store.syscalls import RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS, openat2
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
from store.trees import delete_tree

OPAQUE_MARK = b".wh..wh..opq"
WHITEOUT = b".wh."
AUFS = b".wh..wh."  # aufs' bookkeeping means nothing to anyone else
LINK_DEPTH = 40  # as in the kernel
OPEN_DIRECTORIES = 128

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_NO_LINKS = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS
_TYPES = {CHARACTER: stat.S_IFCHR, BLOCK_DEVICE: stat.S_IFBLK, FIFO: stat.S_IFIFO}


@dataclass(frozen=True, slots=True)
class Unpacked:
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


def unpack_entries(reader: TarReader, tree: int, lowers: Lowers) -> int:
    """Unpack every entry of `reader` as `unpack` does; returns how many there were."""
    unpacker = _Unpacker(tree, lowers)
    count = 0
    try:
        while (entry := reader.next()) is not None:
            count += 1
            try:
                unpacker.place(entry, reader)
            except OSError:
                with Attempt(f"unpack {shown(entry.name)}"):
                    raise
        unpacker.finish()
    finally:
        unpacker.close()
    return count


class _Directory:
    """A directory of the tree, open; `path` is its real place. Closed when nobody holds it any more, if not before."""

    __slots__ = ("fd", "path")

    def __init__(self, fd: int, path: bytes) -> None:
        self.fd = fd
        self.path = path

    def below(self, name: bytes) -> bytes:
        return self.path + b"/" + name if self.path else name

    def named(self, name: bytes) -> bytes:
        """`name` in this directory for calls that know no descriptors; its last part is not to be followed."""
        return b"/proc/self/fd/%d/%s" % (self.fd, name)

    def close(self) -> None:
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    __del__ = close


class _Unpacker:
    """One tree being filled."""

    __slots__ = (
        "_aliases",
        "_gid",
        "_last",
        "_last_name",
        "_lowers",
        "_opaque",
        "_open",
        "_pending",
        "_root",
        "_uid",
        "_umasked",
    )

    def __init__(self, tree: int, lowers: Lowers) -> None:
        self._root = _Directory(os.dup(tree), b"")
        self._lowers = lowers
        self._open: dict[bytes, _Directory] = {}  # by real path
        self._aliases: dict[bytes, bytes] = {}  # names that lead through a symlink, to real paths
        self._last_name = b""
        self._last = self._root
        # Modes, owners, times and attributes of directories come last: what is made inside a directory would change its time,
        # and inherit its set-gid bit and default ACL. True: its mode is right already.
        self._pending: dict[bytes, tuple[Entry, bool]] = {}
        self._opaque: set[bytes] = set()
        self._umasked = _umask() | 0o7000  # mode bits that creation does not give
        self._uid, self._gid = os.geteuid(), os.getegid()
        os.fchmod(tree, 0o700)
        self._pending[b""] = (self._inherited(b"") or _plain_directory(b""), False)

    # -- entries

    def place(self, entry: Entry, reader: TarReader) -> None:
        """Make what `entry` says."""
        parent_name, _, name = entry.name.rpartition(b"/")
        parent = self._last if parent_name == self._last_name else self._parent(parent_name)
        kind = entry.kind
        if not name and kind != DIRECTORY:
            raise ArchiveError("the root of the archive is not a directory")
        if name.startswith(WHITEOUT):
            self._whiteout(parent, name)
        elif kind == FILE:
            self._file(parent, name, entry, reader)
        elif kind == DIRECTORY:
            self._make_directory(parent, name, entry)
        elif kind == SYMLINK:
            self._symlink(parent, name, entry)
        elif kind == HARDLINK:
            self._hardlink(parent, name, entry)
        else:
            self._node(parent, name, entry)

    def _file(self, parent: _Directory, name: bytes, entry: Entry, reader: TarReader) -> None:
        fd = self._create(parent, name, entry.mode)
        try:
            while piece := reader.content():
                written = os.write(fd, piece)
                while written < len(piece):
                    written += os.write(fd, piece[written:])
            self._dress(fd, entry)
        finally:
            os.close(fd)

    def _create(self, parent: _Directory, name: bytes, mode: int) -> int:
        try:
            return os.open(name, _NEW_FILE, mode & 0o777, dir_fd=parent.fd)
        except FileExistsError:
            self._clear(parent, name)
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

    def _make_directory(self, parent: _Directory, name: bytes, entry: Entry) -> None:
        if not name:
            self._pending[b""] = (entry, False)
            return
        try:
            os.mkdir(name, entry.mode & 0o777, dir_fd=parent.fd)
            exact = not entry.mode & self._umasked
        except FileExistsError:
            status = os.stat(name, dir_fd=parent.fd, follow_symlinks=False)
            if not stat.S_ISDIR(status.st_mode):
                self._clear(parent, name)
                os.mkdir(name, 0o700, dir_fd=parent.fd)
                if is_whiteout(status):
                    self._opaque.add(parent.below(name))
            exact = False
        self._pending[parent.below(name)] = (entry, exact)

    def _symlink(self, parent: _Directory, name: bytes, entry: Entry) -> None:
        try:
            os.symlink(entry.link, name, dir_fd=parent.fd)
        except FileExistsError:
            self._clear(parent, name)
            os.symlink(entry.link, name, dir_fd=parent.fd)
        self._dress_unopened(parent, name, entry)

    def _node(self, parent: _Directory, name: bytes, entry: Entry) -> None:
        if entry.kind == CHARACTER and entry.device == (0, 0):
            raise ArchiveError(
                f"a character device 0:0 would delete what the layers below have: {shown(entry.name)}",
                hint="a layer says that with a file named .wh.NAME",
            )
        mode = _TYPES[entry.kind] | entry.mode & 0o777
        device = os.makedev(*entry.device)
        try:
            os.mknod(name, mode, device, dir_fd=parent.fd)
        except FileExistsError:
            self._clear(parent, name)
            os.mknod(name, mode, device, dir_fd=parent.fd)
        self._dress_unopened(parent, name, entry)

    def _dress_unopened(self, parent: _Directory, name: bytes, entry: Entry) -> None:
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

    def _hardlink(self, parent: _Directory, name: bytes, entry: Entry) -> None:
        above, _, target = entry.link.rpartition(b"/")
        origin = self._parent(above)
        try:
            status = os.stat(target, dir_fd=origin.fd, follow_symlinks=False)
        except FileNotFoundError:
            self._copy_up(parent, name, origin.below(target), entry)
            return
        if stat.S_ISDIR(status.st_mode) or is_whiteout(status):
            raise ArchiveError(f"a hard link to what is not a file: {shown(entry.name)} -> {shown(entry.link)}")
        try:
            os.link(target, name, src_dir_fd=origin.fd, dst_dir_fd=parent.fd, follow_symlinks=False)
        except FileExistsError:
            there = os.stat(name, dir_fd=parent.fd, follow_symlinks=False)
            if (there.st_dev, there.st_ino) == (status.st_dev, status.st_ino):
                return  # GNU tar writes a file that it meets twice as a link to itself
            self._clear(parent, name)
            os.link(target, name, src_dir_fd=origin.fd, dst_dir_fd=parent.fd, follow_symlinks=False)

    def _copy_up(self, parent: _Directory, name: bytes, path: bytes, entry: Entry) -> None:
        """A hard link to what only a layer below has: that layer stays as it is, so the link becomes a copy."""
        found = None if self._hidden(path) else self._lowers.find(path)
        if found is None or stat.S_ISDIR(found.status.st_mode):
            raise ArchiveError(f"a hard link to what is not there: {shown(entry.name)} -> {shown(entry.link)}")
        copy = _entry_of(found, entry.name)
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

    def _whiteout(self, parent: _Directory, name: bytes) -> None:
        if name == OPAQUE_MARK:
            self._opaque.add(parent.path)
            return
        if name.startswith(AUFS):
            return
        name = name[len(WHITEOUT) :]
        if name in (b"", b".", b".."):
            raise ArchiveError("a whiteout that names nothing, or a directory's own or parent's name")
        try:
            status = os.stat(name, dir_fd=parent.fd, follow_symlinks=False)
        except FileNotFoundError:
            os.mknod(name, stat.S_IFCHR, 0, dir_fd=parent.fd)
            return
        if stat.S_ISDIR(status.st_mode):
            self._opaque.add(parent.below(name))

    # -- directories

    def _parent(self, name: bytes) -> _Directory:
        """The directory that an archive's `name` means; made where it is missing."""
        try:
            directory = self._real(self._aliases.get(name, name))
        except OSError:  # something on the way is missing, or is no directory
            directory = self._walk(name)
            if directory.path != name:
                self._aliases[name] = directory.path
        self._last_name, self._last = name, directory
        return directory

    def _real(self, path: bytes) -> _Directory:
        """The directory whose real path is `path`; OSError when there is none, or a symlink is on the way."""
        found = self._open.get(path) if path else self._root
        if found is None:
            found = self._remember(openat2(self._root.fd, path, _DIRECTORY, resolve=_NO_LINKS), path)
        return found

    def _walk(self, name: bytes) -> _Directory:
        here = self._root
        todo = name.split(b"/")[::-1]
        links = 0
        while todo:
            part = todo.pop()
            if part in (b"", b"."):
                continue
            if part == b"..":  # of a symlink's target; the way here has no link in it
                here = self._walk(here.path.rpartition(b"/")[0])
                continue
            below = self._step(here, part)
            if isinstance(below, _Directory):
                here = below
                continue
            links += 1
            if links > LINK_DEPTH:
                raise ArchiveError(f"too many symbolic links: {shown(name)}")
            if below.startswith(b"/"):
                here = self._root
            todo.extend(below.split(b"/")[::-1])
        return here

    def _step(self, here: _Directory, name: bytes) -> _Directory | bytes:
        """The directory `name` in `here`, made where it is missing; or the target where `name` is a symlink."""
        path = here.below(name)
        found = self._open.get(path)
        if found is not None:
            return found
        if name.startswith(WHITEOUT):
            raise ArchiveError(f"a directory whose name means a deleted file: {shown(path)}")
        try:
            return self._remember(os.open(name, _DIRECTORY, dir_fd=here.fd), path)
        except FileNotFoundError:
            lower = None if self._hidden(path) else self._lowers.find(path)
            if lower is not None and stat.S_ISLNK(lower.status.st_mode):
                return lower.readlink()
            if lower is not None and not stat.S_ISDIR(lower.status.st_mode):
                raise ArchiveError(f"a file has entries below it: {shown(path)}") from None
            entry = _plain_directory(path) if lower is None else _entry_of(lower, path)
        except NotADirectoryError as err:
            status = os.stat(name, dir_fd=here.fd, follow_symlinks=False)
            if stat.S_ISLNK(status.st_mode):
                return os.readlink(name, dir_fd=here.fd)
            if not is_whiteout(status):
                raise ArchiveError(f"a file has entries below it: {shown(path)}") from err
            entry = _plain_directory(path)
        self._make_directory(here, name, entry)
        return self._remember(os.open(name, _DIRECTORY, dir_fd=here.fd), path)

    def _remember(self, fd: int, path: bytes) -> _Directory:
        if len(self._open) >= OPEN_DIRECTORIES:
            del self._open[next(iter(self._open))]
        directory = self._open[path] = _Directory(fd, path)
        return directory

    def _clear(self, parent: _Directory, name: bytes) -> None:
        """Take away what an earlier entry made at `name`. Its directories' pending metadata stays listed and finds nothing."""
        status = os.stat(name, dir_fd=parent.fd, follow_symlinks=False)
        delete_tree(name, dir_fd=parent.fd)
        if stat.S_ISDIR(status.st_mode) or stat.S_ISLNK(status.st_mode):
            self._open.clear()
            self._aliases.clear()
            self._last_name, self._last = b"", self._root

    # -- the layers below

    def _hidden(self, path: bytes) -> bool:
        """Whether this layer hides what the layers below have at `path`."""
        while path and self._opaque:
            if path in self._opaque:
                return True
            path = path.rpartition(b"/")[0]
        return b"" in self._opaque

    def _inherited(self, path: bytes) -> Entry | None:
        found = self._lowers.find(path)
        return None if found is None else _entry_of(found, path)

    # -- the end

    def close(self) -> None:
        """Close all directories, which the traceback of an error would keep open."""
        for directory in (self._root, self._last, *self._open.values()):
            directory.close()

    def finish(self) -> None:
        """Hide what opaque directories hide, then give every directory its metadata."""
        if b"" in self._opaque:
            self._hide_root()
        for path in sorted(self._pending, reverse=True):
            entry, exact = self._pending[path]
            above, _, name = path.rpartition(b"/")
            try:
                self._dress_directory(self._real(above), name, entry, exact, path in self._opaque)
            except OSError as err:
                if err.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                    raise
                continue  # an earlier entry's, replaced by a later one

    def _dress_directory(self, parent: _Directory, name: bytes, entry: Entry, exact: bool, opaque: bool) -> None:
        owned = entry.uid == self._uid and entry.gid == self._gid
        if exact and owned and not opaque and not entry.xattrs:
            os.utime(name, ns=(entry.mtime, entry.mtime), dir_fd=parent.fd, follow_symlinks=False)
            return
        fd = os.open(name or b".", _DIRECTORY, dir_fd=parent.fd)
        try:
            if not owned:
                os.fchown(fd, entry.uid, entry.gid)
            os.fchmod(fd, entry.mode)
            if entry.xattrs:
                set_xattrs(fd, entry.xattrs, shown(entry.name))
            if opaque:
                os.setxattr(fd, OPAQUE, b"y")
            os.utime(fd, ns=(entry.mtime, entry.mtime))
        finally:
            os.close(fd)

    def _hide_root(self) -> None:
        """overlayfs merges the roots of all layers, opaque or not: each name below is deleted instead."""
        for name in self._lowers.names():
            try:
                os.mknod(name, stat.S_IFCHR, 0, dir_fd=self._root.fd)
            except FileExistsError:
                status = os.stat(name, dir_fd=self._root.fd, follow_symlinks=False)
                if stat.S_ISDIR(status.st_mode):
                    self._opaque.add(name)


def _plain_directory(path: bytes) -> Entry:
    """A directory that no entry names and no layer has."""
    return Entry(DIRECTORY, path, 0o755, 0, 0, 0)


def _entry_of(found: Found, name: bytes) -> Entry:
    """The entry that would make a copy of what a layer below has."""
    status = found.status
    kinds = {stat.S_IFDIR: DIRECTORY, stat.S_IFREG: FILE, stat.S_IFLNK: SYMLINK, stat.S_IFIFO: FIFO}
    kinds |= {stat.S_IFCHR: CHARACTER, stat.S_IFBLK: BLOCK_DEVICE}
    kind = kinds[stat.S_IFMT(status.st_mode)]
    entry = Entry(kind, name, stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid, status.st_mtime_ns)
    if kind == SYMLINK:
        entry.link = found.readlink()
    elif kind in (CHARACTER, BLOCK_DEVICE):
        entry.device = (os.major(status.st_rdev), os.minor(status.st_rdev))
    if kind in (FILE, DIRECTORY):
        fd = found.open(os.O_RDONLY)
        try:
            entry.xattrs = read_xattrs(fd)
        finally:
            os.close(fd)
    else:
        entry.xattrs = read_xattrs(found.path())
    return entry


def _umask() -> int:
    """The process's umask; umask(2) can only be asked by changing it, for every thread."""
    with open("/proc/self/status", "rb") as status:
        for line in status:
            if line.startswith(b"Umask:"):
                return int(line[6:], 8)
    return 0o777
