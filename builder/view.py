"""The file tree that a step finds: the merged layers below it, read by paths as a process inside would resolve them.

Every look is one openat2(RESOLVE_IN_ROOT), so no link in an image leads out of it. Paths are bytes without a leading slash; b""
is the root. The tree does not change while it is looked at.
"""

import errno
import os
import stat

from builder.inputs import shown
from store import syscalls
from store.errors import BuildError

LINKS = 40  # as many symlinks as the kernel follows in one path


class View:
    """A directory as the root of an image. The caller closes `root`."""

    __slots__ = ("root",)

    def __init__(self, root: int) -> None:
        self.root = root

    def open(self, path: bytes, flags: int) -> int:
        """Open `path` inside the root; a symlink as the last name is opened itself with O_PATH, else refused."""
        resolve = syscalls.RESOLVE_IN_ROOT | syscalls.RESOLVE_NO_MAGICLINKS
        while True:
            try:
                return syscalls.openat2(self.root, path or b".", flags | os.O_NOFOLLOW, resolve=resolve)
            except OSError as err:
                if err.errno != errno.EAGAIN:
                    raise

    def status(self, path: bytes) -> os.stat_result | None:
        """What lies at `path`, a final symlink not followed; None for nothing."""
        try:
            descriptor = self.open(path, os.O_PATH)
        except OSError as err:
            if err.errno in (errno.ENOENT, errno.ENOTDIR):
                return None
            raise
        try:
            return os.fstat(descriptor)
        finally:
            os.close(descriptor)

    def is_directory(self, path: bytes) -> bool:
        status = self.status(path)
        return status is not None and stat.S_ISDIR(status.st_mode)

    def link(self, path: bytes) -> bytes:
        """The target of the symlink at `path`."""
        descriptor = self.open(path, os.O_PATH)
        try:
            return os.readlink(b"", dir_fd=descriptor)
        finally:
            os.close(descriptor)

    def xattrs(self, path: bytes) -> dict[bytes, bytes] | None:
        """Extended attributes of the directory at `path` that a layer may carry; None for none."""
        from store.attributes import read_xattrs

        descriptor = self.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            return read_xattrs(descriptor)
        finally:
            os.close(descriptor)

    def listing(self, path: bytes) -> list[tuple[bytes, bool]]:
        """Names in the directory at `path`, each with "is a directory"; nothing for what is no directory."""
        try:
            descriptor = self.open(path, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as err:
            if err.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                return []
            raise
        try:
            with os.scandir(descriptor) as entries:
                return [(os.fsencode(entry.name), entry.is_dir(follow_symlinks=False)) for entry in entries]
        finally:
            os.close(descriptor)

    def read(self, path: bytes, limit: int) -> bytes:
        """The bytes of the file that `path` leads to, at most `limit` of them; nothing when it is not there or no file."""
        try:
            real = self.resolve(path)
            descriptor = self.open(real, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
        except (OSError, BuildError):
            return b""
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                return b""
            return os.read(descriptor, limit)
        finally:
            os.close(descriptor)

    def resolve(self, path: bytes, *, last: bool = True) -> bytes:
        """`path` with its symlinks followed (the final one only with `last`): no name in the answer is a symlink.

        What is missing is taken as written; `..` at the root stays there. BuildError for a loop, or a file as a directory.
        """
        todo = [name for name in reversed(path.split(b"/")) if name not in (b"", b".")]
        done: list[bytes] = []
        links = 0
        while todo:
            name = todo.pop()
            if name == b"..":
                del done[-1:]
                continue
            here = b"/".join([*done, name])
            status = self.status(here)
            if status is not None and stat.S_ISLNK(status.st_mode) and (todo or last):
                links += 1
                if links > LINKS:
                    raise BuildError(f"/{shown(path)} goes through more than {LINKS} symbolic links in the image")
                target = self.link(here)
                if target.startswith(b"/"):
                    done = []
                todo += [part for part in reversed(target.split(b"/")) if part not in (b"", b".")]
            elif status is not None and todo and not stat.S_ISDIR(status.st_mode):
                raise BuildError(
                    f"/{shown(here)} is no directory in the image, so /{shown(path)} cannot lie below it",
                    hint="choose another destination, or remove it in an earlier step",
                )
            else:
                done.append(name)
        return b"/".join(done)
