"""Putting files into a tree that somebody else may be changing: the other end of `store.walk`.

Every step is one openat2 from a descriptor that is held, which neither leaves the tree nor follows a symlink. A file is made
under a name of its own and renamed when it is whole: whoever looks sees the old one or the new one, and a hard link's other
names, or what a symlink means, are not written to. A directory is merged into the one that is there.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable

from store.attributes import set_xattrs
from store.directories import Directory
from store.drafts import write_all
from store.errors import BoxError
from store.syscalls import RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS, openat2
from store.tar_read import BLOCK_DEVICE, CHARACTER, DIRECTORY, FIFO, FILE, HARDLINK, SYMLINK, Entry, shown
from store.walk import Owners

Content = Callable[[], memoryview | bytes]
"""The next piece of a file's content; empty at its end."""

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_AS_IT_IS = os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_TYPES = {CHARACTER: stat.S_IFCHR, BLOCK_DEVICE: stat.S_IFBLK, FIFO: stat.S_IFIFO}
_SET_ID = 0o6000
_OPEN_DIRECTORIES = 32


class Placer:
    """Puts members below the directory open as `top`. Close it in any case, after `finish` when all went well.

    With `archive` owners, set-id bits, extended attributes and devices are kept; else everything belongs to this process' user,
    for whom a set-id program of somebody else's making would be a gift with strings, and devices are refused. Where `owners` says
    who users and groups are in the tree, everything else is its root's.
    """

    __slots__ = ("_archive", "_made", "_open", "_owners", "_top")

    def __init__(self, top: int, *, archive: bool, owners: Owners | None = None) -> None:
        self._owners = owners
        self._top = Directory(openat2(top, b".", _DIRECTORY, resolve=RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS), b"")
        self._archive = archive
        self._open: dict[bytes, Directory] = {}
        self._made: dict[bytes, tuple[Entry, tuple[int, int]]] = {}  # directories, with their identity

    def place(self, entry: Entry, content: Content) -> None:
        """Make what `entry` says. BoxError when something else is in its place, OSError for what the kernel refuses."""
        above, _, name = entry.name.rpartition(b"/")
        if name in (b"", b".", b".."):
            return  # the top itself, which is as it is
        parent = self._parent(above)
        kind = entry.kind
        if kind == DIRECTORY:
            self._directory(parent, name, entry)
        elif kind == FILE:
            self._file(parent, name, entry, content)
        else:
            self._other(parent, name, entry)

    def finish(self) -> None:
        """Give the directories that were made here their modes, owners and times."""
        for path in sorted(self._made, reverse=True):
            entry, identity = self._made[path]
            try:
                fd = openat2(self._top.fd, path, _DIRECTORY, resolve=RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS)
            except OSError as err:
                if err.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                    continue  # somebody took it away
                raise
            try:
                status = os.fstat(fd)
                if (status.st_dev, status.st_ino) == identity:
                    self._dress(fd, entry)
            finally:
                os.close(fd)

    def close(self) -> None:
        """Let go of all directories."""
        for directory in (self._top, *self._open.values()):
            directory.close()

    def _parent(self, path: bytes) -> Directory:
        if not path:
            return self._top
        found = self._open.get(path)
        if found is not None:
            return found
        try:
            fd = openat2(self._top.fd, path, _DIRECTORY, resolve=RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS)
        except FileNotFoundError:
            above, _, name = path.rpartition(b"/")  # an archive need not name its directories
            self._directory(self._parent(above), name, Entry(DIRECTORY, path, 0o755, 0, 0, 0))
            fd = openat2(self._top.fd, path, _DIRECTORY, resolve=RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS)
        except OSError as err:
            if err.errno in (errno.ELOOP, errno.ENOTDIR):
                raise BoxError(f"/{shown(path)} is not a directory there, so nothing can be put into it") from err
            raise
        if len(self._open) >= _OPEN_DIRECTORIES:
            del self._open[next(iter(self._open))]  # closed when nobody holds it any more
        directory = self._open[path] = Directory(fd, path)
        return directory

    def _directory(self, parent: Directory, name: bytes, entry: Entry) -> None:
        try:
            os.mkdir(name, 0o700, dir_fd=parent.fd)
        except FileExistsError as err:
            status = os.stat(name, dir_fd=parent.fd, follow_symlinks=False)
            if not stat.S_ISDIR(status.st_mode):
                raise BoxError(f"cannot replace {shown(name)}, which is not a directory, by one") from err
            if self._archive:
                self._made[parent.below(name)] = (entry, (status.st_dev, status.st_ino))
            return
        status = os.stat(name, dir_fd=parent.fd, follow_symlinks=False)
        self._made[parent.below(name)] = (entry, (status.st_dev, status.st_ino))

    def _file(self, parent: Directory, name: bytes, entry: Entry, content: Content) -> None:
        draft = _draft_name()
        fd = os.open(draft, _NEW, 0o600, dir_fd=parent.fd)
        try:
            try:
                while piece := content():
                    write_all(fd, piece)
                self._dress(fd, entry)
                try:
                    os.rename(draft, name, src_dir_fd=parent.fd, dst_dir_fd=parent.fd)
                except OSError as err:
                    if err.errno != errno.EBUSY:
                        raise
                    self._overwrite(parent, name, fd)
                    os.unlink(draft, dir_fd=parent.fd)
            finally:
                os.close(fd)
        except BaseException as err:
            _discard(parent, draft)
            if isinstance(err, IsADirectoryError):
                raise _in_the_way(name, entry) from err
            raise

    def _overwrite(self, parent: Directory, name: bytes, source: int) -> None:
        """A file that is mounted there (a volume of one file) can only be written to, as it is."""
        target = os.open(name, _AS_IT_IS, dir_fd=parent.fd)
        try:
            if not stat.S_ISREG(os.fstat(target).st_mode):
                raise BoxError(f"{shown(name)} is mounted there, and no file")
            os.ftruncate(target, 0)
            offset = 0
            while sent := os.sendfile(target, source, offset, 1 << 30):
                offset += sent
        finally:
            os.close(target)

    def _other(self, parent: Directory, name: bytes, entry: Entry) -> None:
        draft = _draft_name()
        if entry.kind == SYMLINK:
            os.symlink(entry.link, draft, dir_fd=parent.fd)
        elif entry.kind == HARDLINK:
            above, _, target = entry.link.rpartition(b"/")
            os.link(target, draft, src_dir_fd=self._parent(above).fd, dst_dir_fd=parent.fd, follow_symlinks=False)
        elif entry.kind == FIFO or self._archive:
            os.mknod(draft, 0o600 | _TYPES[entry.kind], os.makedev(*entry.device), dir_fd=parent.fd)
        else:
            raise BoxError(f"{shown(entry.name)} is a device", hint="say -a to copy it as one")
        try:
            if entry.kind != HARDLINK:
                self._dress_unopened(parent, draft, entry)
            os.rename(draft, name, src_dir_fd=parent.fd, dst_dir_fd=parent.fd)
        except BaseException as err:
            _discard(parent, draft)
            if isinstance(err, IsADirectoryError):
                raise _in_the_way(name, entry) from err
            raise
        if entry.kind == HARDLINK:
            _discard(parent, draft)  # rename(2) of one name of a file to another of the same does nothing

    def _mode(self, entry: Entry) -> int:
        return entry.mode if self._archive else entry.mode & ~_SET_ID

    def _owner(self, entry: Entry) -> tuple[int, int] | None:
        """Whom to give it to; None for this process' user, whose it is already."""
        if self._owners is None:
            return (entry.uid, entry.gid) if self._archive else None
        return self._owners(entry.uid, entry.gid) if self._archive else self._owners(0, 0)

    def _dress(self, fd: int, entry: Entry) -> None:
        owner = self._owner(entry)
        if owner is not None:
            os.fchown(fd, *owner)
        os.fchmod(fd, self._mode(entry))
        if self._archive and entry.xattrs:
            set_xattrs(fd, entry.xattrs, shown(entry.name))
        os.utime(fd, ns=(entry.mtime, entry.mtime))

    def _dress_unopened(self, parent: Directory, name: bytes, entry: Entry) -> None:
        owner = self._owner(entry)
        if owner is not None:
            os.chown(name, *owner, dir_fd=parent.fd, follow_symlinks=False)
        if entry.kind != SYMLINK:
            _chmod_unopened(parent, name, self._mode(entry))
        if self._archive and entry.xattrs:
            set_xattrs(parent.named(name), entry.xattrs, shown(entry.name))
        os.utime(name, ns=(entry.mtime, entry.mtime), dir_fd=parent.fd, follow_symlinks=False)


def _chmod_unopened(parent: Directory, name: bytes, mode: int) -> None:
    """chmod of a FIFO or device just made: by a descriptor that means this very one, whatever becomes of its name."""
    fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent.fd)
    try:
        if not stat.S_ISLNK(os.fstat(fd).st_mode):
            os.chmod(f"/proc/self/fd/{fd}", mode)
    finally:
        os.close(fd)


def _draft_name() -> bytes:
    return b".box-%s" % os.urandom(8).hex().encode()


def _discard(parent: Directory, draft: bytes) -> None:
    try:
        os.unlink(draft, dir_fd=parent.fd)
    except OSError:
        pass  # renamed, or gone


def _in_the_way(name: bytes, entry: Entry) -> BoxError:
    return BoxError(f"cannot replace the directory {shown(name)} by what is none: {shown(entry.name)}")
