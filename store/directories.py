"""The directories of a tree that is being unpacked: found without following anything, made where missing, dressed at the end.

They know the layers below, too: whose symlinks lead on, whose directories a missing parent is a copy of, what is hidden of them.
"""

import errno
import os
import stat

from store.attributes import OPAQUE, read_xattrs, set_xattrs
from store.errors import ArchiveError
from store.lowers import Found, Lowers, is_mark, make_whiteout
from store.syscalls import RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS, openat2
from store.tar_read import BLOCK_DEVICE, CHARACTER, DIRECTORY, FIFO, FILE, SYMLINK, Entry, shown
from store.trees import delete_tree

WHITEOUT = b".wh."
LINK_DEPTH = 40  # as in the kernel
OPEN_DIRECTORIES = 128

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NO_LINKS = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS


class Directory:
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


class Directories:
    """The directories of the tree open as `tree`, on top of `lowers`: to be finished when all is unpacked, closed in any case."""

    __slots__ = (
        "_aliases", "_last", "_last_name", "_lowers", "_marks", "_opaque", "_open", "_pending", "_replaced", "_root",
        "_whiteouts", "gid", "uid", "umasked",
    )  # fmt: skip

    def __init__(self, tree: int, lowers: Lowers, opaque: set[bytes] | None = None) -> None:
        """`opaque`, where given, is told of opaque directories, in place of a mark on them."""
        self._root = Directory(os.dup(tree), b"")
        self._lowers = lowers
        self._open: dict[bytes, Directory] = {}  # by real path
        self._aliases: dict[bytes, bytes] = {}  # names that lead through a symlink, to real paths
        self._last_name = b""
        self._last = self._root
        # Modes, owners, times and attributes of directories come last: what is made inside a directory would change its time,
        # and inherit its set-gid bit and default ACL. True: its mode is right already.
        self._pending: dict[bytes, tuple[Entry, bool]] = {}
        self._opaque: set[bytes] = set() if opaque is None else opaque
        self._marks = opaque is None
        self._whiteouts: set[bytes] = set()
        self._replaced = False  # a directory by something else: a pending entry may then be of what is no directory
        self.umasked = _umask() | 0o7000  # mode bits that creation does not give
        self.uid, self.gid = os.geteuid(), os.getegid()
        os.fchmod(tree, 0o700)
        found = lowers.find(b"")
        self._pending[b""] = (plain_directory(b"") if found is None else entry_of(found, b""), False)

    def parent(self, name: bytes) -> Directory:
        """The directory that an archive's `name` means; made where it is missing."""
        if name == self._last_name:
            return self._last
        try:
            directory = self._real(self._aliases.get(name, name))
        except OSError:  # something on the way is missing, or is no directory
            directory = self._walk(name)
            if directory.path != name:
                self._aliases[name] = directory.path
        self._last_name, self._last = name, directory
        return directory

    def _real(self, path: bytes) -> Directory:
        """The directory whose real path is `path`; OSError when there is none, or a symlink is on the way."""
        found = self._open.get(path) if path else self._root
        if found is None:
            found = self._remember(openat2(self._root.fd, path, _DIRECTORY, resolve=_NO_LINKS), path)
        return found

    def _walk(self, name: bytes) -> Directory:
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
            if isinstance(below, Directory):
                here = below
                continue
            links += 1
            if links > LINK_DEPTH:
                raise ArchiveError(f"too many symbolic links: {shown(name)}")
            if below.startswith(b"/"):
                here = self._root
            todo.extend(below.split(b"/")[::-1])
        return here

    def _step(self, here: Directory, name: bytes) -> Directory | bytes:
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
            lower = self.lower(path)
            if lower is not None and stat.S_ISLNK(lower.status.st_mode):
                return lower.readlink()
            if lower is not None and not stat.S_ISDIR(lower.status.st_mode):
                raise ArchiveError(f"a file has entries below it: {shown(path)}") from None
            entry = plain_directory(path) if lower is None else entry_of(lower, path)
        except NotADirectoryError as err:
            status = os.stat(name, dir_fd=here.fd, follow_symlinks=False)
            if stat.S_ISLNK(status.st_mode):
                return os.readlink(name, dir_fd=here.fd)
            if not is_mark(status):
                raise ArchiveError(f"a file has entries below it: {shown(path)}") from err
            entry = plain_directory(path)
        self.make(here, name, entry)
        return self._remember(os.open(name, _DIRECTORY, dir_fd=here.fd), path)

    def _remember(self, fd: int, path: bytes) -> Directory:
        if len(self._open) >= OPEN_DIRECTORIES:
            del self._open[next(iter(self._open))]
        directory = self._open[path] = Directory(fd, path)
        return directory

    def clear(self, parent: Directory, name: bytes) -> None:
        """Take away what an earlier entry made at `name`. Its directories' pending metadata stays listed and finds nothing."""
        status = os.stat(name, dir_fd=parent.fd, follow_symlinks=False)
        delete_tree(name, dir_fd=parent.fd)
        if stat.S_ISDIR(status.st_mode) or stat.S_ISLNK(status.st_mode):
            self._replaced = True
            self._open.clear()
            self._aliases.clear()
            self._last_name, self._last = b"", self._root

    def make(self, parent: Directory, name: bytes, entry: Entry) -> None:
        """Make the directory that `entry` says, or let one that is there already be what it says."""
        if not name:
            self._pending[b""] = (entry, False)
            return
        try:
            os.mkdir(name, entry.mode & 0o777, dir_fd=parent.fd)
            exact = not entry.mode & self.umasked
        except FileExistsError:
            status = os.stat(name, dir_fd=parent.fd, follow_symlinks=False)
            if not stat.S_ISDIR(status.st_mode):
                self.clear(parent, name)
                os.mkdir(name, 0o700, dir_fd=parent.fd)
                self._opaque.add(parent.below(name))  # what was there, a whiteout or a file, has hidden what is below
            exact = False
        self._pending[parent.below(name)] = (entry, exact)

    def _is_hidden(self, path: bytes) -> bool:
        """Whether this layer hides what the layers below have at `path`."""
        while path and self._opaque:
            if path in self._opaque:
                return True
            path = path.rpartition(b"/")[0]
        return b"" in self._opaque

    def lower(self, path: bytes) -> Found | None:
        """What the layers below have at `path` that this one does not hide."""
        return None if self._is_hidden(path) else self._lowers.find(path)

    def hide(self, path: bytes) -> None:
        """Let the directory whose real path is `path` hide what the layers below have in it."""
        self._opaque.add(path)

    def whiteout(self, parent: Directory, name: bytes) -> None:
        """Let `name` in `parent`, where nothing has it yet, hide what the layers below have there."""
        make_whiteout(name, parent.fd)
        self._whiteouts.add(parent.below(name))

    def close(self) -> None:
        """Close all directories, which the traceback of an error would keep open."""
        for directory in (self._root, self._last, *self._open.values()):
            directory.close()

    def finish(self) -> None:
        """Hide what opaque directories hide, then give every directory its metadata."""
        self._drop_idle_whiteouts()
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

    def _dress_directory(self, parent: Directory, name: bytes, entry: Entry, exact: bool, opaque: bool) -> None:
        owned = entry.uid == self.uid and entry.gid == self.gid
        if exact and owned and not opaque and not entry.xattrs and not self._replaced:
            os.utime(name, ns=(entry.mtime, entry.mtime), dir_fd=parent.fd, follow_symlinks=False)
            return
        fd = os.open(name or b".", _DIRECTORY, dir_fd=parent.fd)
        try:
            if not owned:
                os.fchown(fd, entry.uid, entry.gid)
            os.fchmod(fd, entry.mode)
            if entry.xattrs:
                set_xattrs(fd, entry.xattrs, shown(entry.name))
            if opaque and self._marks:
                os.setxattr(fd, OPAQUE, b"y")
            os.utime(fd, ns=(entry.mtime, entry.mtime))
        finally:
            os.close(fd)

    def _drop_idle_whiteouts(self) -> None:
        """overlayfs lists a whiteout that hides nothing, in a directory that only one layer has, as a name without a file."""
        for path in self._whiteouts:
            if self.lower(path) is None:
                above, _, name = path.rpartition(b"/")
                try:
                    parent = self._real(above)
                    if is_mark(os.stat(name, dir_fd=parent.fd, follow_symlinks=False)):
                        os.unlink(name, dir_fd=parent.fd)
                except OSError as err:
                    if err.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                        raise  # else a later entry has replaced it

    def _hide_root(self) -> None:
        """overlayfs merges the roots of all layers, opaque or not: each name below is deleted instead."""
        for name in self._lowers.names():
            try:
                make_whiteout(name, self._root.fd)
            except FileExistsError:
                status = os.stat(name, dir_fd=self._root.fd, follow_symlinks=False)
                if stat.S_ISDIR(status.st_mode):
                    self._opaque.add(name)


def plain_directory(path: bytes) -> Entry:
    """A directory that no entry names and no layer has."""
    return Entry(DIRECTORY, path, 0o755, 0, 0, 0)


def entry_of(found: Found, name: bytes) -> Entry:
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
