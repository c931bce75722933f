"""What a file step changes, decided as a value before anything is written, then written as an overlay's upper directory.

A `Changeset` maps paths (bytes, no leading slash) to nodes. It is built against the `View` below the step, which it only reads:
a directory that exists keeps its mode and owner, a symlink to a directory is followed, missing parents come into being as root's
0755.
"""

import errno
import os
import stat
from typing import Protocol

from builder.inputs import CHUNK, shown
from builder.view import View
from store.errors import BuildError


class Source(Protocol):
    """Where a file's bytes come from."""

    def open(self) -> int:
        """A descriptor at the file's beginning."""

    def check(self, descriptor: int) -> None:
        """Raise BuildError when the file changed since it was listed; called when all of it was read."""


class Node:
    """One changed entry. `kind` is directory, file, symlink or whiteout; a file's bytes are `content` or come from `source`."""

    __slots__ = ("content", "gid", "kind", "mode", "source", "target", "uid", "xattrs")

    def __init__(
        self,
        kind: str,
        mode: int = 0,
        uid: int = 0,
        gid: int = 0,
        *,
        content: bytes = b"",
        source: Source | None = None,
        target: bytes = b"",
        xattrs: dict[str, bytes] | None = None,
    ) -> None:
        self.kind = kind
        self.mode = mode
        self.uid = uid
        self.gid = gid
        self.content = content
        self.source = source
        self.target = target
        self.xattrs = xattrs


def parent(path: bytes) -> bytes:
    return path.rpartition(b"/")[0]


class Changeset:
    """The entries that differ from `view`, by path. A later `put` of a path replaces the earlier one."""

    __slots__ = ("nodes", "view")

    def __init__(self, view: View) -> None:
        self.view = view
        self.nodes: dict[bytes, Node] = {}

    def is_directory(self, path: bytes) -> bool:
        """Whether a directory is at `path` (which holds no symlinks) once this changeset is applied."""
        node = self.nodes.get(path)
        if node is not None:
            return node.kind == "directory"
        return not path or self.view.is_directory(path)

    def put(self, path: bytes, node: Node) -> None:
        """Place a file or symlink at `path`, where no name but the last is a symlink; that is replaced, a directory is not."""
        if self.is_directory(path):
            raise BuildError(
                f"/{shown(path)} is a directory in the image and would be replaced by a {node.kind}",
                hint=f"to put it inside, write the destination as /{shown(path)}/; to replace it, remove it in an earlier step",
            )
        self.make_parents(path)
        self.nodes[path] = node

    def directory(self, path: bytes, mode: int = 0o755, uid: int = 0, gid: int = 0) -> bytes:
        """See that `path` is a directory; only a new one gets this mode and owner. Returns where it really lies.

        `path` may end in a symlink to a directory, which is followed.
        """
        if path in self.nodes:
            if self.nodes[path].kind == "directory":
                return path
            raise _in_the_way(path, self.nodes[path].kind)
        status = self.view.status(path)
        if status is not None and stat.S_ISLNK(status.st_mode):
            path = self.view.resolve(path)
            status = self.view.status(path)
        if status is None:
            self.make_parents(path)
            self.nodes[path] = Node("directory", mode, uid, gid)
        elif not stat.S_ISDIR(status.st_mode):
            raise _in_the_way(path, "file")
        return path

    def own_directory(self, path: bytes, mode: int | None, owner: tuple[int, int] | None) -> None:
        """Like `directory`, and what is given of mode and owner holds for one that exists already, too."""
        real = self.directory(path, 0o755 if mode is None else mode, *(owner or (0, 0)))
        if real not in self.nodes:
            self._carry(real)
        node = self.nodes[real]
        node.mode = node.mode if mode is None else mode
        node.uid, node.gid = owner or (node.uid, node.gid)

    def make_parents(self, path: bytes) -> None:
        """See that the directories above `path` are there, as root's 0755 where they are missing."""
        above = parent(path)
        if not above or (above in self.nodes and self.nodes[above].kind == "directory"):
            return
        if above in self.nodes:
            raise _in_the_way(above, self.nodes[above].kind)
        status = self.view.status(above)
        self.make_parents(above)
        if status is None:
            self.nodes[above] = Node("directory", 0o755)
        elif stat.S_ISDIR(status.st_mode):
            self._carry(above)
        else:
            raise _in_the_way(above, "file")

    def _carry(self, path: bytes) -> None:
        """List a directory of the view as it is: an overlay shows the metadata of the topmost."""
        status = self.view.status(path)
        if status is None or not stat.S_ISDIR(status.st_mode):
            raise _in_the_way(path, "file")
        self.make_parents(path)
        mode = stat.S_IMODE(status.st_mode)
        self.nodes[path] = Node("directory", mode, status.st_uid, status.st_gid, xattrs=self.view.xattrs(path))

    def remove(self, path: bytes) -> None:
        """Take away what the view has at `path`, and all below it."""
        above = parent(path)
        while above:
            if above in self.nodes and self.nodes[above].kind == "whiteout":
                return
            above = parent(above)
        self.make_parents(path)
        for below in [other for other in self.nodes if other.startswith(path + b"/")]:
            del self.nodes[below]
        self.nodes[path] = Node("whiteout")

    def write(self, upper: int) -> None:
        """Create the entries in the empty directory `upper`, and give that the metadata of the view's root.

        Modes and owners are as listed whatever the umask; times are the packer's. On error `upper` is to be thrown away.
        """
        for path in sorted(self.nodes):
            try:
                _create(upper, path, self.nodes[path])
            except OSError as err:
                raise BuildError(f"cannot write /{shown(path)}: {os.strerror(err.errno or 0).lower()}") from err
        root = self.view.status(b"")
        if root is not None:
            os.fchown(upper, root.st_uid, root.st_gid)
            os.fchmod(upper, stat.S_IMODE(root.st_mode))


