"""Walking a tree from the descriptor of its top: what diff, export and cp see of an image or a container.

Every step goes from a descriptor through one openat2 that leaves neither the tree nor follows a symlink, so whoever exchanges
names meanwhile changes what is seen, and never where. What is gone when it is come to is passed over.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Collection, Iterable, Iterator

from store.attributes import read_xattrs
from store.errors import StoreError
from store.syscalls import RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS, openat2
from store.tar_read import BLOCK_DEVICE, CHARACTER, DIRECTORY, FIFO, FILE, HARDLINK, SYMLINK, Entry, shown

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# A FIFO in a file's place must not be waited for, a terminal must not become ours.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
# What a name that somebody exchanged for another, or took away, answers (EINVAL: to readlink).
GONE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ESTALE, errno.EINVAL})
_KINDS = {
    stat.S_IFREG: FILE, stat.S_IFDIR: DIRECTORY, stat.S_IFLNK: SYMLINK, stat.S_IFCHR: CHARACTER, stat.S_IFBLK: BLOCK_DEVICE,
    stat.S_IFIFO: FIFO,
}  # fmt: skip

NOWHERE: Collection[int] = frozenset()


def open_below(top: int, path: bytes, flags: int = _DIRECTORY) -> int:
    """Open `path` below `top` (b"" is `top` itself); no part of it is a symlink, or ELOOP. A directory, unless `flags` differ."""
    try:
        return openat2(top, path or b".", flags, resolve=RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS)
    except OSError as err:
        if err.errno == errno.ENAMETOOLONG:
            raise StoreError(f"a path of more than 4095 bytes: /{shown(path)}") from err
        raise


Owners = Callable[[int, int], tuple[int, int]]
"""What a user and a group are elsewhere: in another user namespace."""


class Node:
    """A name of a walked tree: `directory` and `name` lead to it until the walk goes on; `path` is from the top, which is b""."""

    __slots__ = ("directory", "name", "path", "status")

    def __init__(self, directory: int, name: bytes, path: bytes, status: os.stat_result) -> None:
        self.directory = directory
        self.name = name
        self.path = path
        self.status = status

    @property
    def kind(self) -> bytes:
        """As an Entry has it (FILE, ...); empty for a socket, which no archive can hold."""
        return _KINDS.get(stat.S_IFMT(self.status.st_mode), b"")

    def open(self) -> int:
        """The file, to be read. FileNotFoundError when it is gone, or no file any more."""
        try:
            descriptor = os.open(self.name, _FILE, dir_fd=self.directory)
        except OSError as err:
            if err.errno in (errno.ELOOP, errno.ENXIO, errno.ESTALE):
                raise FileNotFoundError(errno.ENOENT, "replaced while it was read", self.path) from err
            raise
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            return descriptor
        os.close(descriptor)
        raise FileNotFoundError(errno.ENOENT, "replaced while it was read", self.path)

    def readlink(self) -> bytes:
        """The symlink's target."""
        return os.readlink(self.name, dir_fd=self.directory)

    def xattrs(self) -> dict[bytes, bytes] | None:
        """Those that a layer may carry; None for none."""
        return read_xattrs(b"/proc/self/fd/%d/%s" % (self.directory, self.name))

    def entry(self, name: bytes) -> Entry:
        """As a member of an archive, called `name` there. Its content is to be read from `open`."""
        status = self.status
        entry = Entry(self.kind, name, stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid, status.st_mtime_ns)
        if entry.kind == FILE:
            entry.size = status.st_size
        elif entry.kind == SYMLINK:
            entry.mode = 0o777
            entry.link = self.readlink()
        elif entry.kind in (CHARACTER, BLOCK_DEVICE):
            entry.device = (os.major(status.st_rdev), os.minor(status.st_rdev))
        entry.xattrs = self.xattrs()
        return entry


def listing(directory: int, path: bytes, only: Iterable[bytes] | None = None) -> list[Node]:
    """What is in the open directory whose path is `path`, in the order of the names' bytes; of `only` these, where given."""
    prefix = path + b"/" if path else b""
    if only is None:
        with os.scandir(directory) as entries:
            only = [os.fsencode(entry.name) for entry in entries]
    found = []
    for name in sorted(only):
        try:
            status = os.stat(name, dir_fd=directory, follow_symlinks=False)
        except OSError as err:
            if err.errno not in GONE:
                raise
            continue  # gone meanwhile, or a whiteout that overlayfs lists where nothing is below it
        found.append(Node(directory, name, prefix + name, status))
    return found


def walk(top: int, *, avoid: Collection[int] = NOWHERE) -> Iterator[Node]:
    """Every name below the directory open as `top`, which comes first, as b"".

    A directory comes before what is in it, its other entries, sorted by bytes, before its directories. Of a file system whose
    number is one of `avoid` nothing is seen but its root.
    """
    todo = [b""]
    while todo:
        path = todo.pop()
        try:
            directory = open_below(top, path)
        except OSError as err:
            if err.errno not in GONE or not path:
                raise
            continue
        try:
            status = os.fstat(directory)
            yield Node(directory, b".", path, status)
            if status.st_dev in avoid:
                continue
            directories = []
            for node in listing(directory, path):
                if stat.S_ISDIR(node.status.st_mode):
                    directories.append(node.path)
                else:
                    yield node
            todo.extend(reversed(directories))
        finally:
            os.close(directory)


def members(
    nodes: Iterator[Node], rename: Callable[[bytes], bytes], skipped: Callable[[Node], None], owners: Owners | None = None
) -> Iterator[tuple[Entry, Node]]:
    """The nodes as members of one archive, each called as `rename` says of its path; a second name of a file is a HARDLINK to
    the first. Sockets are told to `skipped`, and what is gone is left out. `owners` says whose a user's and a group's files are
    in the archive."""
    links: dict[tuple[int, int], bytes] = {}
    for node in nodes:
        if not node.kind:
            skipped(node)
            continue
        name = rename(node.path)
        try:
            entry = node.entry(name)
        except OSError as err:
            if err.errno not in GONE:
                raise
            continue
        if node.status.st_nlink > 1 and entry.kind != DIRECTORY:
            first = links.setdefault((node.status.st_dev, node.status.st_ino), name)
            if first != name:
                entry.kind, entry.link, entry.size = HARDLINK, first, 0
        if owners is not None:
            entry.uid, entry.gid = owners(entry.uid, entry.gid)
        yield entry, node
