"""What lies below the layer that is being unpacked: its parents' trees, seen merged as overlayfs would show them.

Read only, by descriptors, following nothing.
"""

import os
import stat
from collections.abc import Sequence

from store.attributes import OPAQUE

_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def is_whiteout(status: os.stat_result) -> bool:
    """Whether this is overlayfs' mark of a deleted name."""
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def make_whiteout(name: bytes, directory: int) -> None:
    """Make such a mark. On overlayfs there can be none, nor trees to be stacked: what only the `copy` driver reads is marked by a
    socket there, which no layer has."""
    try:
        os.mknod(name, stat.S_IFCHR, 0, dir_fd=directory)
    except PermissionError:
        os.mknod(name, stat.S_IFSOCK, dir_fd=directory)


def is_mark(status: os.stat_result) -> bool:
    """Whether this is what make_whiteout makes, in a tree that is being unpacked."""
    return is_whiteout(status) or stat.S_ISSOCK(status.st_mode)


class Found:
    """A name in one of the trees: `directory` is the descriptor of what holds it, and lives as long as this does."""

    __slots__ = ("directory", "name", "status")

    def __init__(self, directory: int, name: bytes, status: os.stat_result) -> None:
        self.directory = directory
        self.name = name
        self.status = status

    def open(self, flags: int) -> int:
        """Open it, without following it and without waiting for the other end of a FIFO."""
        flags |= os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        return os.open(self.name or b".", flags, dir_fd=self.directory)

    def readlink(self) -> bytes:
        return os.readlink(self.name, dir_fd=self.directory)

    def path(self) -> bytes:
        """A name for calls that know no descriptors; its last part is not to be followed."""
        return b"/proc/self/fd/%d/%s" % (self.directory, self.name)

    def __del__(self) -> None:
        os.close(self.directory)


class Lowers:
    """The trees of the parents, the topmost first."""

    __slots__ = ("_trees",)

    def __init__(self, trees: Sequence[str]) -> None:
        self._trees = trees

    def find(self, path: bytes) -> Found | None:
        """What the merged trees have at `path`, of which no part but the last may be a symlink."""
        *parents, name = path.split(b"/") if path else [b""]
        for tree in self._trees:
            found, ends = _find(tree, parents, name)
            if found is not None or ends:
                return found
        return None

    def names(self) -> set[bytes]:
        """The names in the merged root."""
        shown: set[bytes] = set()
        hidden: set[bytes] = set()
        for tree in self._trees:
            directory = os.open(tree, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                with os.scandir(directory) as entries:
                    for entry in entries:
                        name = os.fsencode(entry.name)
                        if is_whiteout(entry.stat(follow_symlinks=False)):
                            hidden.add(name)
                        elif name not in hidden:
                            shown.add(name)
            finally:
                os.close(directory)
        return shown


def _find(tree: str, parents: list[bytes], name: bytes) -> tuple[Found | None, bool]:
    """What one tree has there, and whether it hides the trees below it."""
    here = os.open(tree, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    opaque = False
    try:
        for part in parents:
            try:
                below = os.open(part, _DIRECTORY, dir_fd=here)
            except FileNotFoundError:
                return None, opaque
            except OSError:
                return None, True  # something else has this name, so nothing is below it
            os.close(here)
            here = below
            opaque = opaque or _is_opaque(here)
        try:
            status = os.stat(name or b".", dir_fd=here, follow_symlinks=False)
        except FileNotFoundError:
            return None, opaque
        if is_whiteout(status):
            return None, True
        found = Found(here, name, status)
        here = -1
        return found, True
    finally:
        if here >= 0:
            os.close(here)


def _is_opaque(directory: int) -> bool:
    try:
        return os.getxattr(f"/proc/self/fd/{directory}", OPAQUE) == b"y"
    except OSError:
        return False