def _in_the_way(path: bytes, kind: str) -> BuildError:
    return BuildError(
        f"/{shown(path)} is a {kind} in the image, where a directory is needed",
        hint="choose another destination, or remove it in an earlier step",
    )


def _create(upper: int, path: bytes, node: Node) -> None:
    if node.kind == "file":
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=upper)
        try:
            if node.source is None:
                _write_all(descriptor, node.content)
            else:
                _copy(node.source, descriptor)
            if node.uid or node.gid:
                os.fchown(descriptor, node.uid, node.gid)
            os.fchmod(descriptor, node.mode)  # after chown, which takes set-id bits away
        finally:
            os.close(descriptor)
    elif node.kind == "directory":
        os.mkdir(path, 0o700, dir_fd=upper)
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=upper)
        try:
            if node.uid or node.gid:
                os.fchown(descriptor, node.uid, node.gid)
            os.fchmod(descriptor, node.mode)
            for name, value in (node.xattrs or {}).items():
                os.setxattr(descriptor, name, value)
        finally:
            os.close(descriptor)
    elif node.kind == "symlink":
        os.symlink(node.target, path, dir_fd=upper)
        if node.uid or node.gid:
            os.chown(path, node.uid, node.gid, dir_fd=upper, follow_symlinks=False)
    else:
        os.mknod(path, stat.S_IFCHR | 0o000, os.makedev(0, 0), dir_fd=upper)


def _write_all(descriptor: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]


def _copy(source: Source, target: int) -> None:
    origin = source.open()
    try:
        data = os.read(origin, CHUNK)
        _write_all(target, data)
        while len(data) == CHUNK and _copy_rest(origin, target):
            pass
        source.check(origin)
    finally:
        os.close(origin)


def _copy_rest(origin: int, target: int) -> int:
    """Copy up to 1 GiB on within the kernel, which shares the blocks where the file system can; 0 at the end."""
    try:
        return os.copy_file_range(origin, target, 1 << 30)
    except OSError as err:
        if err.errno not in (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM):
            raise
    data = os.read(origin, CHUNK)
    _write_all(target, data)
    return len(data)
